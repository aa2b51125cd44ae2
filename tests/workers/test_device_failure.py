"""Errors that break a GPU's context are told from those that do not, whatever became of them on their way."""

import threading

import pytest
import torch

from app.domain.errors import EvaluationFailed, ModelRejected
from workers.device_failure import is_device_failure, telling_device_failures

BREAKING = [
    torch.AcceleratorError("CUDA error: device-side assert triggered\nSearch for `cudaErrorAssert' in ..."),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]
HARMLESS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    torch.AcceleratorError("CUDA error: invalid configuration argument"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ValueError("device-side assert triggered"),
]


@pytest.mark.parametrize("error", BREAKING, ids=str)
def test_what_breaks_the_context_is_told_by_name(error: Exception) -> None:
    assert is_device_failure(error)
    broken = threading.Event()
    with pytest.raises(EvaluationFailed) as told, telling_device_failures("NVIDIA H100", broken):
        raise error
    assert told.value.code == "device_failed"
    assert "on NVIDIA H100" in told.value.message
    assert "Search for" not in told.value.message
    assert broken.is_set()


@pytest.mark.parametrize("error", HARMLESS, ids=str)
def test_what_breaks_nothing_stays_what_it_is(error: Exception) -> None:
    broken = threading.Event()
    with pytest.raises(type(error)) as told, telling_device_failures("NVIDIA H100", broken):
        raise error
    assert told.value is error
    assert not broken.is_set()


def test_it_is_found_behind_what_others_made_of_it() -> None:
    def check() -> None:
        try:
            raise BREAKING[1]
        except RuntimeError as error:
            raise ModelRejected("check_failed", "the check ended with AcceleratorError") from error

    broken = threading.Event()
    with pytest.raises(EvaluationFailed, match="illegal memory access"), telling_device_failures("GPU", broken):
        check()
    assert broken.is_set()
