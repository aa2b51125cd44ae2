"""From the evaluations that have ended to a ranking, after every one of them."""

import dataclasses
from typing import Any

import structlog

from app.domain.ranking import Candidate, Ranking, rank, wilson_interval
from app.domain.states import EVALUATION_TERMINAL, EvaluationState
from app.scoring import Score, find
from app.scoring.registry import RANKED_BY, to_measure
from app.scoring.zoo_relative import combine
from app.storage.repositories import selections
from app.storage.repositories.selections import evaluations_of
from app.storage.tables import Evaluation, Model, Selection
from workers.feature_cache import CacheKey, ScoredModel, load_scores
from workers.runtime import Runtime

log = structlog.get_logger()

LEVEL = 0.9
REPLICATES = 1000


def settle(runtime: Runtime, selection_id: str) -> None:
    """Rank what is known of a selection; with its last evaluation, end it.

    Safe at any time and in any number: a ranking of more ended evaluations replaces one of fewer, and nothing else.
    """
    with runtime.database.read() as session:
        selection = session.get_one(Selection, selection_id)
        evaluations = [pair for pair in evaluations_of(session, selection_id) if pair[0].state in EVALUATION_TERMINAL]
    if len(evaluations) <= selection.ranked:
        return
    done = [(evaluation, model) for evaluation, model in evaluations if evaluation.state == EvaluationState.DONE]
    ranking = (
        _rank(runtime, done, selection.scores)
        if done
        else {"verdict": None, "models": {}, "stability": None, "evidence": {}}
    )
    if len(evaluations) < selection.evaluations and done:
        ranking["verdict"] = f"So far, with {len(done)} of {selection.evaluations} models: {ranking['verdict']}"
    error = None if done else _nothing_ranked(evaluations)
    with runtime.database.write() as session:
        is_news = selections.settle(session, selection_id, ranked=len(evaluations), ranking=ranking, error=error)
    if is_news:
        log.info("selection.ranked", selection=selection_id, ended=len(evaluations), of=selection.evaluations)


def _rank(runtime: Runtime, done: list[tuple[Evaluation, Model]], asked: list[str]) -> dict[str, Any]:
    scored: list[ScoredModel] = []
    candidates = []
    for evaluation, model in done:
        assert evaluation.result is not None
        assert model.facts is not None
        answers = load_scores(runtime.objects, CacheKey(**evaluation.result["cache_key"]))
        if answers is None:
            raise FileNotFoundError(f"the scores of evaluation {evaluation.id} are not in the object store")
        scored.append(answers)
        candidates.append(
            Candidate(id=model.id, name=model.name, parameters=model.facts["parameters"], correct_N=answers.correct_E)
        )
    held_out_E = scored[0].held_out_E
    ranking = rank(
        candidates,
        scored[0].labels_E,
        replicates=REPLICATES,
        level=LEVEL,
        held_out_N=held_out_E,
        units_N=scored[0].units_E,
    )
    result = _as_dict(ranking, scored, int(held_out_E.sum()), asked)
    by_model = {candidate.id: one.scores for candidate, one in zip(candidates, scored, strict=True)}
    for name in asked:
        if find(name).zoo_relative:
            for model_id, value in _relative(find(name), by_model).items():
                result["models"][model_id]["relative_scores"][name] = value
    return result


def _relative(score: Score, by_model: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return a score that compares candidates, for those that have all of its parts."""
    parts = [part for part, _ in score.combines]
    complete = [
        model_id
        for model_id, scores in by_model.items()
        if all(scores.get(part, {}).get("value") is not None for part in parts)
    ]
    if not complete:
        return {}
    values = {part: [by_model[model_id][part]["value"] for model_id in complete] for part in parts}
    return dict(zip(complete, combine(score, values), strict=True))


def _as_dict(ranking: Ranking, scored: list[ScoredModel], held_out: int, asked: list[str]) -> dict[str, Any]:
    warnings = {
        code for one in scored for name in to_measure(asked) for code in one.scores.get(name, {}).get("warnings", [])
    }
    places = {}
    for place in ranking.models:
        values = dataclasses.asdict(place)
        values["relative_scores"] = {}
        values["probe_accuracy"] = {
            "mean": place.accuracy,
            "interval": wilson_interval(round(place.accuracy * held_out), held_out, LEVEL),
            "level": LEVEL,
            "origin": "cross-validated linear probe on frozen features",
        }
        places[place.id] = values
    return {
        "verdict": ranking.verdict,
        "stability": dataclasses.asdict(ranking.stability) if ranking.stability else None,
        "models": places,
        "evidence": {
            "ranked_by": RANKED_BY,
            "signal": ranking.signal,
            "method": ranking.method,
            "level": LEVEL,
            "top_k": ranking.top_k,
            "images": scored[0].images | {"held_out": held_out},
            "warnings": sorted(warnings),
        },
    }


def _nothing_ranked(evaluations: list[tuple[Evaluation, Model]]) -> dict[str, str | None]:
    first = evaluations[0][0].error or {}
    return {
        "code": "all_models_failed",
        "message": f"None of the {len(evaluations)} models could be evaluated; the first one's error: "
        f"{first.get('message')}",
        "param": None,
        "hint": first.get("hint") or "The results list each model's error.",
    }
