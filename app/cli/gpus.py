"""The GPUs of this machine, found without torch, which takes seconds to import and a GPU's memory to ask."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.client.errors import Failure

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DEVICES = Path("/dev")
_WHOLE = re.compile(r"GPU (?P<number>\d+): (?P<name>.+) \(UUID: (?P<id>[^)]+)\)")
_PART = re.compile(r"\s+MIG (?P<name>\S+)\s+Device\s+(?P<number>\d+): \(UUID: (?P<id>[^)]+)\)")
_ASK_SECONDS = 60  # a driver that is not kept loaded takes seconds for each GPU


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG instance of it.

    Attributes:
        id: what CUDA calls it in ``CUDA_VISIBLE_DEVICES``.
        number: what people call it: nvidia-smi's number, and ``0:1`` for the second instance of the first GPU.
        name: what its maker calls it.
    """

    id: str
    number: str
    name: str


def find_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use: those of ``CUDA_VISIBLE_DEVICES``, or all that nvidia-smi lists.

    Raises:
        Failure: ``gpus_not_listed``: there are some, and the driver's own tool cannot tell which.
    """
    visible = os.environ.get(VISIBLE)
    if visible is not None:
        return _named(visible)
    command = ["nvidia-smi", "-L"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True)  # noqa: S603
    except FileNotFoundError:
        if any(_DEVICES.glob("nvidia[0-9]*")):
            raise _not_listed("there is no nvidia-smi") from None
        return []
    except subprocess.TimeoutExpired:
        raise _not_listed(f"nvidia-smi did not answer within {_ASK_SECONDS} seconds") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip()).replace("\n", " ")
        if "No devices were found" in said:
            return []
        raise _not_listed(f"nvidia-smi: {said or f'exit status {error.returncode}'}") from None
    return listed(asked.stdout)


def listed(told: str) -> list[Gpu]:
    """Return what ``nvidia-smi -L`` lists; instances in place of a GPU that is divided into some."""
    found: list[Gpu] = []
    for line in told.splitlines():
        if whole := _WHOLE.match(line):
            found.append(Gpu(whole["id"], whole["number"], whole["name"]))
        elif (part := _PART.match(line)) and found:
            of = found[-1].number.partition(":")[0]
            if ":" not in found[-1].number:
                found.pop()
            found.append(Gpu(part["id"], f"{of}:{part['number']}", f"MIG {part['name']}"))
    return found


def choose_gpus(wanted: str) -> list[Gpu]:
    """Return the GPUs of ``--gpus``: ``all``, ``none``, or numbers and ids with commas between them.

    Raises:
        Failure: ``no_gpu``, ``unknown_gpu``; as ``find_gpus`` says.
    """
    if wanted == "none":
        return []
    found = find_gpus()
    if not found:
        raise Failure(
            "no_gpu",
            f"This machine has no GPU{_because_of_the_variable()}.",
            param="--gpus",
            hint="Leave --gpus out, or say --gpus none, for workers on the CPU.",
        )
    if wanted == "all":
        return found
    return [gpu for word in dict.fromkeys(wanted.split(",")) for gpu in _called(word.strip(), found)]


def _called(word: str, found: Sequence[Gpu]) -> list[Gpu]:
    """Return the GPU of a number or id, or all instances of a number."""
    exact = [gpu for gpu in found if word in (gpu.number, gpu.id)]
    chosen = exact or [gpu for gpu in found if word and gpu.number.partition(":")[0] == word]
    if not chosen:
        there = ", ".join(f"{gpu.number} ({gpu.name})" for gpu in found)
        raise Failure(
            "unknown_gpu",
            f"This machine has no GPU {word!r}{_because_of_the_variable()}.",
            param="--gpus",
            hint=f"There are: {there}. Write their numbers or ids with commas between them.",
        )
    return chosen


def _named(visible: str) -> list[Gpu]:
    """Return the GPUs of the variable; like CUDA, leave out what follows on one that is no GPU's, such as -1."""
    found = []
    for word in (word.strip() for word in visible.split(",")):
        if not (word.isdecimal() or word.startswith(("GPU-", "MIG-"))):
            break
        found.append(Gpu(word, word, "GPU"))
    return found


def _because_of_the_variable() -> str:
    visible = os.environ.get(VISIBLE)
    return "" if visible is None else f" that {VISIBLE}={visible} lets it use"


def _not_listed(why: str) -> Failure:
    return Failure(
        "gpus_not_listed",
        f"This machine seems to have GPUs, but which ones cannot be told: {why}.",
        param="--gpus",
        hint=f"Mend the driver, set {VISIBLE}, or say --gpus none for workers on the CPU.",
    )
