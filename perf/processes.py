"""Memory and processor time of processes that are measured from outside, as Linux tells them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Look:
    """What some processes together had at one moment."""

    resident_mib: float
    peak_mib: float
    seconds: float


class Processes:
    """Named groups of processes."""

    def __init__(self, ids: Mapping[str, Sequence[int]]) -> None:
        """Begin with what ``ids`` names; peaks count from now on."""
        self._ids = ids
        for pid in (pid for pids in ids.values() for pid in pids):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak of resident memory

    def look(self) -> dict[str, Look]:
        """Return what each group has, and has had at most."""
        return {
            name: Look(
                sum(resident_mib(pid, "VmRSS") for pid in pids),
                sum(resident_mib(pid, "VmHWM") for pid in pids),
                sum(_seconds(pid) for pid in pids),
            )
            for name, pids in self._ids.items()
        }


def resident_mib(pid: int, field: str) -> float:
    """Return ``VmRSS``, the resident memory, or ``VmHWM``, its peak, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def own_seconds() -> float:
    """Return the processor time of this process."""
    return _seconds(os.getpid())


def print_processes(before: Mapping[str, Look], after: Mapping[str, Look], seconds: float) -> None:
    """Print a table of memory and of processor time over so many seconds."""
    print("| process | MiB before | peak MiB | MiB after | of a core |\n|---|--:|--:|--:|--:|")
    for name, was in before.items():
        now = after[name]
        share = (now.seconds - was.seconds) / seconds
        print(f"| {name} | {was.resident_mib:.0f} | {now.peak_mib:.0f} | {now.resident_mib:.0f} | {share:.0%} |")
