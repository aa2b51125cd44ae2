"""Where the models of a selection stand: by which look each is ranked, with its answers on that look's images."""

import dataclasses
from dataclasses import dataclass

from app.domain.ranking import Candidate
from app.domain.states import EvaluationState
from app.storage.objects import Objects
from app.storage.tables import Evaluation, Model
from workers.feature_cache import CacheKey, ScoredModel, load_scores

_OUT = frozenset({EvaluationState.FAILED, EvaluationState.CANCELLED})


@dataclass(frozen=True, eq=False)
class Standing:
    """One model that can be ranked.

    Attributes:
        evaluation: of the model.
        candidate: the model with its answers.
        scored: its scores on the images of the look.
        look: which look that is, from 1 on.
        is_dropped: whether it left the race with it.
    """

    evaluation: Evaluation
    candidate: Candidate
    scored: ScoredModel
    look: int
    is_dropped: bool

    def dropped(self) -> "Standing":
        """Return the same model, out of the race."""
        return dataclasses.replace(self, is_dropped=True)


def standings(objects: Objects, evaluations: list[tuple[Evaluation, Model]]) -> list[Standing]:
    """Return where each model stands of which something is known.

    Models are only compared on the same images: all that are still in a race are ranked by the latest look that each of
    them has behind it, those that were dropped by their last one.

    Raises:
        FileNotFoundError: scores are not in the object store.
    """
    seen = [
        (evaluation, model, [CacheKey(**key) for key in (evaluation.result or {}).get("cache_keys", [])])
        for evaluation, model in evaluations
        if evaluation.state not in _OUT
    ]
    racing = [
        len(keys)
        for evaluation, _, keys in seen
        if evaluation.state != EvaluationState.ELIMINATED and (keys or evaluation.state != EvaluationState.OVER_BUDGET)
    ]
    common = max(1, min(racing, default=1))
    found = []
    for evaluation, model, keys in seen:
        if not keys:
            continue
        is_dropped = evaluation.state == EvaluationState.ELIMINATED
        look = len(keys) if is_dropped else common
        assert model.facts is not None  # only active models come into a selection
        scored = load_scores(objects, keys[look - 1])
        if scored is None:
            raise FileNotFoundError(f"the scores of evaluation {evaluation.id} are not in the object store")
        candidate = Candidate(
            id=model.id, name=model.name, parameters=model.facts["parameters"], correct_N=scored.correct_E
        )
        found.append(Standing(evaluation, candidate, scored, look, is_dropped))
    return found
