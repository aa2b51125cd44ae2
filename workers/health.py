"""``python -m workers.health``: ends with 0 when all workers that are kept here were seen lately, for health checks."""

import socket
import sys

from app.config import Settings
from app.slot_lock import slots_in_use
from app.storage.database import Database
from app.storage.repositories.workers import is_alive


def main() -> int:
    """Look them up where workers note it every few seconds."""
    settings = Settings()
    slots = slots_in_use(settings.home)
    database = Database(settings.database_url)
    try:
        with database.read() as session:
            seen = [is_alive(session, f"{socket.gethostname()}/{slot}") for slot in slots]
    finally:
        database.close()
    return 0 if seen and all(seen) else 1


if __name__ == "__main__":
    sys.exit(main())
