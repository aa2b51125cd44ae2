"""One model on one data set: features once, scores once, and both kept for whoever asks again."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from threadpoolctl import threadpool_limits

from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec
from app.ingest.shard import iter_images
from app.scoring import SCORES, Panel, Result, measure
from app.scoring.registry import RANKED_BY
from app.storage import leases
from app.storage.leases import Lease, LeaseLost
from app.storage.purge import delete_unreferenced
from app.storage.repositories.selections import begin
from app.storage.tables import Dataset, Evaluation, Model, Selection
from workers.extract.features import Extraction, extract
from workers.feature_cache import (
    CacheKey,
    ScoredModel,
    load_extraction,
    load_scores,
    store_extraction,
    store_scores,
)
from workers.images import EvaluatedImages, choose_images
from workers.lease import HeldLease
from workers.runtime import Runtime
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

_SMALL_MATRIX = 2_000_000


@dataclass(frozen=True)
class Task:
    """What an evaluation is of."""

    dataset_digest: str
    spec: ModelSpec


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
        cached = scored is not None
        if scored is None:
            scored = _measure(runtime, task, key, held)
        seconds = scored.seconds | {"total": round(time.perf_counter() - started, 3)}
        result = {"scores": scored.scores, "seconds": seconds, "cached": cached, "cache_key": dataclasses.asdict(key)}
        total = scored.images["evaluated"]
        progress = {"stage": "cached" if cached else "done", "done": total, "total": total}
        with runtime.database.write() as session:
            leases.finish(session, lease, result=result, progress=progress)
    except (Interrupted, LeaseLost):
        # The selection may have been cancelled and its data set deleted while features were being stored.
        delete_unreferenced(runtime.database, runtime.objects, task.dataset_digest)
        raise


def _measure(runtime: Runtime, task: Task, key: CacheKey, held: HeldLease) -> ScoredModel:
    with runtime.objects.as_file(f"datasets/{task.dataset_digest}.parquet") as shard:
        images = choose_images(shard, runtime.settings.max_images)
        extraction = load_extraction(runtime.objects, key)
        if extraction is None:
            frames = iter_images(shard, images.rows_E.tolist())
            extraction = _extract(runtime, task.spec, frames, len(images.rows_E), held)
            store_extraction(runtime.objects, key, extraction)
    held.report("scoring", 0, len(SCORES))
    scored = _score(extraction, images, held)
    store_scores(runtime.objects, key, scored)
    return scored


def _begin(runtime: Runtime, lease: Lease) -> Task:
    with runtime.database.write() as session:
        evaluation = session.get_one(Evaluation, lease.id)
        begin(session, evaluation.selection_id)
        dataset = session.get_one(Dataset, session.get_one(Selection, evaluation.selection_id).dataset_id)
        facts = session.get_one(Model, evaluation.model_id).facts
    assert dataset.digest is not None
    assert facts is not None  # only ready data sets and active models come into a selection
    return Task(dataset.digest, ModelSpec.from_dict(facts["resolved"]))


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


def _score(extraction: Extraction, images: EvaluatedImages, held: HeldLease) -> ScoredModel:
    started = time.perf_counter()
    results: dict[str, Result] = {}
    # Threads that share a small matrix product mostly wait for each other: one is up to eight times as fast.
    threads = 1 if extraction.features_ND.size < _SMALL_MATRIX else None
    with threadpool_limits(threads, user_api="blas"):
        panel = Panel(extraction.features_ND, images.labels_E)
        for done, (name, score) in enumerate(SCORES.items()):
            if score.needs_head and extraction.logits_NZ is None:
                continue
            results[name] = measure(name, panel)
            held.report("scoring", done + 1, len(SCORES))
    probe = results[RANKED_BY]
    seconds = extraction.seconds | {"score": time.perf_counter() - started}
    return ScoredModel(
        scores={name: _as_dict(result) for name, result in results.items()},
        labels_E=images.labels_E,
        correct_E=_answers(probe.per_image_N),
        held_out_E=_answers(probe.held_out_N),
        images=images.as_dict(),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def _as_dict(result: Result) -> dict[str, Any]:
    return {"value": result.value, "stderr": result.stderr, "warnings": list(result.warnings)}


def _answers(answers: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    assert answers is not None  # the probe predicts every image
    return answers
