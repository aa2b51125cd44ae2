"""Dense layers, and parameters that are added, multiplied or repeated without a layer of their own.

B images, T tokens, O outputs, I inputs, R rows and K columns of a sketch, x any number of further axes
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.extract.gradient_tape import GradientTape


def linear(tape: GradientTape, input_BxI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``, for any number of axes between images and inputs."""
    weight, bias = tape.wanted(weight_OI), tape.wanted(bias_O)
    tape.require_images_first(input_BxI, weight, bias)
    output_BxO = functional.linear(input_BxI, weight_OI.detach(), None if bias_O is None else bias_O.detach())
    kept_BTK = _tokens(input_BxI.detach() if weight is None else tape.signs.inputs(weight, input_BxI.detach()))

    def contribution(gradient_BxO: Tensor) -> dict[str, Tensor]:
        found = {}
        if weight is not None:
            rows_BTR = _tokens(tape.signs.outputs(weight, gradient_BxO))
            found[weight] = torch.bmm(rows_BTR.transpose(1, 2), kept_BTK).flatten(1)
        if bias is not None:
            found[bias] = tape.signs.vector(bias, _tokens(gradient_BxO).sum(1))
        return found

    return tape.watch(output_BxO, contribution, "linear", weight, bias)


def add(tape: GradientTape, first: Any, second: Any) -> Tensor:
    """Add a parameter to a tensor that has the images first, for instance a position embedding."""
    parameter, other, name = _operands(tape, first, second)
    output: Tensor = other + parameter.detach()
    tape.require_images_first(output, name)
    return tape.watch(output, _broadcast(tape, name, parameter, lambda gradient: gradient), "add", name)


def mul(tape: GradientTape, first: Any, second: Any) -> Tensor:
    """Multiply a tensor that has the images first by a parameter, for instance a layer scale."""
    parameter, other, name = _operands(tape, first, second)
    output: Tensor = other * parameter.detach()
    tape.require_images_first(output, name)
    values = other.detach() if isinstance(other, Tensor) else other
    return tape.watch(output, _broadcast(tape, name, parameter, lambda gradient: gradient * values), "mul", name)


def expand(tape: GradientTape, parameter: Tensor, *sizes: Any) -> Tensor:
    """Repeat a parameter for each image, for instance a class token."""
    name = tape.wanted(parameter)
    output = parameter.detach().expand(*sizes).clone()
    tape.require_images_first(output, name)
    return tape.watch(output, _broadcast(tape, name, parameter, lambda gradient: gradient), "expand", name)


def _operands(tape: GradientTape, first: Any, second: Any) -> tuple[Tensor, Any, str | None]:
    """Tell the parameter of two operands from the other one."""
    name, other = tape.name_of(first), tape.name_of(second)
    if name is None:
        return second, first, tape.wanted(second)
    if other is not None:
        raise tape.unsupported(name, f"it meets {other} before any image")
    return first, second, tape.wanted(first)


def _broadcast(
    tape: GradientTape, name: str | None, parameter: Tensor, local: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], dict[str, Tensor]]:
    """Sum each image's gradient over the axes along which the parameter was repeated."""
    lengths = [length for length in parameter.shape if length > 1]

    def contribution(gradient_Bx: Tensor) -> dict[str, Tensor]:
        local_Bx = local(gradient_Bx)
        shape = (1,) * (local_Bx.dim() - parameter.dim()) + tuple(parameter.shape)
        repeated = [axis for axis in range(1, local_Bx.dim()) if shape[axis] == 1 and local_Bx.shape[axis] > 1]
        if repeated:
            local_Bx = local_Bx.sum(repeated)
        if len(lengths) < 2:
            return {str(name): tape.signs.vector(str(name), local_Bx.flatten(1))}
        return {str(name): tape.signs.table(str(name), local_Bx.reshape(len(local_Bx), lengths[0], -1))}

    return contribution


def _tokens(tensor_Bx: Tensor) -> Tensor:
    return tensor_Bx.reshape(len(tensor_Bx), -1, tensor_Bx.shape[-1])
