"""The operations on parameters whose per-image gradients are known, each with its rule.

Operations and not layer types: whatever module a library wraps around a convolution, the convolution is the same. What
a network does otherwise with a parameter is refused (``GradientTape``).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.extract.convolution_gradients import conv2d
from workers.extract.dense_gradients import add, expand, linear, mul
from workers.extract.explicit_attention import attention
from workers.extract.gradient_tape import Rule
from workers.extract.normalization_gradients import batch_norm, group_norm, layer_norm

RULES: dict[Callable[..., Any], Rule] = {
    functional.conv2d: conv2d,
    functional.linear: linear,
    functional.multi_head_attention_forward: attention,
    functional.batch_norm: batch_norm,
    functional.layer_norm: layer_norm,
    functional.group_norm: group_norm,
    torch.add: add,
    Tensor.add: add,
    torch.mul: mul,
    Tensor.mul: mul,
    Tensor.expand: expand,
}
