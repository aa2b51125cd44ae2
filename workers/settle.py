"""From what is known of the evaluations of a selection to a ranking, whenever more is known; and a race's next look."""

import dataclasses
from typing import Any

import structlog

from app.domain.errors import EvaluationFailed
from app.domain.racing import Look, eliminated, rank_race
from app.domain.ranking import Ranking, wilson_interval
from app.domain.resampling import effective_number
from app.domain.states import EVALUATION_TERMINAL, FINETUNE_TERMINAL, EvaluationState
from app.scoring import Score, find
from app.scoring.registry import RANKED_BY, to_measure
from app.scoring.zoo_relative import combine
from app.storage.repositories import selections
from app.storage.repositories.finetunes import proof_of
from app.storage.repositories.selections import NextLook, evaluations_of, is_spent, stop_for_budget
from app.storage.tables import Evaluation, Finetune, Model, Selection
from workers import verification
from workers.runtime import Runtime
from workers.standing import Standing, standings

log = structlog.get_logger()

LEVEL = 0.9
REPLICATES = 1000
TOP_K = 3


def settle(runtime: Runtime, selection_id: str) -> bool:
    """Rank what is known of a selection; begin the next look of a race; with its last evaluation, end it.

    Safe at any time and in any number: a ranking that knows more replaces one that knows less, and nothing else.

    Returns:
        Whether there is something to do again: the next look, or the fine-tune that proves the ranking.
    """
    selection, evaluations, proof = _read(runtime, selection_id)
    proven = proof is not None and proof.state in FINETUNE_TERMINAL
    known = sum(one.look + (one.state in EVALUATION_TERMINAL) for one, _ in evaluations) + proven
    if known <= selection.ranked:
        return False
    ended = all(one.state in EVALUATION_TERMINAL for one, _ in evaluations)
    standing = standings(runtime.objects, evaluations)
    next_look = None
    if not ended and not any(one.state in (EvaluationState.QUEUED, EvaluationState.RUNNING) for one, _ in evaluations):
        next_look = NextLook(frozenset(_eliminated(selection, standing)))
        standing = [one.dropped() if one.evaluation.id in next_look.eliminated else one for one in standing]
    ranking = _rank(selection, standing)
    ranking["verdict"] = _in_context(ranking["verdict"], selection, evaluations, standing, ended=ended)
    if proven and proof is not None and ranking["models"]:
        first_id = min(ranking["models"], key=lambda model_id: ranking["models"][model_id]["rank"])
        ranking["verdict"] += " " + verification.sentence(first_id, proof)
    to_prove = ended and bool(standing) and selection.verify is not None and not proven
    with runtime.database.write() as session:
        is_news = selections.settle(
            session,
            selection_id,
            ranked=known + len(next_look.eliminated if next_look else ()),
            ranking=ranking,
            ended=ended and not to_prove,
            error=None if standing else _nothing_ranked(selection, evaluations),
            next_look=next_look,
        )
        if is_news and to_prove and proof is None:
            verification.begin(session, selection, ranking["models"])
    if is_news:
        told = {"ranked": len(standing), "of": selection.evaluations, "ended": ended}
        log.info("selection.ranked", selection=selection_id, **told)
    return is_news and (next_look is not None or (to_prove and proof is None))


def _read(runtime: Runtime, selection_id: str) -> tuple[Selection, list[tuple[Evaluation, Model]], Finetune | None]:
    """Return a selection, its evaluations, and the fine-tune that proves it, if one was begun."""
    with runtime.database.read() as session:
        spent = is_spent(session, selection_id)
    if spent:
        with runtime.database.write() as session:
            stop_for_budget(session, selection_id)
    with runtime.database.read() as session:
        selection = session.get_one(Selection, selection_id)
        return selection, evaluations_of(session, selection_id), proof_of(session, selection_id)


def _eliminated(selection: Selection, standing: list[Standing]) -> list[str]:
    """Return the evaluations that a look drops from a race."""
    racing = [one for one in standing if one.evaluation.state == EvaluationState.WAITING]
    if selection.race is None or not racing:
        return []
    assert selection.looks is not None
    scored = racing[0].scored
    dropped = eliminated(
        [one.candidate for one in racing],
        scored.labels_E,
        keep=selection.race["keep"],
        error_probability=selection.race["error_probability"],
        number_of_looks=len(selection.looks) - 1,
        units_N=scored.units_E,
        replicates=REPLICATES,
    )
    return [one.evaluation.id for one in racing if one.candidate.id in dropped]


def _rank(selection: Selection, standing: list[Standing]) -> dict[str, Any]:
    if not standing:
        return {"verdict": None, "models": {}, "stability": None, "evidence": {}}
    racing = [one for one in standing if not one.is_dropped]
    dropped = [one for one in standing if one.is_dropped]
    latest_first = sorted({one.look for one in dropped}, reverse=True)
    groups = [racing] + [[one for one in dropped if one.look == look] for look in latest_first]
    keep = selection.race["keep"] if selection.race else TOP_K
    ranking = rank_race([_look(group) for group in groups if group], keep=keep, level=LEVEL, replicates=REPLICATES)
    result = _as_dict(ranking, selection, standing)
    by_model = {one.candidate.id: one.scored.scores for one in racing}
    for name in selection.scores:
        if find(name).zoo_relative:
            for model_id, value in _relative(find(name), by_model).items():
                result["models"][model_id]["relative_scores"][name] = value
    return result


def _relative(score: Score, by_model: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a score that compares candidates, for those that have all of its parts."""
    parts = [part for part, _ in score.combines]
    complete = [
        model_id
        for model_id, scores in by_model.items()
        if all(scores.get(part, {}).get("value") is not None for part in parts)
    ]
    if len(complete) < 2:
        error = EvaluationFailed(
            "zoo_required",
            f"The score {score.name} compares candidates, and {len(complete)} had all of its parts.",
            param=score.name,
            hint="Ask for more models, or look at the parts: " + ", ".join(parts) + ".",
        )
        return {model_id: {"value": None, "stderr": None, "error": error.as_dict()} for model_id in by_model}
    values = {part: [by_model[model_id][part]["value"] for model_id in complete] for part in parts}
    found = zip(complete, combine(score, values), strict=True)
    return {model_id: {"value": value, "stderr": None} for model_id, value in found}


def _look(group: list[Standing]) -> Look:
    scored = group[0].scored
    return Look(
        candidates=[one.candidate for one in group],
        labels_N=scored.labels_E,
        held_out_N=scored.held_out_E,
        units_N=scored.units_E,
    )


def _as_dict(ranking: Ranking, selection: Selection, standing: list[Standing]) -> dict[str, Any]:
    by_id = {one.candidate.id: one for one in standing}
    warnings = {
        code
        for one in standing
        for name in to_measure(selection.scores)
        for code in one.scored.scores.get(name, {}).get("warnings", [])
    }
    places = {}
    for place in ranking.models:
        scored = by_id[place.id].scored
        images = effective_number(scored.units_E[scored.held_out_E])
        values = dataclasses.asdict(place)
        values["relative_scores"] = {}
        values["images"] = scored.images["evaluated"]
        values["look"] = by_id[place.id].look
        values["probe_accuracy"] = {
            "mean": place.accuracy,
            "interval": wilson_interval(place.accuracy * images, images, LEVEL),
            "level": LEVEL,
            "origin": "cross-validated linear probe on frozen features",
        }
        places[place.id] = values
    first = by_id[ranking.models[0].id].scored
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
            "images": first.images | {"held_out": int(first.held_out_E.sum())},
            "race": None if selection.race is None else selection.race | {"looks": selection.looks},
            "warnings": sorted(warnings),
        },
    }


def _in_context(
    verdict: str | None,
    selection: Selection,
    evaluations: list[tuple[Evaluation, Model]],
    standing: list[Standing],
    *,
    ended: bool,
) -> str | None:
    """Return a verdict that says what it does not rest on yet, or never will."""
    if verdict is None:
        return None
    dropped = sum(one.is_dropped for one in standing)
    if dropped:
        verdict += f" Of {selection.evaluations} models {dropped} left the race early."
    seen = max(one.scored.images["evaluated"] for one in standing)
    all_images = selection.looks[-1] if selection.looks else seen
    models = f"{len(standing)} of {selection.evaluations} models" if len(standing) < selection.evaluations else ""
    images = f"{seen} of {all_images} images" if seen < all_images else ""
    so_far = " on ".join(part for part in (models, images) if part)
    if any(one.state == EvaluationState.OVER_BUDGET for one, _ in evaluations) and ended:
        budget = f"{selection.budget_seconds:g} worker-seconds"
        return f"The budget of {budget} ended with {so_far or 'all models'}: {verdict}"
    if not ended and so_far:
        return f"So far, with {so_far}: {verdict}"
    return verdict


def _nothing_ranked(selection: Selection, evaluations: list[tuple[Evaluation, Model]]) -> dict[str, str | None]:
    first = next((one.error for one, _ in evaluations if one.error), {})
    if any(one.state == EvaluationState.OVER_BUDGET for one, _ in evaluations):
        images = selection.looks[0] if selection.looks else 0
        return {
            "code": "budget_too_small",
            "message": f"The budget of {selection.budget_seconds:g} worker-seconds ended before a model had seen "
            f"{images} images.",
            "param": "budget.worker_seconds",
            "hint": "Raise it: the first model of a worker also has to be loaded.",
        }
    return {
        "code": "all_models_failed",
        "message": f"None of the {len(evaluations)} models could be evaluated; the first one's error: "
        f"{first.get('message')}",
        "param": None,
        "hint": first.get("hint") or "The results list each model's error.",
    }
