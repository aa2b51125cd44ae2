"""/v1/selections/{id}/results: the ranking, readable from the first evaluated model on."""

import csv
import io
import math
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Response
from pydantic import BaseModel, Field

from app.api.access import Reader, ServiceDep
from app.api.envelopes import Notice
from app.api.forecasts import ForecastTime, as_time
from app.api.polling import WITH_ETAG, IfNoneMatch, etag, is_known, not_modified
from app.api.problems import JobError, responses
from app.domain.states import SELECTION_TERMINAL
from app.scoring.registry import RANKED_BY
from app.storage.repositories.finetunes import proof_of
from app.storage.repositories.model_filters import describe
from app.storage.repositories.selections import Selections, evaluations_of, seen_revision
from app.storage.tables import Evaluation, Finetune, Model, Selection

router = APIRouter(tags=["selections"])

_FORECAST = [
    *("forecast", "forecast_steps", "forecast_seconds", "forecast_seconds_low", "forecast_seconds_high"),
    *("forecast_cost", "forecast_error"),
]
_VERIFIED = ["verified", "verified_accuracy", "verified_accuracy_low", "verified_accuracy_high"]


_ANSWERS: dict[int | str, dict[str, Any]] = {
    **WITH_ETAG,
    200: {**WITH_ETAG[200], "content": {"text/csv": {"schema": {"type": "string"}}}},
}


class ShuffledLabels(BaseModel):
    """The value of a score when labels say nothing."""

    mean: float
    origin: str


class ScoreView(BaseModel):
    """One score of one model; larger is better."""

    value: float | None
    stderr: float | None
    null: ShuffledLabels | None = Field(default=None, description="What shuffled labels would score: compare with it.")
    warnings: list[str] = []
    error: JobError | None = Field(default=None, description="Why the score is not defined here.")


class Estimate(BaseModel):
    """A value with an interval, and where it comes from."""

    mean: float
    interval: tuple[float, float]
    level: float
    origin: str


class Verified(BaseModel):
    """What really fine-tuning a model gave."""

    finetune: str
    verdict: str
    test_accuracy: float | None = Field(description="Measured, of images that training has not seen.")
    interval: tuple[float, float] | None
    interval_level: float | None
    learning_rate: float | None
    steps: int
    seconds: float
    error: JobError | None


class PrecisionView(BaseModel):
    """In which precision a model's features were computed, and how that was checked against float32."""

    used: str = Field(description="`float32`, `float16` or `bfloat16`.")
    wanted: str | None = Field(default=None, description="The reduced precision that was tried; null: none was.")
    images: int | None = Field(default=None, description="How many were computed in both.")
    relative_error: float | None = Field(default=None, description="Of how much images differ: 0.01 is one percent.")
    same_neighbours: float | None = Field(default=None, description="Share of them whose nearest neighbour stayed.")
    reason: str | None = Field(default=None, description="Why float32 was used instead.")


class RankedModel(BaseModel):
    """One row of the ranking; `rank` is null until the model is evaluated."""

    rank: int | None
    rank_interval: tuple[int, int] | None
    tie_group: int | None
    model: str
    name: str
    version: int
    parameters: int | None
    license: str
    pretraining: list[str]
    score: float | None
    probability_of_best: float | None
    probability_of_top_k: float | None = Field(description="Of being among the first `evidence.top_k`.")
    probe_accuracy: Estimate | None
    images: int | None = Field(description="How many images the model's place rests on.")
    scores: dict[str, ScoreView]
    forecast: ForecastTime | None = Field(description="Of fine-tuning, where the selection has a target.")
    forecast_error: JobError | None = Field(description="Why there is no forecast.")
    verified: Verified | None = Field(description="Measured by really fine-tuning the model, where `verify` asked to.")
    precision: PrecisionView | None = Field(description="Null until the model is evaluated.")
    seconds: dict[str, float] | None
    cached: bool | None
    status: str
    error: JobError | None


class Results(BaseModel):
    """A ranking. `final` turns true once, with the last revision."""

    selection: str
    revision: int
    final: bool
    status: str
    ranked_by: str
    verdict: str | None
    evidence: dict[str, Any]
    warnings: list[Notice] = Field(description="Of the selection, such as `model_deprecated`.")
    data: list[RankedModel]
    has_more: bool = False


@router.get(
    "/v1/selections/{selection_id}/results",
    response_model=Results,
    summary="Read the ranking",
    responses=responses(401, 403, 404, 410, 422, also=_ANSWERS),
)
def get_results(
    selection_id: str,
    response: Response,
    service: ServiceDep,
    caller: Reader,
    format: Annotated[Literal["json", "csv"] | None, Query(description="Overrides the Accept header.")] = None,  # noqa: A002
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    sort: Annotated[
        Literal["rank", "seconds"], Query(description="By rank, or by the forecast time; models without one come last.")
    ] = "rank",
    max_seconds: Annotated[
        float | None,
        Query(
            gt=0, allow_inf_nan=False, description="Only models that are forecast to reach the target within this time."
        ),
    ] = None,
    if_none_match: IfNoneMatch = None,
) -> Any:
    """Return the ranking as far as it has come: evaluated models by rank, then the others by name."""
    with service.database.read() as session:
        selections = Selections(session, caller.tenant)
        revision, _ = selections.revision(selection_id)
        if is_known(revision, if_none_match):
            return not_modified(revision)
        selection = selections.get(selection_id)
        proof = proof_of(session, selection_id) if selection.verify else None
        revision = seen_revision(selection.revision, selection.state, proof.revision if proof else None)
        rows = [_row(selection, proof, *found) for found in evaluations_of(session, selection_id)]
    rows.sort(key=lambda row: (row.rank is None, row.rank or 0, row.name))
    if sort == "seconds":
        rows.sort(key=_seconds)
    if max_seconds is not None:
        rows = [row for row in rows if _seconds(row) <= max_seconds]
    if format == "csv" or (format is None and "text/csv" in accept):
        return Response(_as_csv(rows, selection), media_type="text/csv", headers={"ETag": etag(revision)})
    ranking = selection.ranking or {}
    response.headers["ETag"] = etag(revision)
    return Results(
        selection=selection.id,
        revision=revision,
        final=selection.state in SELECTION_TERMINAL,
        status=selection.state,
        ranked_by=RANKED_BY,
        verdict=ranking.get("verdict"),
        evidence=ranking.get("evidence", {}),
        warnings=[Notice(**warning) for warning in selection.warnings],
        data=rows,
    )


def _row(selection: Selection, proof: Finetune | None, evaluation: Evaluation, model: Model) -> RankedModel:
    place = (selection.ranking or {}).get("models", {}).get(model.id, {})
    result, described = evaluation.result or {}, describe(model)
    found = result.get("scores", {})
    if place and place.get("images") != result.get("images"):
        found = {}  # of more images than this place rests on: a race in progress, or ended by its budget
    found = found | place.get("relative_scores", {})
    shown = {name: found[name] for name in selection.scores if name in found}
    forecast, forecast_error = as_time(result.get("forecast"))
    return RankedModel(
        rank=place.get("rank"),
        rank_interval=place.get("rank_interval"),
        tie_group=place.get("tie_group"),
        model=model.id,
        name=model.name,
        version=model.version,
        parameters=described.parameters,
        license=described.license,
        pretraining=list(described.pretrained_on),
        score=place.get("accuracy"),
        probability_of_best=place.get("probability_of_best"),
        probability_of_top_k=place.get("probability_of_top_k"),
        probe_accuracy=Estimate(**place["probe_accuracy"]) if "probe_accuracy" in place else None,
        images=place.get("images"),
        scores={name: ScoreView(**score) for name, score in shown.items()},
        forecast=forecast,
        forecast_error=forecast_error,
        verified=_verified(proof, model),
        precision=PrecisionView(**result["precision"]) if "precision" in result else None,
        seconds=result.get("seconds"),
        cached=result.get("cached"),
        status=evaluation.state,
        error=JobError(**evaluation.error) if evaluation.error else None,
    )


def _verified(proof: Finetune | None, model: Model) -> Verified | None:
    if proof is None:
        return None
    for entry in (proof.result or {}).get("models", []):
        if entry["model"] == model.id:
            return Verified(**{name: entry[name] for name in Verified.model_fields if name in entry}, finetune=proof.id)
    return None


def _seconds(row: RankedModel) -> float:
    found = row.forecast.seconds if row.forecast else None
    return math.inf if found is None else found


def _as_csv(rows: list[RankedModel], selection: Selection) -> str:
    scores = selection.scores
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    columns = ["rank", "rank_low", "rank_high", "tie_group", "name", "model", "parameters", "images", "status"]
    columns += _FORECAST if selection.target else []
    columns += _VERIFIED if selection.verify else []
    writer.writerow(columns + [column for name in scores for column in (name, f"{name}_stderr")] + ["error"])
    for row in rows:
        low, high = row.rank_interval or ("", "")
        cells: list[object] = [
            row.rank,
            low,
            high,
            row.tie_group,
            row.name,
            row.model,
            row.parameters,
            row.images,
            row.status,
        ]
        if selection.target:
            cells += _forecast_cells(row)
        if selection.verify:
            proof = row.verified
            worst, best = (proof.interval if proof else None) or (None, None)
            cells += [proof.verdict, proof.test_accuracy, worst, best] if proof else [""] * len(_VERIFIED)
        for name in scores:
            score = row.scores.get(name)
            cells += [score.value, score.stderr] if score else ["", ""]
        writer.writerow([*cells, row.error.code if row.error else ""])
    return text.getvalue()


def _forecast_cells(row: RankedModel) -> list[object]:
    time, error = row.forecast, row.forecast_error
    if time is None:
        return [*[""] * (len(_FORECAST) - 1), error.code if error else ""]
    soonest, latest = time.seconds_interval or (None, None)
    return [time.verdict, time.steps, time.seconds, soonest, latest, time.cost, ""]
