"""Features in an npz file, or in a folder of npy files."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from app.client import Failure
from app.scoring import Panel, SourceClasses

_NEEDED = ("features", "labels")
_FACTS = ("parameters", "flops", "source_accuracy")
_OTHERS = ("gradients", "source_probabilities", "reference_features", "source_means", "source_weights", "units")
_MAPPED = ("features", "reference_features")
_HINT = "Write it with numpy.savez(path, features=..., labels=...); labels are numbers or strings, not objects."
_FOLDER_HINT = "Write it with numpy.save(path, array); labels are numbers or strings, not objects."


def read_panel(path: Path) -> Panel:
    """Return the arrays of a file as a panel; features in a folder are mapped, and may be larger than memory.

    Raises:
        Failure: ``file_not_readable``, ``invalid_feature_file``.
        EvaluationFailed: the arrays are refused, as ``Panel`` says.
    """
    arrays = _mapped(path) if path.is_dir() else _read(path)
    unknown = sorted(set(arrays) - {*_NEEDED, *_OTHERS, *_FACTS})
    if unknown:
        raise _invalid(
            path,
            f"has an array named {unknown[0]!r}",
            f"Arrays may be named {', '.join((*_NEEDED, *_OTHERS, *_FACTS))}.",
        )
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        held = ", ".join(arrays) or "no arrays"
        raise _invalid(path, f"has no array named {missing[0]!r}, only {held}", _HINT)
    if ("source_means" in arrays) != ("source_weights" in arrays):
        raise _invalid(path, "has one of source_means and source_weights without the other", "Give both, or neither.")
    facts = {name: arrays[name] for name in _FACTS if name in arrays}
    for name, value in facts.items():
        if value.size != 1 or value.dtype.kind not in "fiu":
            raise _invalid(path, f"has {value.dtype} of shape {value.shape} as {name!r}", f"{name} is a single number.")
    means = arrays.get("source_means")
    return Panel(
        arrays["features"],
        arrays["labels"],
        gradients=arrays.get("gradients"),
        source_probabilities=arrays.get("source_probabilities"),
        reference_features=arrays.get("reference_features"),
        source_classes=None if means is None else SourceClasses(means, arrays["source_weights"]),
        facts={name: float(value.reshape(())) for name, value in facts.items()},
        units=arrays.get("units"),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:  # opened here, for numpy leaves a broken archive open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _invalid(path, "holds a single array", _HINT)
            with archive:
                return {name: _plain(archive, name, path) for name in archive.files}
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _invalid(path, "is not a whole npz file", _HINT) from error


def _mapped(folder: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for path in sorted(folder.glob("*.npy")):
        try:
            arrays[path.stem] = np.load(path, mmap_mode="r" if path.stem in _MAPPED else None, allow_pickle=False)
        except OSError as error:
            raise _unreadable(path, error) from error
        except (ValueError, EOFError) as error:
            raise _invalid(path, "is not a whole npy file of numbers or strings", _FOLDER_HINT) from error
    return arrays


def _plain(archive: "np.lib.npyio.NpzFile", name: str, path: Path) -> Any:
    try:
        return archive[name]
    except ValueError as error:
        raise _invalid(path, f"has Python objects in the array {name!r}, which are not loaded", _HINT) from error


def _unreadable(path: Path, error: OSError) -> Failure:
    return Failure("file_not_readable", f"{path} cannot be read: {error}.", param=str(path), hint="Check the path.")


def _invalid(path: Path, problem: str, hint: str) -> Failure:
    return Failure("invalid_feature_file", f"{path} {problem}.", param=str(path), hint=hint)
