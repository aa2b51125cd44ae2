"""``make chaos ROUNDS=50 SEED=1``: faults, one after the other, on the stack of docker-compose.yml while it is used.

Prints a line for each fault and a table at the end. Exits with 1, and keeps all logs, when an invariant does not hold.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.chaos.faults import LEASE_SECONDS
from tests.chaos.rounds import Rounds
from tests.fixtures.stack import running_stack
from tests.fixtures.tiny_zoo import tiny_zoo

SETTINGS = {
    "FORETUNE_THREADS": "1",
    "FORETUNE_LEASE_SECONDS": f"{LEASE_SECONDS:g}",
    "FORETUNE_SWEEP_SECONDS": "1",
    "FORETUNE_RING_AGAIN_SECONDS": "5",
    "FORETUNE_OBJECTS_TIMEOUT_SECONDS": "2",
    "FORETUNE_RECEIVE_TIMEOUT_SECONDS": "60",
    "FORETUNE_REQUESTS_PER_MINUTE": "0",
}


def main() -> int:
    """Run it, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="chooses the faults, their order and what users do")
    parser.add_argument("--users", type=int, default=3)
    options = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # what was started is stopped, also in the background
    folder = Path(tempfile.mkdtemp(prefix="foretune-chaos-"))
    console.print(f"Starting the stack; its logs are in {folder} ...")
    (folder / "zoo").mkdir()
    (folder / "stack").mkdir()
    settings = {**SETTINGS, "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(folder / "zoo"))}
    with running_stack(folder / "stack", environment=settings) as stack:
        rounds = Rounds(stack, console, seed=options.seed, users=options.users)
        rounds.run(options.rounds)
        console.print(rounds.table())
    broken = rounds.broken()
    for one in broken:
        console.print(f"{one.kind}: {one.what}", style="red", markup=False, soft_wrap=True)
    if broken:
        console.print(f"Logs: {folder}/stack/*.log")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
