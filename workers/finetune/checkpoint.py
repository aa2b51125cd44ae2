"""The state of a fine-tuning in one file, from which another process goes on."""

import json
import os
import tempfile
from pathlib import Path

from safetensors.torch import load, save_file

from workers.finetune.training import TrainingState

_SIZE = 8  # bytes that hold the length of the header


class Checkpoint:
    """A safetensors file whose metadata holds the progress as JSON; nothing in it can run code.

    The file is replaced as a whole: a reader finds the old state or the new one.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Name the file, which need not exist.

        Args:
            path: in a folder that exists.
            key: of the work, such as a digest of model, data set and recipe; another work's file is not read.
        """
        self.path = path
        self.key = key

    def save(self, state: TrainingState) -> None:
        """Write ``state``; when this returns, it is on the disk."""
        metadata = {"key": self.key, "progress": json.dumps(state.progress)}
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f"{self.path.name}-", suffix=".partial")
        os.close(descriptor)
        partial = Path(name)
        try:
            save_file(state.tensors, partial, metadata=metadata)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)

    def load(self) -> TrainingState | None:
        """Return the last state saved; None where there is none, or it is another work's.

        Raises:
            SafetensorError: the file is damaged.
        """
        try:
            # Read at once: safe_open opens the path again for the tensors, and may find the next state there.
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        tensors = load(content)
        metadata = json.loads(content[_SIZE : _SIZE + int.from_bytes(content[:_SIZE], "little")])["__metadata__"]
        if metadata["key"] != self.key:
            return None
        return TrainingState(tensors, json.loads(metadata["progress"]))

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)
