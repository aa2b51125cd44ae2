"""Errors of a GPU after which it takes nothing more from this process.

A kernel that fails on a GPU, by an index out of bounds for instance, breaks the process's context there: every later
call fails, too, whatever it is. Only another process can go on.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import structlog

from app.domain.errors import EvaluationFailed

log = structlog.get_logger()

_EXIT_CODE = 76
_MESSAGES = (
    # As the CUDA runtime words them (cudaGetErrorString), in ``torch.AcceleratorError`` and in plain RuntimeErrors.
    "device-side assert triggered",
    "an illegal memory access was encountered",
    "unspecified launch failure",
    "misaligned address",
    "an illegal instruction was encountered",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "the launch timed out and was terminated",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected",
    "context is destroyed",
    "CUDA error: unknown error",
    "CUDA-capable device(s) is/are busy or unavailable",
    # What its libraries make of these.
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUDNN_STATUS_EXECUTION_FAILED",
    "CUSOLVER_STATUS_EXECUTION_FAILED",
)


def is_device_failure(error: BaseException) -> bool:
    """Tell an error after which the device takes nothing more from this process."""
    # torch.AcceleratorError is a RuntimeError, and comes also of what breaks nothing, such as a lack of memory.
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


@contextmanager
def telling_device_failures(device: str, broken: threading.Event) -> Iterator[None]:
    """Tell a failure of the device by its name, whatever error the block has made of it, and set ``broken``.

    Raises:
        EvaluationFailed: ``device_failed``.
    """
    try:
        yield
    except Exception as error:
        failure = next((one for one in _with_causes(error) if is_device_failure(one)), None)
        if failure is None:
            raise
        broken.set()
        log.exception("job.broke_the_device")
        first_line = str(failure).strip().partition("\n")[0]
        raise EvaluationFailed(
            "device_failed",
            f"An operation failed on {device}, which then took nothing more from the worker: {first_line}",
            hint="If it is always this model, its weights or its code are wrong; if it is always this GPU, look for "
            "Xid lines in the kernel's log of its machine.",
        ) from error


def end_process() -> NoReturn:
    """End the process, for the supervisor to start another; by no orderly way, which would ask the device."""
    log.error("worker.device_failed", hint="Another process takes this one's place.")
    os._exit(_EXIT_CODE)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        yield following
        seen.add(id(following))
        following = following.__cause__ or following.__context__
