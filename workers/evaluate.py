"""One model on one data set: features once, scores once, and both kept for whoever asks again."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from app.domain.errors import EvaluationFailed
from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec
from app.ingest.shard import iter_images
from app.scoring import Panel, Result, Score, find, measure, nulls
from app.scoring.inputs import FACTS
from app.scoring.measurement import measure_score
from app.scoring.registry import RANKED_BY, to_measure
from app.storage import leases
from app.storage.leases import Lease, LeaseLost
from app.storage.purge import delete_unreferenced
from app.storage.repositories.selections import begin
from app.storage.tables import Dataset, Evaluation, Model, Selection
from workers.explanation import explanation
from workers.extract.features import Extraction, extract
from workers.feature_cache import (
    CacheKey,
    ScoredModel,
    load_extraction,
    load_scores,
    load_units,
    store_explanation,
    store_extraction,
    store_scores,
    store_units,
)
from workers.images import EvaluatedImages, choose_images
from workers.lease import HeldLease
from workers.near_duplicates import near_duplicate_units
from workers.runtime import Runtime
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

_SMALL_MATRIX = 2_000_000
_PERMUTATIONS = 5


@dataclass(frozen=True)
class Task:
    """What an evaluation is of.

    Attributes:
        facts: what is known of the model without images, for the priors.
        scores: names of the scores that are asked for.
    """

    dataset_digest: str
    spec: ModelSpec
    facts: dict[str, float]
    scores: tuple[str, ...]


def evaluate(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Evaluate one model on one data set and store its scores.

    Raises:
        EvaluationFailed: the model cannot be evaluated on this data set.
        Interrupted: the worker is to stop.
        LeaseLost: nothing was stored but what is cached.
    """
    started = time.perf_counter()
    task = _begin(runtime, lease)
    key = CacheKey(task.dataset_digest, task.spec.digest, runtime.settings.max_images)
    try:
        scored = load_scores(runtime.objects, key)
        cached = scored is not None and set(task.scores) <= set(scored.scores)
        if scored is None or not cached:
            scored = _measure(runtime, task, key, held, scored)
        seconds = scored.seconds | {"total": round(time.perf_counter() - started, 3)}
        result = {
            "scores": {name: scored.scores[name] for name in task.scores},
            "seconds": seconds,
            "cached": cached,
            "cache_key": dataclasses.asdict(key),
            "explanation": key.explanation,
        }
        total = scored.images["evaluated"]
        progress = {"stage": "cached" if cached else "done", "done": total, "total": total}
        with runtime.database.write() as session:
            leases.finish(session, lease, result=result, progress=progress)
    except (Interrupted, LeaseLost):
        # The selection may have been cancelled and its data set deleted while features were being stored.
        delete_unreferenced(runtime.database, runtime.objects, task.dataset_digest)
        raise


def _measure(runtime: Runtime, task: Task, key: CacheKey, held: HeldLease, known: ScoredModel | None) -> ScoredModel:
    """Compute the scores that are not known yet; the network runs only when its features were not kept."""
    with runtime.objects.as_file(f"datasets/{task.dataset_digest}.parquet") as shard:
        images = choose_images(shard, runtime.settings.max_images)
        rows = images.rows_E.tolist()
        units_E = load_units(runtime.objects, key)
        if units_E is None:
            units_E = near_duplicate_units(iter_images(shard, rows))
            store_units(runtime.objects, key, units_E)
        extraction = load_extraction(runtime.objects, key)
        if extraction is None:
            extraction = _extract(runtime, task.spec, iter_images(shard, rows), len(rows), held)
            store_extraction(runtime.objects, key, extraction)
    # Threads that share a small matrix product mostly wait for each other: one is up to eight times as fast.
    threads = 1 if extraction.features_ND.size < _SMALL_MATRIX else None
    with threadpool_limits(threads, user_api="blas"):
        scored, why = _score(task, extraction, images, units_E, held, known)
    store_explanation(runtime.objects, key, why)
    store_scores(runtime.objects, key, scored)
    return scored


def _begin(runtime: Runtime, lease: Lease) -> Task:
    with runtime.database.write() as session:
        evaluation = session.get_one(Evaluation, lease.id)
        begin(session, evaluation.selection_id)
        selection = session.get_one(Selection, evaluation.selection_id)
        dataset = session.get_one(Dataset, selection.dataset_id)
        facts = session.get_one(Model, evaluation.model_id).facts
    assert dataset.digest is not None
    assert facts is not None  # only ready data sets and active models come into a selection
    known = {name: float(facts[name]) for name in FACTS if facts.get(name) is not None}
    return Task(dataset.digest, ModelSpec.from_dict(facts["resolved"]), known, to_measure(selection.scores))


def _extract(runtime: Runtime, spec: ModelSpec, frames: Iterator[Image], total: int, held: HeldLease) -> Extraction:
    held.report("loading", 0, total)
    network = load_network(spec, cached_weights(spec.source, runtime.settings.weights), runtime.device)
    return extract(
        network,
        frames,
        batch_size=runtime.settings.batch_size,
        on_progress=lambda done: held.report("extracting", done, total),
        should_stop=held.should_stop,
    )


def _score(
    task: Task,
    extraction: Extraction,
    images: EvaluatedImages,
    units_E: NDArray[np.int64],
    held: HeldLease,
    known: ScoredModel | None,
) -> tuple[ScoredModel, dict[str, Any]]:
    started = time.perf_counter()
    panel = Panel(
        extraction.features_ND,
        images.labels_E,
        source_probabilities=None if extraction.logits_NZ is None else softmax(extraction.logits_NZ, axis=1),
        facts=task.facts,
        units=units_E,
    )
    held.report("scoring", 0, len(task.scores))
    probe = measure(RANKED_BY, panel)
    scores = dict(known.scores) if known else {}
    for done, name in enumerate(task.scores):
        if name not in scores:
            scores[name] = _as_dict(probe) if name == RANKED_BY else _measured(find(name), panel)
        held.report("scoring", done + 1, len(task.scores))
    seconds = extraction.seconds | {"score": time.perf_counter() - started}
    scored = ScoredModel(
        scores=scores,
        labels_E=images.labels_E,
        correct_E=_answers(probe.per_image_N),
        held_out_E=_answers(probe.held_out_N),
        units_E=units_E,
        images=images.as_dict() | {"near_duplicates": len(units_E) - len(np.unique(units_E))},
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    return scored, explanation(panel, probe, images.labels_E)


def _measured(score: Score, panel: Panel) -> dict[str, Any]:
    """Return a score with the value of shuffled labels; one that is not defined here says why, and spoils no other."""
    try:
        result = measure_score(score, panel)
        null = None
        if "labels" in score.inputs:
            null = nulls.of(score, panel, result, permutations=_PERMUTATIONS)
    except EvaluationFailed as error:
        return {"value": None, "stderr": None, "null": None, "warnings": [], "error": error.as_dict()}
    return _as_dict(result, null)


def _as_dict(result: Result, null: nulls.Null | None = None) -> dict[str, Any]:
    shuffled = null and {"mean": null.mean, "origin": null.origin}
    return {
        "value": result.value,
        "stderr": result.stderr,
        "null": shuffled,
        "warnings": list(result.warnings),
        "error": None,
    }


def _answers(answers: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    assert answers is not None  # the probe predicts every image
    return answers
