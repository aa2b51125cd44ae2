"""``python -m tests.fuzz``: asks a throwaway service at length, with an admin's key and with a user's."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import structlog

from tests.fixtures.servers import postgres
from tests.fixtures.service import empty_zoo_settings, own_database, run_service
from tests.fuzz.run import PHASES, SCOPES, fuzz


def main() -> None:
    """Run it, print what was found, and exit with 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=200, help="requests for each operation and phase, at most")
    parser.add_argument("--phases", default=PHASES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--who", choices=[*SCOPES], action="append", help="with whose key; by default with both")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as folder, postgres() as server, Path(folder, "log").open("w+") as log:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        for who in options.who or SCOPES:
            started = time.monotonic()
            with own_database(server.url, f"fuzzed_by_{who}") as url:
                settings = empty_zoo_settings(Path(folder, who), max_upload_bytes=1 << 20, database_url=url)
                with run_service(settings) as service:
                    found = fuzz(
                        service, who, Path(folder), examples=options.examples, phases=options.phases, seed=options.seed
                    )
            print(found.text)
            print(f"{who}: {found.requests:,} requests, {found.failures} failures, {time.monotonic() - started:.0f} s")
            failed |= found.failures > 0
        log.seek(0)
        print(*(line for line in log if '"request.failed"' in line), sep="")  # with the traceback of each 500
    sys.exit(failed)


if __name__ == "__main__":
    main()
