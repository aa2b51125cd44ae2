"""In which precision a network computes features. Gradients are always float32.

B images of a batch, D features, Z source classes
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from workers.zoo.network import Network

Precision = Literal["float32", "bfloat16", "float16"]

_TENSOR_CORES = (7, 0)  # compute capability from which a GPU gains by float16
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class PrecisionCheck:
    """What came of comparing a reduced precision with float32 on a few images.

    Attributes:
        wanted: the reduced precision.
        used: it, or float32 where the check failed.
        images: how many.
        relative_error: of the centred features, as a whole: 0.01 is one percent of how much images differ.
        same_neighbours: the share of images whose nearest neighbour among the others stays the nearest, to 2 %.
        reason: why float32 is used instead.
    """

    wanted: Precision
    used: Precision
    images: int
    relative_error: float | None = None
    same_neighbours: float | None = None
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what is told with a result."""
        return asdict(self)


def pin_arithmetic() -> None:
    """Let float32 be float32 in this process, and the same from run to run.

    Unless told otherwise, PyTorch lets cuDNN round the operands of float32 convolutions to 10 bits (TF32), add partial
    sums of half-precision products up in half precision, and, with ``benchmark``, choose another algorithm each time.
    """
    backends: Any = torch.backends
    torch.set_float32_matmul_precision("highest")  # of CUDA and of oneDNN
    backends.cuda.matmul.allow_tf32 = False
    # Not by ``fp32_precision``: once that is set, PyTorch refuses to tell ``allow_tf32``, which libraries ask for.
    backends.cudnn.allow_tf32 = False
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    backends.cudnn.benchmark = False


def wanted_precision(setting: Precision | Literal["auto"], device: torch.device) -> Precision:
    """Return the precision to try: with ``auto``, float16 on a GPU that computes faster in it, and float32 elsewhere.

    Not bfloat16, which is no faster: it keeps 8 bits of a number and float16 keeps 11, so that features err by an
    eighth as much. What passes 65,504 overflows in float16; that is found, and the network runs in float32.
    """
    if setting != "auto":
        return setting
    is_faster = device.type == "cuda" and torch.cuda.get_device_capability(device) >= _TENSOR_CORES
    return "float16" if is_faster else "float32"


def forward(network: Network, batch_BCHW: Tensor, precision: Precision) -> tuple[Tensor, Tensor | None]:
    """Return features (B, D) and logits (B, Z), both in float32.

    A reduced precision is for the trunk alone: PyTorch's autocast chooses operation by operation, and keeps norms and
    softmax in float32. The classifier, a thousandth of the work, turns errors of features into errors of logits.
    """
    if precision == "float32":
        features_BD, logits_BZ = network(batch_BCHW)
        return features_BD.float(), None if logits_BZ is None else logits_BZ.float()
    with torch.autocast(batch_BCHW.device.type, dtype=_DTYPES[precision]):
        features_BD = network.trunk(batch_BCHW)
    features_BD = features_BD.float()
    return features_BD, None if network.head is None else network.head(features_BD)
