"""What every task of one worker process works with."""

import os
import socket
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import structlog
import torch

from app.config import Settings
from app.storage.database import Database
from app.storage.objects import Objects

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
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when the process was asked to end: tasks give their job back between two batches."""


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
