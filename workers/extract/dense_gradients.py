"""Dense layers, and parameters that are added, multiplied or repeated without a layer of their own.

B images, T tokens, O outputs, I inputs, R rows and K columns of a sketch, x any number of further axes
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.extract.derived_parameters import Placed
from workers.extract.gradient_tape import GradientTape


def linear(tape: GradientTape, input_BxI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``, for any number of axes between images and inputs."""
    weight, bias = tape.wanted(weight_OI), tape.wanted(bias_O)
    tape.require_images_first(input_BxI, weight, bias)
    output_BxO = functional.linear(input_BxI, weight_OI.detach(), None if bias_O is None else bias_O.detach())
    kept_BxK = input_BxI.detach() if weight is None else tape.signs_of(weight).inputs(weight, input_BxI.detach())
    kept_BTK = _tokens(tape, kept_BxK)

    def contribution(gradient_BxO: Tensor) -> dict[str, Tensor]:
        found = {}
        if weight is not None:
            rows_BTR = _tokens(tape, tape.signs_of(weight).outputs(weight, gradient_BxO))
            found[weight] = torch.bmm(rows_BTR.transpose(1, 2), kept_BTK).flatten(1)
        if bias is not None:
            found[bias] = tape.signs_of(bias).vector(bias, _tokens(tape, gradient_BxO).sum(1))
        return found

    return tape.watch(output_BxO, contribution, "linear", weight, bias)


def matmul(tape: GradientTape, input_BxI: Tensor, weight_IO: Tensor) -> Tensor:
    """``torch.matmul`` of images and a matrix: a dense layer whose weight lies the other way round."""
    key = tape.name_of(weight_IO)
    if key is None or weight_IO.dim() != 2:
        known = str(key or tape.name_of(input_BxI))
        raise tape.unsupported(known, "a product is known only of images with one matrix")
    return linear(tape, input_BxI, tape.derive(torch.t, weight_IO))


def add(tape: GradientTape, first: Any, second: Any, *, alpha: Any = 1) -> Tensor:
    """Add a parameter to a tensor that has the images first, for instance a position embedding."""
    if alpha != 1:
        raise tape.unsupported(str(tape.name_of(first) or tape.name_of(second)), "a scaled sum of it is not known")
    parameter, other, name = _operands(tape, first, second)
    output: Tensor = other + parameter.detach()
    tape.require_images_first(output, name)
    return tape.watch(output, _broadcast(tape, name, parameter, lambda gradient: gradient), "add", name)


def add_(tape: GradientTape, images: Tensor, parameter: Tensor) -> Tensor:
    """``add`` in place."""
    name = _only_second(tape, images, parameter)
    images.add_(parameter.detach())
    tape.require_images_first(images, name)
    return tape.watch(images, _broadcast(tape, name, parameter, lambda gradient: gradient), "add", name)


def sub(tape: GradientTape, first: Any, second: Any) -> Tensor:
    """Subtract a parameter, or from a parameter."""
    if tape.name_of(second) is not None:
        return add(tape, first, tape.derive(torch.neg, second))
    return add(tape, first, -second)


def mul(tape: GradientTape, first: Any, second: Any) -> Tensor:
    """Multiply a tensor that has the images first by a parameter, for instance a layer scale."""
    parameter, other, name = _operands(tape, first, second)
    output: Tensor = other * parameter.detach()
    tape.require_images_first(output, name)
    values = other.detach() if isinstance(other, Tensor) else other
    return tape.watch(output, _broadcast(tape, name, parameter, lambda gradient: gradient * values), "mul", name)


def mul_(tape: GradientTape, images: Tensor, parameter: Tensor) -> Tensor:
    """``mul`` in place."""
    name = _only_second(tape, images, parameter)
    values = images.detach().clone()
    images.mul_(parameter.detach())
    tape.require_images_first(images, name)
    return tape.watch(images, _broadcast(tape, name, parameter, lambda gradient: gradient * values), "mul", name)


def div(tape: GradientTape, first: Any, second: Any) -> Tensor:
    """Divide by a parameter, or a parameter."""
    if tape.name_of(second) is not None:
        return mul(tape, first, tape.derive(torch.reciprocal, second))
    return mul(tape, first, 1 / second)


def addcmul(tape: GradientTape, first: Tensor, second: Tensor, third: Tensor, *, value: Any = 1) -> Tensor:
    """``first + value * second * third``, whichever of the three are parameters."""

    def is_parameter(tensor: Tensor) -> bool:
        return tape.name_of(tensor) is not None

    def combined(rule: Callable[..., Tensor], func: Callable[..., Tensor], one: Any, other: Any) -> Tensor:
        if is_parameter(one) and is_parameter(other):
            both: Tensor = tape.derive(func, one, other)
            return both
        return rule(tape, one, other) if is_parameter(one) or is_parameter(other) else func(one, other)

    product = combined(mul, torch.mul, second, third)
    if value != 1:
        product = tape.derive(torch.mul, product, value) if is_parameter(product) else product * value
    return combined(add, torch.add, first, product)


def prelu(tape: GradientTape, input_BCx: Tensor, weight_C: Tensor) -> Tensor:
    """``torch.nn.functional.prelu``."""
    shape = (1, -1, *(1,) * (input_BCx.dim() - 2)) if weight_C.numel() > 1 else (1,)
    negative_BCx = mul(tape, functional.relu(-input_BCx), tape.derive(torch.reshape, weight_C, shape))
    return functional.relu(input_BCx) - negative_BCx


def expand(tape: GradientTape, parameter: Tensor, *sizes: Any) -> Tensor:
    """Repeat a parameter for each image, for instance a class token."""
    wanted = tuple(sizes[0]) if isinstance(sizes[0], (list, tuple)) else sizes
    return _for_each_image(tape, Tensor.expand, parameter, wanted)


def repeat(tape: GradientTape, parameter: Tensor, *sizes: Any) -> Tensor:
    """``expand`` by copying."""
    wanted = tuple(sizes[0]) if isinstance(sizes[0], (list, tuple)) else sizes
    return _for_each_image(tape, Tensor.repeat, parameter, wanted)


def expand_as(tape: GradientTape, parameter: Tensor, other: Tensor) -> Tensor:
    """Repeat a parameter as often as another tensor needs it."""
    return _for_each_image(tape, Tensor.expand, parameter, tuple(other.shape))


def _for_each_image(
    tape: GradientTape, func: Callable[..., Tensor], parameter: Tensor, sizes: tuple[int, ...]
) -> Tensor:
    """Make a parameter into something for each image, or into something else that is still the same for all."""
    is_one = len(sizes) > parameter.dim() or (parameter.dim() > 0 and len(parameter) == 1)
    if sizes[0] != tape.batch_size or not is_one:
        found: Tensor = tape.derive(func, parameter, *sizes)
        return found
    within = tape.derive(func, parameter, *((1, *sizes[1:]) if len(sizes) == parameter.dim() else sizes[1:]))
    name = tape.wanted(within)
    output = within.detach().expand(sizes[0], *within.shape[len(sizes) == parameter.dim() :]).clone()
    return tape.watch(output, _broadcast(tape, name, within, lambda gradient: gradient), "expand", name)


def _operands(tape: GradientTape, first: Any, second: Any) -> tuple[Tensor, Any, str | None]:
    """Tell the parameter of two operands from the other one."""
    if tape.name_of(first) is None:
        return second, first, tape.wanted(second)
    return first, second, tape.wanted(first)


def _only_second(tape: GradientTape, images: Tensor, parameter: Tensor) -> str | None:
    changed = tape.name_of(images)
    if changed is not None:
        raise tape.unsupported(changed, "images change it in place")
    return tape.wanted(parameter)


def _broadcast(
    tape: GradientTape, name: str | None, parameter: Tensor, local: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], dict[str, Tensor | Placed]]:
    """Sum each image's gradient over the axes along which the parameter was repeated."""
    lengths = [length for length in parameter.shape if length > 1]

    def contribution(gradient_Bx: Tensor) -> dict[str, Tensor | Placed]:
        key = str(name)
        local_Bx = local(gradient_Bx)
        shape = (1,) * (local_Bx.dim() - parameter.dim()) + tuple(parameter.shape)
        repeated = [axis for axis in range(1, local_Bx.dim()) if shape[axis] == 1 and local_Bx.shape[axis] > 1]
        if repeated:
            local_Bx = local_Bx.sum(repeated, keepdim=True)
        if shape[0] > 1:
            return {key: Placed(local_Bx.reshape(parameter.shape))}
        local_Bx = local_Bx.reshape(tape.batch_size, -1, *local_Bx.shape[1:]).sum(1)
        if len(lengths) < 2:
            return {key: tape.signs_of(key).vector(key, local_Bx.flatten(1))}
        return {key: tape.signs_of(key).table(key, local_Bx.reshape(len(local_Bx), lengths[0], -1))}

    return contribution


def _tokens(tape: GradientTape, tensor_Bx: Tensor) -> Tensor:
    return tensor_Bx.reshape(tape.batch_size, -1, tensor_Bx.shape[-1])
