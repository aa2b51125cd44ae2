"""Who came lately: keys that were good a moment ago, and when each key was used last."""

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.storage.database import Database
from app.storage.repositories.keys import USE_IS_NOTED_EVERY, note_uses
from app.storage.tables import now

log = structlog.get_logger()


@dataclass(frozen=True)
class Caller:
    """Whose key a request came with.

    Attributes:
        key_id: of the key.
        tenant: whose data sets and selections it sees.
        scopes: what it may do.
        actor: names the key, and its user, in the audit logs.
        until: when the key, or this secret of it, ends, if that is known.
        is_previous_secret: whether the key was rotated since.
    """

    key_id: str
    tenant: str
    scopes: frozenset[str]
    actor: str
    until: datetime | None
    is_previous_secret: bool


class RecentCallers:
    """Keys that were good a moment ago: a client that polls is not looked up in the database every time.

    This process forgets all of them when it ends a key. Another one accepts a key for one more second after it was
    revoked, after its tenant was suspended, and after its secret was replaced without grace; expiry it knows.
    """

    SECONDS = 1.0
    _MOST = 4096

    def __init__(self) -> None:
        """Know nobody."""
        self._known: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def find(self, key: str) -> Caller | None:
        """Return who has this key, if it was found good within the last second."""
        until, caller = self._known.get(_fingerprint(key), (0.0, None))
        if caller is None or time.monotonic() >= until or (caller.until is not None and now() >= caller.until):
            return None
        return caller

    def has_met(self, key: str) -> bool:
        """Tell whether a key was good at some time not long ago; it need not be any more."""
        return _fingerprint(key) in self._known

    def remember(self, key: str, caller: Caller) -> None:
        """Note that a key is good now."""
        fingerprint = _fingerprint(key)
        self._known[fingerprint] = (time.monotonic() + self.SECONDS, caller)
        self._known.move_to_end(fingerprint)
        while len(self._known) > self._MOST:
            self._known.popitem(last=False)

    def forget(self, key: str | None = None) -> None:
        """Ask the database again: about one key, or about all of them."""
        if key is None:
            self._known.clear()
        else:
            self._known.pop(_fingerprint(key), None)


def _fingerprint(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class LastUses:
    """When each key was used last: collected here, so that no request waits for it to be written."""

    def __init__(self, database: Database) -> None:
        """Know of no use."""
        self._database = database
        self._used: dict[str, datetime] = {}
        self._noted: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def note(self, key_id: str) -> None:
        """Note that a key was used now."""
        self._used[key_id] = now()

    def write(self) -> None:
        """Store the uses since the last time, of each key once a minute; what cannot be stored waits."""
        with self._lock:
            used, self._used = self._used, {}
            due = {
                key_id: moment
                for key_id, moment in used.items()
                if key_id not in self._noted or moment - self._noted[key_id] > USE_IS_NOTED_EVERY
            }
            if not due:
                return
            try:
                with self._database.write() as session:
                    note_uses(session, due)
            except SQLAlchemyError as error:
                log.warning("keys.last_use_not_stored", keys=len(due), error=str(error))
                self._used = due | self._used
                return
            fresh = now() - USE_IS_NOTED_EVERY
            self._noted = {key_id: moment for key_id, moment in (self._noted | due).items() if moment > fresh}
