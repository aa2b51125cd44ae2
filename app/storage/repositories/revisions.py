"""Which state many jobs of any kind are in, in a query for each kind: for those who wait until one of them changes."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.storage.tables import Dataset, Finetune, Model, Selection

Mark: TypeAlias = tuple[Any, ...]
"""Another one whenever a job has changed in a way that its users see; it means nothing else."""

_PROOF = select(Finetune.revision).where(Finetune.selection_id == Selection.id).correlate(Selection).scalar_subquery()
_QUERIES: dict[str, Select[*tuple[Any, ...]]] = {
    "ds": select(Dataset.id, Dataset.revision, Dataset.state),
    "mdl": select(Model.id, Model.revision, Model.state),
    "ft": select(Finetune.id, Finetune.revision, Finetune.state, Finetune.deleted_at),
    "sel": select(Selection.id, Selection.revision, Selection.state, Selection.deleted_at, _PROOF),
}
_MOST_AT_ONCE = 500


def read_marks(session: Session, job_ids: Sequence[str]) -> dict[str, Mark]:
    """Return the marks of jobs by their ids; one that is gone has none."""
    marks: dict[str, Mark] = {}
    for prefix, query in _QUERIES.items():
        column = query.selected_columns[0]
        of_kind = [job_id for job_id in job_ids if job_id.startswith(f"{prefix}_")]
        for some in _in_parts(of_kind):
            marks |= {row[0]: tuple(row) for row in session.execute(query.where(column.in_(some)))}
    return marks


def _in_parts(job_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(job_ids), _MOST_AT_ONCE):
        yield job_ids[start : start + _MOST_AT_ONCE]
