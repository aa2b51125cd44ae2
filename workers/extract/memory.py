"""Telling that memory ran out from other errors."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a failed allocation; on the CPU, PyTorch and oneDNN have no exception type of their own for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error)
    return "can't allocate memory" in message or "bad allocation" in message or "out of memory" in message
