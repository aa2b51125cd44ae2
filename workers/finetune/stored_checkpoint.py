"""A checkpoint that any worker can go on from: kept in the object store."""

import shutil
from pathlib import Path

from app.storage.objects import Objects
from workers.finetune.checkpoint import Checkpoint
from workers.finetune.training import TrainingState


class StoredCheckpoint(Checkpoint):
    """A checkpoint that is uploaded whenever it is saved."""

    def __init__(self, objects: Objects, name: str, folder: Path, key: str) -> None:
        """Name the object.

        Args:
            objects: the store.
            name: of the object.
            folder: that exists, for a file while it is written or read.
            key: of the work, as of ``Checkpoint``.
        """
        super().__init__(folder / Path(name).name, key)
        self._objects = objects
        self._name = name

    def save(self, state: TrainingState) -> None:
        """Write ``state``; when this returns, it is in the store."""
        try:
            super().save(state)
            with self.path.open("rb") as file, self._objects.create(self._name) as target:
                shutil.copyfileobj(file, target)
        finally:
            super().remove()

    def load(self) -> TrainingState | None:
        """Return the last state that any worker saved; None where there is none.

        Raises:
            SafetensorError: the file is damaged.
        """
        try:
            with self._objects.open(self._name) as source, self.path.open("wb") as file:
                shutil.copyfileobj(source, file)
            return super().load()
        except FileNotFoundError:
            return None
        finally:
            super().remove()

    def remove(self) -> None:
        """Delete the object."""
        self._objects.delete(self._name)
