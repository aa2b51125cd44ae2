"""What lies in the object store and nothing needs.

Ended fine-tunes leave checkpoints, and weights that no result names. A worker deletes them itself, unless it is killed,
or the fine-tune ends while nobody holds it. Of uploaded weights, those are left that no model names.
"""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

from app.storage.database import Database
from app.storage.objects import Objects, uploaded_weights
from app.storage.repositories.audit import NOBODY, record
from app.storage.repositories.finetunes import kept_objects
from app.storage.repositories.models import uploads_named

_FOLDER = "finetunes"
_WEIGHTS = "weights"
_WEIGHTS_STAY = timedelta(days=1)
"""The time there is to register a model with uploaded weights."""
_TOGETHER = 100
"""Fine-tunes whose results, with all of their curves, are read at a time."""


class Leftovers:
    """Finds them again and again, asking the database only once about what is to stay."""

    def __init__(self, database: Database, objects: Objects) -> None:
        """Look at nothing yet."""
        self._database = database
        self._objects = objects
        self._kept: set[str] = set()
        self._named: set[str] = set()

    def delete(self) -> int:
        """Delete all of it, and return how many objects that were."""
        return self.delete_of_finetunes() + self.delete_weights()

    def delete_weights(self) -> int:
        """Delete uploaded weights that no model names and that were uploaded more than a day ago."""
        old = [key for key in set(self._objects.keys(_WEIGHTS)) - self._named if self._is_old(key)]
        if not old:
            return 0
        by_digest = {PurePosixPath(key).stem: key for key in old}
        with self._database.read() as session:
            named = uploads_named(session, sorted(by_digest))
        self._named |= {by_digest[sha256] for sha256 in named}
        unnamed = sorted(by_digest.keys() - named)
        if not unnamed:
            return 0
        # Told first: a process that is killed in between leaves a line too many, not one too few.
        with self._database.write() as session:
            for sha256 in unnamed:
                if by_digest[sha256] == uploaded_weights(sha256):  # not what is left of a torn upload
                    record(session, actor="service", tenant=NOBODY, action="weights_deleted", target=sha256)
        for sha256 in unnamed:
            self._objects.delete(by_digest[sha256])
        return len(unnamed)

    def _is_old(self, key: str) -> bool:
        try:
            return self._objects.written_at(key) < datetime.now(UTC) - _WEIGHTS_STAY
        except FileNotFoundError:
            return False  # an upload that has just got its name

    def delete_of_finetunes(self) -> int:
        """Delete every object of an ended fine-tune that its result does not name, and return how many these were."""
        # Listed before the states are read: no result comes to name what is listed once its fine-tune has ended.
        listed = set(self._objects.keys(_FOLDER))
        self._kept &= listed
        found = defaultdict(set)
        for key in listed - self._kept:
            found[PurePosixPath(key).parent.name].add(key)
        ids, deleted = sorted(found), 0
        for start in range(0, len(ids), _TOGETHER):
            with self._database.read() as session:
                ended = kept_objects(session, ids[start : start + _TOGETHER])
            for finetune_id, named in ended.items():
                self._kept |= found[finetune_id] & named
                for key in found[finetune_id] - named:
                    self._objects.delete(key)
                    deleted += 1
        return deleted
