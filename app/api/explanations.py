"""/v1/selections/{id}/models/{model}/explain: why a model stands where it stands."""

import json
import math
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from app.api.access import Reader, Service, ServiceDep
from app.api.problems import responses
from app.domain.errors import Conflict, NotFound
from app.storage.repositories.selections import Selections, evaluations_of
from app.storage.tables import Dataset, Evaluation, Model, Selection

router = APIRouter(tags=["selections"])

_BEYOND_CHANCE = 2.0
"""Standard errors by which two accuracies on one class differ to be called different."""


class ExplainedClass(BaseModel):
    """How the model does on one class."""

    name: str
    held_out: int
    accuracy: float | None = Field(description="Share of held-out images that the probe gets right.")
    against: float | None = Field(description="The other model's share.")
    beyond_chance: bool = Field(description="Whether the two differ by more than two standard errors.")
    contribution: float = Field(description="What the class adds to the correlation; all classes add up to it.")


class ConfusedClasses(BaseModel):
    """Held-out images of one class that the probe took for another."""

    name: str
    predicted: str
    images: int
    share: float = Field(description="Of the class's held-out images.")


class PairOfClasses(BaseModel):
    """What the images of two classes, or of one, add to the correlation."""

    names: tuple[str, str]
    contribution: float


class Correlation(BaseModel):
    """A label-feature correlation by pairs of classes, the largest parts first."""

    score: str
    value: float
    pairs: list[PairOfClasses]


class ComparedModel(BaseModel):
    """One of the two models."""

    model: str
    name: str
    rank: int


class Explanation(BaseModel):
    """Why a model stands where it stands; `summary` is the short of it."""

    selection: str
    revision: int
    model: ComparedModel
    against: ComparedModel | None
    summary: str
    classes: list[ExplainedClass]
    confusions: list[ConfusedClasses]
    correlation: Correlation


@router.get(
    "/v1/selections/{selection_id}/models/{model}/explain",
    summary="Explain a model's place in the ranking",
    responses=responses(401, 403, 404, 409, 410, 422),
)
def explain(
    selection_id: str,
    model: str,
    service: ServiceDep,
    caller: Reader,
    against: Annotated[
        str | None, Query(description="Id or name of the model to compare with; by default the next in rank.")
    ] = None,
) -> Explanation:
    """Return the classes a model helps, the pairs it confuses, and where it and another model differ."""
    with service.database.read() as session:
        selections = Selections(session, caller.tenant)
        revision, _ = selections.revision(selection_id)
        selection = selections.get(selection_id)
        evaluations = evaluations_of(session, selection_id)
        dataset = session.get_one(Dataset, selection.dataset_id)
    ranked = _by_rank(selection, evaluations)
    rank, evaluation, row = _find(ranked, model, "model", selection)
    other = _find(ranked, against, "against", selection) if against else _next(ranked, rank)
    names = [entry["name"] for entry in (dataset.report or {}).get("classes", [])]
    # In a race two models are compared by the last images that both have seen.
    look = min(_look(selection, one.id) for one in ([row, other[2]] if other else [row]))
    own = _stored(service, evaluation, look)
    compared = _stored(service, other[1], look) if other else None
    if own is None or not names or (other and compared is None):
        raise Conflict(
            "explanation_gone",
            f"What selection {selection_id} was computed from has been deleted with its data set.",
            param="selection",
            hint="Upload the data set again and ask for a new selection.",
        )
    return _explanation(selection_id, revision, names, (rank, row, own), other and (other[0], other[2], compared))


_Ranked = tuple[int, Evaluation, Model]


def _by_rank(selection: Selection, evaluations: list[tuple[Evaluation, Model]]) -> list[_Ranked]:
    places = (selection.ranking or {}).get("models", {})
    ranked = [(places[model.id]["rank"], evaluation, model) for evaluation, model in evaluations if model.id in places]
    return sorted(ranked, key=lambda entry: entry[0])


def _find(ranked: list[_Ranked], wanted: str, param: str, selection: Selection) -> _Ranked:
    for entry in ranked:
        if wanted in (entry[2].id, entry[2].name):
            return entry
    raise NotFound(
        "model_not_found",
        f"Selection {selection.id} has ranked no model {wanted}.",
        param=param,
        hint="Ranked so far: " + (", ".join(model.name for _, _, model in ranked) or "none; wait for the first") + ".",
    )


def _next(ranked: list[_Ranked], rank: int) -> _Ranked | None:
    """Return the model below, of the last one the model above."""
    neighbours = [entry for entry in ranked if entry[0] == rank + 1] or [e for e in ranked if e[0] == rank - 1]
    return neighbours[0] if neighbours else None


def _look(selection: Selection, model_id: str) -> int:
    place: dict[str, Any] = (selection.ranking or {})["models"][model_id]
    return int(place["look"])


def _stored(service: Service, evaluation: Evaluation, look: int) -> dict[str, Any] | None:
    key = (evaluation.result or {})["explanations"][look - 1]
    try:
        with service.objects.open(key) as file:
            found: dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return None


def _explanation(
    selection_id: str,
    revision: int,
    names: list[str],
    own: tuple[int, Model, dict[str, Any]],
    other: tuple[int, Model, Any] | None,
) -> Explanation:
    rank, model, found = own
    against = {entry["label"]: entry for entry in other[2]["classes"]} if other else {}
    held_out = {entry["label"]: entry["held_out"] for entry in found["classes"]}
    classes = [_explained(names, entry, against.get(entry["label"])) for entry in found["classes"]]
    confused = [
        ConfusedClasses(
            name=names[pair["label"]],
            predicted=names[pair["predicted"]],
            images=pair["images"],
            share=pair["images"] / held_out[pair["label"]],
        )
        for pair in found["confusions"]
    ]
    rival = ComparedModel(model=other[1].id, name=other[1].name, rank=other[0]) if other else None
    return Explanation(
        selection=selection_id,
        revision=revision,
        model=ComparedModel(model=model.id, name=model.name, rank=rank),
        against=rival,
        summary=_summary(model.name, classes, confused, rival),
        classes=classes,
        confusions=confused,
        correlation=Correlation(
            score=found["correlation"]["score"],
            value=found["correlation"]["value"],
            pairs=[
                PairOfClasses(
                    names=(names[pair["labels"][0]], names[pair["labels"][1]]), contribution=pair["contribution"]
                )
                for pair in found["correlation"]["pairs"]
            ],
        ),
    )


def _explained(names: list[str], own: dict[str, Any], other: dict[str, Any] | None) -> ExplainedClass:
    accuracy = _accuracy(own)
    against = _accuracy(other) if other else None
    differs = False
    if other and accuracy is not None and against is not None:
        error = math.sqrt(_squared_error(own) + _squared_error(other))
        differs = abs(accuracy - against) > _BEYOND_CHANCE * error
    return ExplainedClass(
        name=names[own["label"]],
        held_out=own["held_out"],
        accuracy=accuracy,
        against=against,
        beyond_chance=differs,
        contribution=own["contribution"],
    )


def _accuracy(answers: dict[str, Any]) -> float | None:
    return answers["right"] / answers["held_out"] if answers["held_out"] else None


def _squared_error(answers: dict[str, Any]) -> float:
    # Half an answer added each way keeps the error above zero where all answers are right, or all wrong.
    share = (answers["right"] + 0.5) / (answers["held_out"] + 1)
    return float(share * (1 - share) / answers["held_out"])


def _summary(
    name: str, classes: list[ExplainedClass], confused: list[ConfusedClasses], rival: ComparedModel | None
) -> str:
    judged = sorted((one for one in classes if one.accuracy is not None), key=lambda one: -(one.accuracy or 0))
    parts = []
    if judged:
        best, worst = judged[0], judged[-1]
        parts.append(
            f"{name} does best on {best.name} ({best.accuracy:.0%}) and worst on {worst.name} ({worst.accuracy:.0%})."
        )
    if confused:
        first = confused[0]
        parts.append(f"It most often takes {first.name} for {first.predicted} ({first.images} images).")
    if rival:
        apart = [one for one in judged if one.beyond_chance]
        ahead = [one.name for one in apart if (one.accuracy or 0) > (one.against or 0)]
        behind = [one.name for one in apart if (one.accuracy or 0) < (one.against or 0)]
        told = []
        if ahead:
            told.append(f"better on {', '.join(ahead)}")
        if behind:
            told.append(f"worse on {', '.join(behind)}")
        parts.append(
            f"Against {rival.name} it is {' and '.join(told)}."
            if told
            else f"No class tells it apart from {rival.name} beyond chance."
        )
    return " ".join(parts)
