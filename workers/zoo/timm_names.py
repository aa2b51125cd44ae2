"""Checkpoints of timm's architectures under the names of those who published them, renamed by timm's own functions.

Many of timm's modules have a function that turns a published checkpoint into the architecture's own names, which timm
runs when it loads one itself. Such a function gets names and tensors, and a network without memory.
"""

import sys
from typing import Any

from torch import Tensor, nn

from workers.zoo.containers import Tensors

_CONVENTION = "checkpoint_filter_fn"
_POSITIONS = ("pos_embed", "rel_pos", "relative_position", "position_embedding")


def renamed_by_timm(tensors: Tensors, module: nn.Module) -> Tensors | None:
    """Return the tensors under the names of a timm network; None where timm has no function for it, or it fails.

    What the function does beyond renaming, reshaping, splitting, joining and leaving out is refused: it resizes tables
    of positions made for another size of images, which gives numbers that nobody has trained.

    Args:
        tensors: of a file, under its own names.
        module: the network; it may be without memory, and is not changed.
    """
    rename: Any = getattr(sys.modules[type(module).__module__], _CONVENTION, None)
    if rename is None:
        return None
    try:
        renamed = rename(dict(tensors), module)
    except Exception:  # noqa: BLE001 - it was not written for these names: the mismatch that led here is told
        return None
    if not isinstance(renamed, dict) or not all(isinstance(tensor, Tensor) for tensor in renamed.values()):
        return None
    sizes = {tensor.numel() for tensor in tensors.values()}
    resized = [name for name in renamed if _is_position(name) and renamed[name].numel() not in sizes]
    return None if resized else renamed


def _is_position(name: str) -> bool:
    return any(word in name for word in _POSITIONS)
