"""What ended fine-tunes have left in the object store: checkpoints, and weights that no result names.

A worker deletes them itself, unless it is killed, or the fine-tune ends while nobody holds it.
"""

from collections import defaultdict
from pathlib import PurePosixPath

from app.storage.database import Database
from app.storage.objects import Objects
from app.storage.repositories.finetunes import kept_objects

_FOLDER = "finetunes"
_TOGETHER = 100
"""Fine-tunes whose results, with all of their curves, are read at a time."""


class Leftovers:
    """Finds them again and again, asking the database only once about what is to stay."""

    def __init__(self, database: Database, objects: Objects) -> None:
        """Look at nothing yet."""
        self._database = database
        self._objects = objects
        self._kept: set[str] = set()

    def delete(self) -> int:
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
