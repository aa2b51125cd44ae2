"""What every task of one worker process works with."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from queue import SimpleQueue

import structlog
import torch

from app.config import Settings
from app.storage.database import Database
from app.storage.objects import Objects
from app.tracing import Tracing
from workers.extract.part_size import PartSizes
from workers.extract.precision import Precision, pin_arithmetic, wanted_precision
from workers.loaded_network import LoadedNetwork
from workers.metrics import STAGE_SECONDS
from workers.throughput import Throughput
from workers.zoo.device_cost import device_name
from workers.zoo.weights_cache import WeightsCache

log = structlog.get_logger()

_DECODE_THREADS_OF_A_GPU = 8


@dataclass(frozen=True)
class Runtime:
    """The parts of one worker process."""

    settings: Settings
    database: Database
    objects: Objects
    holder: str
    device: torch.device
    workspace: Path
    """For files of a job in progress; emptied when the worker starts, since a killed one cleans up nothing."""
    loaded: LoadedNetwork = field(default_factory=LoadedNetwork)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process was asked to end: tasks give their job back between two batches."""
    hurrying: threading.Event = field(default_factory=threading.Event)
    """Set when it was asked twice: the job is given back at once, and the process exits."""
    unheard: threading.Event = field(default_factory=threading.Event)
    """Set when a doorbell could not be rung: this worker looks for work itself."""
    broken: threading.Event = field(default_factory=threading.Event)
    """Set when the device takes nothing more from this process, which ends with its job."""
    working: threading.Lock = field(default_factory=threading.Lock)
    """Held by whoever does jobs: there is one device, and one job at a time."""
    tracing: Tracing = field(default_factory=Tracing)
    throughput: Throughput = field(default_factory=Throughput)
    to_rank: "SimpleQueue[str]" = field(default_factory=SimpleQueue)
    """Selections of which more is known: ``workers.rankings`` looks after them beside the work."""

    @cached_property
    def weights(self) -> WeightsCache:
        """The verified weights of this machine."""
        return WeightsCache(self.settings.weights, self.settings.weights_cache_bytes)

    @cached_property
    def part_sizes(self) -> PartSizes:
        """In how large parts this worker's device takes images, model by model."""
        return PartSizes()

    @cached_property
    def precision(self) -> Precision:
        """In which precision features are computed by networks that pass its check."""
        return wanted_precision(self.settings.precision, self.device)

    @cached_property
    def decode_threads(self) -> int:
        """How many threads decode images while the network computes."""
        if self.settings.decode_threads:
            return self.settings.decode_threads
        return 1 if self.device.type == "cpu" else min(_DECODE_THREADS_OF_A_GPU, os.cpu_count() or 1)

    @cached_property
    def device_name(self) -> str:
        """``cpu``, or what its maker calls the GPU: what speeds are told apart by."""
        return device_name(self.device)

    @contextmanager
    def stage(self, name: str, *, traceparent: str | None = None) -> Iterator[None]:
        """Time a part of a job: in Prometheus' histogram, as a span, and as a word on its log lines."""
        started = time.perf_counter()
        with self.tracing.span(name, traceparent=traceparent), structlog.contextvars.bound_contextvars(stage=name):
            try:
                yield
            finally:
                STAGE_SECONDS.labels(name, self.device_name).observe(time.perf_counter() - started)

    def counting(self, report: Callable[[int], None]) -> Callable[[int], None]:
        """Return ``report``, which is told how many images are done, as one that counts them, too."""
        before = 0

        def counted(done: int) -> None:
            nonlocal before
            self.throughput.add(max(0, done - before), self.device_name)
            before = done
            report(done)

        return counted


@cache
def runtime() -> Runtime:
    """Return this process's runtime, made on first use."""
    settings = Settings()
    device = _device(settings.device)
    pin_arithmetic()
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    workspace = settings.home / "work" / settings.worker_slot
    return Runtime(
        settings=settings,
        database=Database(settings.database_url),
        objects=Objects(settings.objects_url, settings.s3, copies=workspace),
        holder=settings.worker_name,
        tracing=Tracing(settings.otlp_endpoint, service="foretune-worker", instance=settings.worker_name),
        device=device,
        workspace=workspace,
    )


def _device(name: str) -> torch.device:
    """Return the device of this process.

    Raises:
        RuntimeError: it is a GPU that PyTorch does not see. Better no worker than one that computes on the CPU unseen.
    """
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise RuntimeError(
            f"This worker is to compute on {name}, and PyTorch {torch.__version__} sees no GPU (CUDA_VISIBLE_DEVICES: "
            f"{visible if visible is not None else 'not set'}). Is the driver there, and PyTorch built for CUDA?"
        )
    return device
