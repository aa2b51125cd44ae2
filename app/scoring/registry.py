"""Every score there is. A new one is a function from ``Panel`` to ``Result`` and a statement in ``catalog/``."""

from types import MappingProxyType

from app.domain.errors import BadRequest
from app.scoring.catalog import features, heads, priors, source_data
from app.scoring.contract import Score

RANKED_BY = "linear_probe"
"""The score whose held-out answers decide the order, as long as no benchmark has shown a better one."""

SCORES: MappingProxyType[str, Score] = MappingProxyType(
    {
        score.name: score
        for score in (*features.STATEMENTS, *heads.STATEMENTS, *source_data.STATEMENTS, *priors.STATEMENTS)
    }
)


def find(name: str) -> Score:
    """Return the score of this name.

    Raises:
        BadRequest: ``unknown_score``; the hint lists the names.
    """
    try:
        return SCORES[name]
    except KeyError:
        raise BadRequest(
            "unknown_score",
            f"There is no score named {name!r}.",
            param="scores",
            hint=f"Choose from: {', '.join(SCORES)}.",
        ) from None
