"""What every task of one worker process works with."""

import os
import socket
import threading
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import structlog
import torch

from app.config import Settings
from app.storage.database import Database
from app.storage.objects import Objects
from workers.loaded_network import LoadedNetwork
from workers.zoo.device_cost import device_name
from workers.zoo.weights_cache import WeightsCache

log = structlog.get_logger()


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

    @cached_property
    def weights(self) -> WeightsCache:
        """The verified weights of this machine."""
        return WeightsCache(self.settings.weights, self.settings.weights_cache_bytes)

    @cached_property
    def device_name(self) -> str:
        """``cpu``, or what its maker calls the GPU: what speeds are told apart by."""
        return device_name(self.device)


@cache
def runtime() -> Runtime:
    """Return this process's runtime, made on first use."""
    settings = Settings()
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    return Runtime(
        settings=settings,
        database=Database(settings.database_url),
        objects=Objects(settings.objects_url),
        holder=f"{socket.gethostname()}/{settings.worker_slot}",
        device=device,
        workspace=settings.home / "work" / settings.worker_slot,
    )
