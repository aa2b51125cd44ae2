"""The operations on parameters whose per-image gradients are known, each with its rule.

Operations and not layer types: whatever module a library wraps around a convolution, the convolution is the same. What
a network computes from parameters alone needs no rule. What it does otherwise with a parameter is refused
(``GradientTape``).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.extract.convolution_gradients import conv1d, conv2d
from workers.extract.dense_gradients import (
    add,
    add_,
    addcmul,
    div,
    expand,
    expand_as,
    linear,
    matmul,
    mul,
    mul_,
    prelu,
    repeat,
    sub,
)
from workers.extract.explicit_attention import attention, scaled_dot_product_attention
from workers.extract.gradient_tape import Rule
from workers.extract.normalization_gradients import batch_norm, group_norm, layer_norm, rms_norm

RULES: dict[Callable[..., Any], Rule] = {
    functional.conv1d: conv1d,
    functional.conv2d: conv2d,
    functional.linear: linear,
    torch.matmul: matmul,
    Tensor.matmul: matmul,
    functional.multi_head_attention_forward: attention,
    functional.scaled_dot_product_attention: scaled_dot_product_attention,
    functional.batch_norm: batch_norm,
    functional.layer_norm: layer_norm,
    functional.rms_norm: rms_norm,
    functional.group_norm: group_norm,
    functional.prelu: prelu,
    torch.prelu: prelu,
    torch.add: add,
    Tensor.add: add,
    Tensor.add_: add_,
    torch.sub: sub,
    Tensor.sub: sub,
    torch.mul: mul,
    Tensor.mul: mul,
    Tensor.mul_: mul_,
    torch.div: div,
    Tensor.div: div,
    torch.addcmul: addcmul,
    Tensor.expand: expand,
    Tensor.expand_as: expand_as,
    Tensor.repeat: repeat,
}
