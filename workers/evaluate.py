"""One model on one data set: features once, scores once, and both kept for whoever asks again."""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from app.domain.errors import BadRequest, EvaluationFailed
from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec
from app.domain.states import EvaluationState
from app.forecasting.question import Question, answer
from app.scoring import Panel, find, measure
from app.scoring.inputs import FACTS
from app.scoring.registry import RANKED_BY, to_measure
from app.storage import leases
from app.storage.leases import Lease
from app.storage.purge import delete_unreferenced
from app.storage.repositories.evaluations import asked
from app.storage.repositories.selections import begin
from workers.explanation import explanation
from workers.extract.features import Extraction
from workers.extract.reuse import features_of
from workers.feature_cache import (
    CacheKey,
    ScoredModel,
    load_scores,
    load_units,
    store_explanation,
    store_scores,
    store_units,
)
from workers.gradient_scores import gradient_scores
from workers.images import stopping
from workers.lease import HeldLease
from workers.metrics import look_up
from workers.near_duplicates import near_duplicate_units
from workers.network_measurement import measured_network
from workers.runtime import Runtime
from workers.stored_score import as_dict, measured
from workers.subject import Subject
from workers.torch_products import TorchProducts

_SMALL_MATRIX = 2_000_000


@dataclass(frozen=True)
class Task:
    """What an evaluation is of.

    Attributes:
        facts: what is known of the model without images, for the priors.
        scores: names of the scores to compute.
        key: of all images that are evaluated, or of those of this look of a race, in the wanted precision.
        earlier: the keys of the looks before this one.
        question: what to forecast of fine-tuning, if anything.
        is_last: whether these are all images.
        before: seconds that earlier looks took.
    """

    dataset_digest: str
    spec: ModelSpec
    facts: dict[str, float]
    scores: tuple[str, ...]
    key: CacheKey
    earlier: tuple[CacheKey, ...]
    question: Question | None
    is_last: bool
    before: float


def evaluate(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Evaluate one model on one data set, or on one more subset of it, and store its scores.

    Raises:
        EvaluationFailed: the model cannot be evaluated on this data set.
        Interrupted: the worker is to stop, or the selection's budget is spent.
        LeaseLost: nothing was stored but what is cached.
    """
    started = time.perf_counter()
    task = _begin(runtime, lease, held)
    try:
        key, scored = _kept(runtime, task.key)
        cached = scored is not None and set(task.scores) <= set(scored.scores)
        look_up("scores", hit=cached)
        with Subject(runtime, task.spec, key, held) as subject:
            if scored is None or not cached:
                scored = _measure(subject, task, scored)
            forecast = _forecast(subject, task.earlier, task.question) if task.is_last and task.question else None
            ran, key = sorted(subject.ran), subject.key
        images = scored.images["evaluated"]
        result = {
            "forecast": forecast,
            "scores": {name: scored.scores[name] for name in task.scores},
            "seconds": scored.seconds | {"total": round(task.before + time.perf_counter() - started, 3)},
            "cached": cached,
            "ran": ran,
            "precision": scored.precision,
            "device": runtime.device_name,
            "cache_keys": [dataclasses.asdict(one) for one in (*task.earlier, key)],
            "images": images,
            "explanations": [one.explanation for one in (*task.earlier, key)],
        }
        with held.ending() as session:
            if task.is_last:
                progress = {"stage": "cached" if cached else "done", "done": images, "total": images}
                ran_on = runtime.device_name if "features" in ran and not task.earlier else None
                leases.finish(session, lease, result=result, progress=progress, ran_on=ran_on)
            else:
                look = len(task.earlier) + 1
                leases.finish(session, lease, result=result, state=EvaluationState.WAITING, look=look, progress=None)
    except Exception:
        # The selection may have been cancelled and its data set deleted while features were being stored: then any
        # failure, such as that of reading an image, may be the first sign of it.
        delete_unreferenced(runtime.database, runtime.objects, task.dataset_digest)
        raise


def _kept(runtime: Runtime, wanted: CacheKey) -> tuple[CacheKey, ScoredModel | None]:
    """Return the scores that were kept, and their key: those of float32 features do where others are wanted."""
    for key in wanted.alternatives:
        scored = load_scores(runtime.objects, key)
        if scored is not None:
            return key, scored
    return wanted, None


def _measure(subject: Subject, task: Task, known: ScoredModel | None) -> ScoredModel:
    """Compute the scores that are not known yet; the network runs only when its features were not kept."""
    objects = subject.runtime.objects
    units_E = load_units(objects, subject.key)
    if units_E is None:
        images = stopping(subject.decoded(subject.evaluated.rows_E.tolist()), subject.held.should_stop)
        units_E = near_duplicate_units(images)
        store_units(objects, subject.key, units_E)
    extraction = features_of(subject, task.earlier)
    known_scores = known.scores if known else {}
    wanted = [find(name) for name in task.scores if name not in known_scores]
    needy = [score for score in wanted if score.needs_gradients]
    of_gradients = gradient_scores(subject, needy, extraction.features_ND, units_E)
    # Threads that share a small matrix product mostly wait for each other: one is up to eight times as fast.
    threads = 1 if extraction.features_ND.size < _SMALL_MATRIX else None
    with threadpool_limits(threads, user_api="blas"), subject.runtime.stage("scores"):
        scored, why = _score(subject, task, extraction, units_E, known_scores | of_gradients)
    store_explanation(objects, subject.key, why)
    store_scores(objects, subject.key, scored)
    return scored


def _forecast(subject: Subject, earlier: tuple[CacheKey, ...], question: Question) -> dict[str, Any]:
    """Return the forecast without its curve, and the object it is made from; or why there is none."""
    try:
        stored, measured = measured_network(subject, earlier)
    except EvaluationFailed as error:
        if error.code == "out_of_memory":
            raise  # another attempt, or another worker, may have more
        return {"error": error.as_dict(), "object": None}
    try:
        with subject.runtime.stage("forecast"), threadpool_limits(1, user_api="blas"):
            found = answer(measured, question)
    except (EvaluationFailed, BadRequest) as error:
        return {"error": error.as_dict(), "object": stored}  # other questions may have an answer
    return {name: value for name, value in found.items() if name != "curve"} | {"error": None, "object": stored}


def _begin(runtime: Runtime, lease: Lease, held: HeldLease) -> Task:
    with runtime.database.write() as session:
        about = asked(session, lease.id)
        evaluation, selection, dataset, facts = about.evaluation, about.selection, about.dataset, about.model.facts
        begin(session, selection.id)
        if selection.budget_seconds is not None and selection.spent_seconds >= selection.budget_seconds:
            held.over_budget.set()
            raise Interrupted(f"Selection {selection.id} has spent its budget.")
    assert dataset.digest is not None
    assert facts is not None  # only ready data sets and active models come into a selection
    spec = ModelSpec.from_dict(facts["resolved"])
    known = {name: float(facts[name]) for name in FACTS if facts.get(name) is not None}
    looks, before = selection.looks or [], evaluation.result or {}
    earlier = tuple(CacheKey(**key) for key in before.get("cache_keys", []))
    is_last = evaluation.look + 1 >= len(looks)
    max_images = runtime.settings.max_images if is_last else looks[evaluation.look]
    return Task(
        dataset_digest=dataset.digest,
        spec=spec,
        facts=known,
        # Before the last look only what the race is run by is asked for.
        scores=to_measure(selection.scores) if is_last else (RANKED_BY,),
        # What one worker began in a precision another goes on with: no features of two precisions come together.
        key=CacheKey(
            dataset.digest,
            spec.digest,
            max_images,
            runtime.settings.gradients,
            earlier[-1].precision if earlier else runtime.precision,
        ),
        earlier=earlier,
        question=Question.from_dict(selection.target) if selection.target else None,
        is_last=is_last,
        before=before.get("seconds", {}).get("total", 0.0),
    )


def _score(
    subject: Subject,
    task: Task,
    extraction: Extraction,
    units_E: NDArray[np.int64],
    known: dict[str, dict[str, Any]],
) -> tuple[ScoredModel, dict[str, Any]]:
    started = time.perf_counter()
    device, images, held = subject.runtime.device, subject.evaluated, subject.held
    panel = Panel(
        extraction.features_ND,
        images.labels_E,
        source_probabilities=None if extraction.logits_NZ is None else softmax(extraction.logits_NZ, axis=1),
        facts=task.facts,
        units=units_E,
        products=TorchProducts(device) if device.type == "cuda" else None,
    )
    held.report("scoring", 0, len(task.scores))
    probe = measure(RANKED_BY, panel)
    scores = dict(known)
    for done, name in enumerate(task.scores):
        if name not in scores:
            scores[name] = as_dict(probe) if name == RANKED_BY else measured(find(name), panel)
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
        precision={"used": extraction.precision} | (extraction.check.as_dict() if extraction.check else {}),
    )
    return scored, explanation(panel, probe, images.labels_E)


def _answers(answers: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    assert answers is not None  # the probe predicts every image
    return answers
