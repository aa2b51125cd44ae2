"""What a forward pass costs on this worker's device: memory beyond the weights, and time.

B images of a batch, C = 3 channels, H x W pixels
"""

import time
from dataclasses import dataclass, field
from statistics import median

import structlog
import torch
from torch import Tensor

from app.domain.errors import ModelRejected
from workers.extract.memory import is_out_of_memory
from workers.zoo.check_log import Finding
from workers.zoo.live_memory import LiveMemory
from workers.zoo.network import Network

log = structlog.get_logger()

BATCH_SIZES = (1, 8, 32)
_PASSES = 5
_SECONDS_A_SIZE = 1.0
_LONGEST_PASS_SECONDS = 1.5  # a rate hardly changes beyond the batch that takes so long


@dataclass
class DeviceCost:
    """What was measured.

    Attributes:
        measured_on: ``cpu`` or the GPU's name.
        peak_bytes: by batch size, the memory of a forward pass beyond the weights, its images included.
        images_per_second: by batch size, the median of several passes over images that are on the device.
        out_of_memory_at: the smallest batch size that did not fit; None where all did.
        too_slow_at: the first batch size whose speed was left out since one pass would take more than 1.5 seconds; its
            memory and that of larger ones was counted on the CPU without computing.
    """

    measured_on: str
    peak_bytes: dict[int, int] = field(default_factory=dict)
    images_per_second: dict[int, float] = field(default_factory=dict)
    out_of_memory_at: int | None = None
    too_slow_at: int | None = None

    @property
    def largest_batch(self) -> int:
        """The largest batch size that was tried and fits."""
        return max(self.images_per_second)


def device_name(device: torch.device) -> str:
    """Return ``cpu``, or what its maker calls the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def measure(network: Network, photos_BCHW: Tensor, sizes: tuple[int, ...] = BATCH_SIZES) -> DeviceCost:
    """Pass batches of growing size through a network.

    Args:
        network: on the device in question.
        photos_BCHW: its input, repeated as often as a batch needs.
        sizes: the batch sizes, ascending.

    Raises:
        ModelRejected: ``out_of_memory`` where not even one image fits.
    """
    cost = DeviceCost(device_name(network.device))
    for size in sizes:
        rate = max(cost.images_per_second.values(), default=0.0)
        if rate and size / rate > _LONGEST_PASS_SECONDS:
            cost.too_slow_at = size
            if network.device.type == "cpu":
                cost.peak_bytes |= _foreseen(network, photos_BCHW, [left for left in sizes if left >= size])
            break
        if not _measure_one(network, photos_BCHW, size, cost):
            _bisect(network, photos_BCHW, size, cost)
            break
    return cost


def describe(cost: DeviceCost, finding: Finding) -> None:
    """Put what was measured into words; warn where a batch did not fit into memory."""
    finding.figures = {
        "measured_on": cost.measured_on,
        "peak_bytes": {str(size): peak for size, peak in cost.peak_bytes.items()},
        "images_per_second": {str(size): rate for size, rate in cost.images_per_second.items()},
        "largest_batch": cost.largest_batch,
    }
    costs = [
        f"{rate:.3g} images/s and {cost.peak_bytes[size] / 1e6:,.1f} MB at {size}"
        for size, rate in sorted(cost.images_per_second.items())
    ]
    finding.detail = f"{cost.measured_on}: {', '.join(costs)}"
    if cost.too_slow_at is not None:
        finding.detail += f"; {cost.too_slow_at} images at once would take too long to time"
    if cost.out_of_memory_at is not None:
        finding.warn(
            "out_of_memory",
            f"{finding.detail}; {cost.out_of_memory_at} images at once do not fit",
            f"Nothing needs to be done: batches of at most {cost.largest_batch} are used here. More memory is faster.",
        )


def peak_bytes(network: Network, batch_BCHW: Tensor) -> int:
    """Return the most memory that a forward pass holds at once, beyond the weights and with its input."""
    with torch.inference_mode():
        if network.device.type == "cuda":
            torch.cuda.synchronize(network.device)
            torch.cuda.reset_peak_memory_stats(network.device)
            before = torch.cuda.memory_allocated(network.device)
            network(batch_BCHW)
            torch.cuda.synchronize(network.device)
            return torch.cuda.max_memory_allocated(network.device) - before + batch_BCHW.untyped_storage().nbytes()
        memory = LiveMemory([*network.parameters(), *network.buffers()])
        memory.count(batch_BCHW)
        with memory:
            network(batch_BCHW)
        return memory.peak_bytes


def _foreseen(network: Network, photos_BCHW: Tensor, sizes: list[int]) -> dict[int, int]:
    """Return by batch size the memory of passes that nobody waits for: their tensors are made without contents.

    Empty where an operation needs contents.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    state = {name: tensor.detach().to("meta") for name, tensor in tensors}
    found = {}
    try:
        for size in sizes:
            memory = LiveMemory(state.values())
            batch_BCHW = torch.empty((size, *photos_BCHW.shape[1:]), device="meta")
            memory.count(batch_BCHW)
            with torch.inference_mode(), memory:
                torch.func.functional_call(network, state, (batch_BCHW,))
            found[size] = memory.peak_bytes
    except (RuntimeError, TypeError) as error:
        log.info("admission.memory_not_foreseen", reason=str(error))
    return found


def _measure_one(network: Network, photos_BCHW: Tensor, size: int, cost: DeviceCost) -> bool:
    """Measure one batch size; False where it does not fit into memory."""
    try:
        batch_BCHW = _repeated(photos_BCHW, size)
        cost.peak_bytes[size] = peak_bytes(network, batch_BCHW)
        cost.images_per_second[size] = size / _pass_seconds(network, batch_BCHW)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Only here, out of the except block, is the traceback gone that kept the failed pass's tensors alive.
    cost.peak_bytes.pop(size, None)
    cost.out_of_memory_at = size
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
    return False


def _bisect(network: Network, photos_BCHW: Tensor, failed: int, cost: DeviceCost) -> None:
    """Find the largest batch between the last that fitted and the first that did not."""
    fitting = max(cost.peak_bytes, default=0)
    while failed - fitting > max(1, fitting // 8):
        middle = (fitting + failed) // 2
        if _measure_one(network, photos_BCHW, middle, cost):
            fitting = middle
        else:
            failed = middle
    if not fitting:
        raise ModelRejected(
            "out_of_memory",
            f"a forward pass of one image of {tuple(photos_BCHW.shape[2:])} pixels does not fit into memory "
            f"({cost.measured_on})",
            param="preprocessing.crop",
            hint="Use a worker with more memory, a smaller model, or smaller images.",
        )


def _pass_seconds(network: Network, batch_BCHW: Tensor) -> float:
    """Return the median time of a few passes; the one that measured memory has warmed everything up."""
    seconds: list[float] = []
    while len(seconds) < _PASSES and sum(seconds) < _SECONDS_A_SIZE:
        start = time.perf_counter()
        with torch.inference_mode():
            network(batch_BCHW)
        if network.device.type == "cuda":
            torch.cuda.synchronize(network.device)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _repeated(photos_BCHW: Tensor, size: int) -> Tensor:
    rows_B = torch.arange(size, device=photos_BCHW.device) % len(photos_BCHW)
    return photos_BCHW[rows_B].contiguous(memory_format=torch.channels_last)
