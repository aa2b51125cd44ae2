"""Which workers a machine gets: one for each GPU, or some on the CPU, each with its name and its share of the cores."""

import os
import re
from dataclasses import dataclass, field

from app.cli.gpus import VISIBLE, Gpu, choose_gpus, find_gpus
from app.config import Settings

_MOST_DECODE_THREADS = 8


@dataclass(frozen=True)
class Slot:
    """A worker to be.

    Attributes:
        name: names it among the workers of the machine, and stays the same from start to start.
        device: where it computes, for people.
        variables: of its environment, beside those of this process.
    """

    name: str
    device: str
    variables: dict[str, str] = field(default_factory=dict)


def only_slot(settings: Settings) -> Slot:
    """Return the slot of a single worker, whose device it chooses itself."""
    return Slot(settings.worker_slot, settings.device or "its own choice")


def plan_slots(settings: Settings, gpus: str | None, workers: int | None) -> list[Slot]:
    """Return the workers to start.

    Args:
        settings: what they say of threads stays, and without ``gpus`` what they say of the device.
        gpus: ``all``, ``none``, or which; by default all there are.
        workers: how many for each GPU, or on the CPU; by default one.

    Raises:
        Failure: as ``choose_gpus`` says.
    """
    each = workers or 1
    chooses = settings.device in ("", "cuda")  # `cuda` with a number, and `cpu`, leave nothing to choose
    chosen = choose_gpus(gpus) if gpus is not None else find_gpus() if chooses else []
    if chosen:
        slots = [_of_gpu(settings, gpu, place, each) for gpu in chosen for place in range(each)]
    else:
        device = {"FORETUNE_DEVICE": "cpu", VISIBLE: ""} if gpus == "none" else {}
        told = settings.device if settings.device and gpus is None else "cpu"
        names = [settings.worker_slot] if each == 1 else [f"{settings.worker_slot}.{place}" for place in range(each)]
        slots = [Slot(name, told, device) for name in names]
    return [Slot(slot.name, slot.device, slot.variables | _share(settings, len(slots), bool(chosen))) for slot in slots]


def _of_gpu(settings: Settings, gpu: Gpu, place: int, each: int) -> Slot:
    """Return a worker of a GPU. It is named after it, and sees that GPU alone, as its first one."""
    name = re.sub(r"[^\w.-]", "-", f"gpu{gpu.number}" if gpu.number[0].isdecimal() else gpu.number)
    name = name if each == 1 else f"{name}.{place}"
    if settings.worker_slot != Settings.model_fields["worker_slot"].default:
        name = f"{settings.worker_slot}-{name}"
    return Slot(name, f"GPU {gpu.number} ({gpu.name})", {VISIBLE: gpu.id, "FORETUNE_DEVICE": "cuda"})


def _share(settings: Settings, workers: int, has_gpu: bool) -> dict[str, str]:
    """Return a worker's share of the cores where it is not the only one; more threads than cores slow all down."""
    if workers == 1:
        return {}
    cores = max(1, len(os.sched_getaffinity(0)) // workers)
    shares = {}
    if not settings.threads:
        shares["FORETUNE_THREADS"] = str(cores)
    if has_gpu and not settings.decode_threads:
        shares["FORETUNE_DECODE_THREADS"] = str(min(_MOST_DECODE_THREADS, cores))
    return shares
