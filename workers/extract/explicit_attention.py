"""Attention in operations whose parameters can be watched: projections, and what is added to the products.

B images, T tokens, E width of a token, H heads
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.extract.dense_gradients import add, linear
from workers.extract.gradient_tape import GradientTape


def attention(
    tape: GradientTape,
    query_TBE: Tensor,
    key_TBE: Tensor,
    value_TBE: Tensor,
    embed_dim_to_check: int,  # noqa: ARG001 - the signature is PyTorch's
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,  # noqa: ARG001
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """``torch.nn.functional.multi_head_attention_forward`` in eval mode.

    Raises:
        EvaluationFailed: ``gradients_unsupported`` for anything but unmasked attention of a batch to itself, or to one
            other sequence that gives both keys and values.
    """
    name = str(tape.name_of(out_proj_weight))
    masked = options.get("key_padding_mask") is not None or options.get("attn_mask") is not None
    if key_TBE is not value_TBE or query_TBE.dim() != 3 or masked or options.get("is_causal"):
        raise tape.unsupported(name, "its attention is not unmasked attention of a batch to one sequence")
    extra = bias_k is not None or bias_v is not None or add_zero_attn or options.get("use_separate_proj_weight")
    if extra or in_proj_weight is None:
        raise tape.unsupported(name, "its attention has separate projections, or extra tokens")
    query_BTE, source_BTE = query_TBE.transpose(0, 1), key_TBE.transpose(0, 1)
    if query_TBE is key_TBE:
        query_BTE, key_BTE, value_BTE = linear(tape, source_BTE, in_proj_weight, in_proj_bias).chunk(3, dim=-1)
    else:
        weights = tape.derive(torch.chunk, in_proj_weight, 3)
        biases = (None,) * 3 if in_proj_bias is None else tape.derive(torch.chunk, in_proj_bias, 3)
        query_BTE, key_BTE, value_BTE = (
            linear(tape, tokens_BTE, weight, bias)
            for tokens_BTE, weight, bias in zip((query_BTE, source_BTE, source_BTE), weights, biases, strict=True)
        )
    query_BHTE, key_BHTE, value_BHTE = (
        tokens_BTE.reshape(*tokens_BTE.shape[:2], num_heads, -1).transpose(1, 2)
        for tokens_BTE in (query_BTE, key_BTE, value_BTE)
    )
    weights_BHTT = None
    if options.get("need_weights", True):
        weights_BHTT = (query_BHTE * query_BHTE.shape[-1] ** -0.5 @ key_BHTE.transpose(-2, -1)).softmax(dim=-1)
        attended_BHTE = weights_BHTT @ value_BHTE
        if options.get("average_attn_weights", True):
            weights_BHTT = weights_BHTT.mean(dim=1)
    else:
        attended_BHTE = functional.scaled_dot_product_attention(query_BHTE, key_BHTE, value_BHTE)
    attended_BTE = attended_BHTE.transpose(1, 2).flatten(2)
    return linear(tape, attended_BTE, out_proj_weight, out_proj_bias).transpose(0, 1), weights_BHTT


def scaled_dot_product_attention(
    tape: GradientTape,
    query_BxTE: Tensor,
    key_BxTE: Tensor,
    value_BxTE: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **options: Any,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` with a learned bias of positions.

    Raises:
        EvaluationFailed: ``gradients_unsupported`` where something else is learned.
    """
    operands = (query_BxTE, key_BxTE, value_BxTE)
    learned = next((name for name in map(tape.name_of, operands) if name is not None), None)
    if learned is not None:
        raise tape.unsupported(learned, "attention to something that is the same for all images is not known")
    name = str(tape.name_of(attn_mask))
    if attn_mask is None or not attn_mask.is_floating_point() or dropout_p or is_causal or options:
        raise tape.unsupported(name, "its attention is not one with a bias alone")
    scaled_BxTE = query_BxTE * (query_BxTE.shape[-1] ** -0.5 if scale is None else scale)
    products_BxTT = add(tape, scaled_BxTE @ key_BxTE.transpose(-2, -1), attn_mask)
    return products_BxTT.softmax(dim=-1) @ value_BxTE
