"""Telling that memory ran out from other errors, and making room again."""

import torch

_MESSAGES = (
    "out of memory",
    # On the CPU, PyTorch and oneDNN have no exception type of their own for it, nor have the libraries of CUDA.
    "can't allocate memory",
    "Cannot allocate memory",  # the system's own words, which other libraries repeat
    "bad allocation",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    # What cuDNN says where no algorithm's workspace can be had.
    "Unable to find a valid cuDNN algorithm",
    "unable to find an engine to execute this computation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a failed allocation, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(message in str(error) for message in _MESSAGES)


def release_memory(device: torch.device) -> None:
    """Give back to the device what is kept for later tensors, so that pieces of it can be had as a whole.

    To be called outside of the ``except`` block: only there the traceback is gone that kept the failed pass's tensors
    alive.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
