"""Scales and shifts of normalisation layers.

B images, C channels, x any number of further axes
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from app.domain.errors import EvaluationFailed
from workers.extract.dense_gradients import mul
from workers.extract.gradient_tape import GradientTape


def batch_norm(
    tape: GradientTape,
    input_BCx: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001 - the signature is PyTorch's
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm``; raises ``batch_norm_in_training`` without running statistics."""
    scale, shift = tape.wanted(weight), tape.wanted(bias)
    if training or running_mean is None or running_var is None:
        raise EvaluationFailed(
            "batch_norm_in_training",
            "a batch normalisation uses the statistics of its batch, so that no image has a gradient of its own",
            hint="Use a network that keeps running statistics.",
        )
    tape.require_images_first(input_BCx, scale, shift)
    factor_C = (running_var + eps).rsqrt()
    if weight is not None:
        factor_C = factor_C * weight.detach()
    output_BCx = _FrozenBatchNorm.apply(input_BCx, running_mean, running_var, weight, bias, eps, factor_C)  # type: ignore[no-untyped-call]
    values = input_BCx.detach()

    def contribution(gradient_BCx: Tensor) -> dict[str, Tensor]:
        shape = (tape.batch_size, gradient_BCx.shape[1])
        scales_BC, shifts_BC = gradient_BCx.new_empty(shape), gradient_BCx.new_empty(shape)
        gradients, inputs = gradient_BCx.chunk(tape.batch_size), values.chunk(tape.batch_size)
        for image in range(tape.batch_size):
            # One fused pass over an image: no product as large as its activations is ever written.
            _, scales_BC[image], shifts_BC[image] = torch.ops.aten.native_batch_norm_backward(
                gradients[image],
                inputs[image],
                factor_C,
                running_mean,
                running_var,
                None,
                None,
                False,
                eps,
                (False, True, True),
            )
        return _vectors(tape, (scale, scales_BC), (shift, shifts_BC))

    return tape.watch(output_BCx, contribution, "batch_norm", scale, shift)


def layer_norm(
    tape: GradientTape,
    input_Bx: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.layer_norm``."""
    scale, shift = tape.wanted(weight), tape.wanted(bias)
    tape.require_images_first(input_Bx, scale, shift)
    shape = list(normalized_shape)
    output_Bx = functional.layer_norm(input_Bx, shape, _detached(weight), _detached(bias), eps)
    values = input_Bx.detach()

    def summed(gradient_Bx: Tensor) -> Tensor:
        return gradient_Bx.reshape(tape.batch_size, -1, *shape).sum(1).flatten(1)

    def contribution(gradient_Bx: Tensor) -> dict[str, Tensor]:
        product_Bx = functional.layer_norm(values, shape, None, None, eps).mul_(gradient_Bx)
        return _vectors(tape, (scale, summed(product_Bx)), (shift, summed(gradient_Bx)))

    return tape.watch(output_Bx, contribution, "layer_norm", scale, shift)


def rms_norm(
    tape: GradientTape,
    input_Bx: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """``torch.nn.functional.rms_norm``."""
    normalized_Bx = functional.rms_norm(input_Bx, list(normalized_shape), None, eps)
    return normalized_Bx if weight is None else mul(tape, normalized_Bx, weight)


def group_norm(
    tape: GradientTape,
    input_BCx: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.group_norm``."""
    scale, shift = tape.wanted(weight), tape.wanted(bias)
    tape.require_images_first(input_BCx, scale, shift)
    output_BCx = functional.group_norm(input_BCx, num_groups, _detached(weight), _detached(bias), eps)
    values = input_BCx.detach()

    def summed(gradient_BCx: Tensor) -> Tensor:
        return gradient_BCx.flatten(2).sum(2) if gradient_BCx.dim() > 2 else gradient_BCx

    def contribution(gradient_BCx: Tensor) -> dict[str, Tensor]:
        product_BCx = functional.group_norm(values, num_groups, None, None, eps).mul_(gradient_BCx)
        return _vectors(tape, (scale, summed(product_BCx)), (shift, summed(gradient_BCx)))

    return tape.watch(output_BCx, contribution, "group_norm", scale, shift)


class _FrozenBatchNorm(torch.autograd.Function):
    """Batch normalisation by running statistics; backward one product, where PyTorch's also reads the input."""

    @staticmethod
    def forward(
        ctx: Any,
        input_BCx: Tensor,
        mean_C: Tensor,
        var_C: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        factor_C: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(factor_C.reshape(-1, *(1,) * (input_BCx.dim() - 2)))
        return functional.batch_norm(input_BCx, mean_C, var_C, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None, None]:
        (factor_Cx,) = ctx.saved_tensors
        return gradients[0] * factor_Cx, None, None, None, None, None, None


def _vectors(tape: GradientTape, *found: tuple[str | None, Tensor]) -> dict[str, Tensor]:
    return {name: tape.signs_of(name).vector(name, vector_BC) for name, vector_BC in found if name is not None}


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()
