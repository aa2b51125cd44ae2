"""Every score there is. A new one is a function from ``Panel`` to ``Result`` and a statement in ``catalog/``.

Scores of other installed packages (``extensions``) are found by name too, and are computed only where they are named.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from app.domain.errors import BadRequest
from app.scoring.catalog import features, gradients, heads, priors, source_data
from app.scoring.contract import Score

RANKED_BY = "linear_probe"
"""The score whose held-out answers decide the order, as long as no benchmark has shown a better one."""

DEFAULT_SCORES = (
    "linear_probe",
    "knn",
    "lda",
    "ridge_gcv",
    "logme",
    "hscore_regularized",
    "transrate_scalefree",
    "lfc",
    "lfc_offdiagonal",
    "lfc_centered",
    "nce",
    "leep",
)
"""What a selection computes unless it asks for others: one or two of every kind, none of them slow."""

SCORES: MappingProxyType[str, Score] = MappingProxyType(
    {
        score.name: score
        for score in (
            *features.STATEMENTS,
            *gradients.STATEMENTS,
            *heads.STATEMENTS,
            *source_data.STATEMENTS,
            *priors.STATEMENTS,
        )
    }
)


def to_measure(names: Iterable[str]) -> tuple[str, ...]:
    """Return the scores to compute for each model so that it can be ranked and ``names`` be shown.

    The score that ranks comes first; one that is relative to the zoo stands for its parts.

    Raises:
        BadRequest: ``unknown_score``.
    """
    wanted = [RANKED_BY]
    for score in map(find, names):
        wanted += [part for part, _ in score.combines] if score.zoo_relative else [score.name]
    return tuple(dict.fromkeys(wanted))


def find(name: str) -> Score:
    """Return the score of this name, built in or of an installed package.

    Raises:
        BadRequest: ``unknown_score``; the hint lists the names.
    """
    score = SCORES.get(name) or all_scores().get(name)
    if score is None:
        raise BadRequest(
            "unknown_score",
            f"There is no score named {name!r}.",
            param="scores",
            hint=f"Choose from: {', '.join(all_scores())}.",
        )
    return score


def all_scores() -> Mapping[str, Score]:
    """Return the scores of this package, then those of other installed packages."""
    from app.scoring.extensions import installed  # here, for looking through the installed packages takes time

    return {**SCORES, **installed(taken=frozenset(SCORES))}
