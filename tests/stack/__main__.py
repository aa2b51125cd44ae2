"""``make stack``: runs the stack of docker-compose.yml on this machine until Ctrl-C.

FORETUNE_ZOO_MANIFEST and other settings of the calling shell reach every process.
"""

import os
import signal
import tempfile
import threading
from pathlib import Path

from tests.fixtures.stack import running_stack


def main() -> None:
    """Start it, tell where it is, and wait."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    own = {name: value for name, value in os.environ.items() if name.startswith("FORETUNE_")}
    with tempfile.TemporaryDirectory(prefix="foretune-stack-") as folder:
        print("Starting PostgreSQL, Redis, an S3 server, 2 API processes and 2 workers ...")
        with running_stack(Path(folder), environment=own) as stack:
            print(f"export FORETUNE_URL={stack.urls[0]} FORETUNE_KEY={stack.key}")
            print(f"interfaces   {'  '.join(stack.urls)}")
            print(f"logs         {folder}/*.log")
            print("Stop it with Ctrl-C; nothing of it is kept.", flush=True)
            ended.wait()
            print("Stopping ...")


if __name__ == "__main__":
    main()
