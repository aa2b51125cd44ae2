"""Scores of other installed packages: entry points of the group ``foretune.scores``, each a ``contract.Score``.

A package names them in its pyproject.toml:

    [project.entry-points."foretune.scores"]
    centre_margin = "my_scores:CENTRE_MARGIN"
"""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from app.scoring.contract import Score

GROUP = "foretune.scores"


@dataclass(frozen=True)
class Refused:
    """An entry point that gives no score.

    Attributes:
        name: of the entry point.
        target: what it points at, ``module:object``.
        reason: why it was refused.
    """

    name: str
    target: str
    reason: str


@dataclass(frozen=True)
class Found:
    """The entry points of all installed packages, read once.

    Attributes:
        scores: by their names.
        refused: what was left out.
    """

    scores: Mapping[str, Score]
    refused: tuple[Refused, ...]


def installed(*, taken: frozenset[str] = frozenset()) -> Mapping[str, Score]:
    """Return the scores of other installed packages by name; warn of those that cannot be used.

    Args:
        taken: names that a score may not have, those of the built-in scores.
    """
    found = find_installed(taken)
    for refused in found.refused:
        warnings.warn(
            f"The score {refused.name!r} of {refused.target} is left out: {refused.reason}.",
            RuntimeWarning,
            stacklevel=2,
        )
    return found.scores


@functools.cache
def find_installed(taken: frozenset[str]) -> Found:
    """Return the scores of other installed packages, and what was left out, without a warning."""
    scores: dict[str, Score] = {}
    refused = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        loaded = _load(entry)
        if isinstance(loaded, Score) and loaded.name in taken:
            loaded = f"a built-in score is named {loaded.name!r}"
        elif isinstance(loaded, Score) and loaded.name in scores:
            loaded = f"another package has a score named {loaded.name!r}"
        if isinstance(loaded, Score):
            scores[loaded.name] = loaded
        else:
            refused.append(Refused(entry.name, entry.value, loaded))
    return Found(MappingProxyType(scores), tuple(refused))


def _load(entry: EntryPoint) -> Score | str:
    """Return the score of an entry point, or why there is none."""
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001  # foreign code: whatever it raises is told as the reason
        return f"loading it raised {type(error).__name__}: {error}"
    return loaded if isinstance(loaded, Score) else f"it is of type {type(loaded).__name__}, not a Score"
