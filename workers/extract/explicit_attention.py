"""Multi-head self-attention of ``torch.nn.MultiheadAttention``, in operations whose parameters can be watched.

B images, T tokens, E width of a token, H heads
"""

from typing import Any

from torch import Tensor
from torch.nn import functional

from workers.extract.dense_gradients import linear
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
) -> tuple[Tensor, None]:
    """``torch.nn.functional.multi_head_attention_forward`` in eval mode, where it returns no attention weights.

    Raises:
        EvaluationFailed: ``gradients_unsupported`` for anything but unmasked attention of a batch to itself.
    """
    name = str(tape.name_of(out_proj_weight))
    own = query_TBE is key_TBE and key_TBE is value_TBE and query_TBE.dim() == 3
    masked = options.get("key_padding_mask") is not None or options.get("attn_mask") is not None
    if not own or masked or options.get("is_causal"):
        raise tape.unsupported(name, "its attention is not unmasked attention of a batch to itself")
    extra = bias_k is not None or bias_v is not None or add_zero_attn or options.get("use_separate_proj_weight")
    if extra or in_proj_weight is None or options.get("need_weights", True):
        raise tape.unsupported(name, "its attention has separate projections, extra tokens, or returns its weights")
    tokens_BTE = query_TBE.transpose(0, 1)
    batch, tokens, width = tokens_BTE.shape
    joint = linear(tape, tokens_BTE, in_proj_weight, in_proj_bias)
    query_BHTE, key_BHTE, value_BHTE = joint.reshape(batch, tokens, 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind()
    attended_BHTE = functional.scaled_dot_product_attention(query_BHTE, key_BHTE, value_BHTE)
    attended_BTE = attended_BHTE.transpose(1, 2).reshape(batch, tokens, width)
    return linear(tape, attended_BTE, out_proj_weight, out_proj_bias).transpose(0, 1), None
