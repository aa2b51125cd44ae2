"""Where a job comes from: what its log lines and its spans are told apart and put together by."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.storage.leases import DATASET, EVALUATION, FINETUNE, MODEL, JobKind
from app.storage.tables import Dataset, Evaluation, Finetune, Model, Requested, Selection


@dataclass(frozen=True)
class Origin:
    """Who asked for a job, and what it is about.

    Attributes:
        request_id: of the request that asked for it; None where the service itself did.
        traceparent: of that request, where traces are on.
        ids: by what they name, such as ``dataset`` and ``selection``.
    """

    request_id: str | None
    traceparent: str | None
    ids: dict[str, str]

    @property
    def logged(self) -> dict[str, str]:
        """What every log line of the work carries."""
        return self.ids | ({"request_id": self.request_id} if self.request_id else {})


def origin_of(session: Session, kind: JobKind, job_id: str) -> Origin:
    """Return where a job comes from; one that is gone comes from nowhere."""
    return _origin(session, _QUERIES[kind.name].where(kind.table.id == job_id))


def origin_of_selection(session: Session, selection_id: str) -> Origin:
    """Return where a selection comes from; one that is gone comes from nowhere."""
    return _origin(session, _SELECTION.where(Selection.id == selection_id))


def _origin(session: Session, query: Select[Any]) -> Origin:
    row = session.execute(query).mappings().one_or_none()
    named = dict(row or {})
    request_id, traceparent = named.pop("request_id", None), named.pop("traceparent", None)
    return Origin(request_id, traceparent, {name: value for name, value in named.items() if value is not None})


def _asked(table: type[Requested]) -> tuple[Any, Any]:
    return table.request_id, table.traceparent


_OF_SELECTION = (*_asked(Selection), Selection.id.label("selection"), Selection.dataset_id.label("dataset"))
_SELECTION: Select[Any] = select(*_OF_SELECTION, Selection.tenant)
_QUERIES: dict[str, Select[Any]] = {
    DATASET.name: select(*_asked(Dataset), Dataset.id.label("dataset"), Dataset.tenant),
    MODEL.name: select(*_asked(Model), Model.id.label("model")),
    EVALUATION.name: select(
        *_OF_SELECTION, Selection.tenant, Evaluation.id.label("evaluation"), Evaluation.model_id.label("model")
    ).join_from(Evaluation, Selection, Evaluation.selection_id == Selection.id),
    FINETUNE.name: select(
        *_asked(Finetune),
        Finetune.id.label("finetune"),
        Finetune.selection_id.label("selection"),
        Finetune.dataset_id.label("dataset"),
        Finetune.tenant,
    ),
}
