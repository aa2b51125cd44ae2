"""Following the tensors of a computation on the CPU, whose allocator counts nothing.

A storage is counted from the operation that makes it until its last tensor is gone. What a kernel allocates and frees
within one operation is not seen.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, while active, the bytes of all tensors that are made.

    Attributes:
        live_bytes: of the tensors that exist now.
        peak_bytes: the most that existed at once.
    """

    def __init__(self, ignored: Iterable[Tensor] = ()) -> None:
        """Begin with nothing.

        Args:
            ignored: tensors, such as weights, that are not counted and neither are views of them.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in ignored)

    def count(self, tensor: Tensor) -> None:
        """Count a tensor that was made before, or by the last operation."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        weakref.finalize(storage, self._forget, size)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _forget(self, size: int) -> None:
        self.live_bytes -= size

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.layout is torch.strided:
                self.count(value)
        return result
