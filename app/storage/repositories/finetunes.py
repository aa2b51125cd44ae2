"""Fine-tunes of one tenant."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.domain.errors import Gone, NotFound
from app.domain.ids import new_id
from app.domain.states import FINETUNE_TERMINAL, FinetuneState
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.outbox import tell_finetune_end
from app.storage.repositories.paging import Page, page
from app.storage.tables import Finetune, now


class Finetunes:
    """What one tenant had fine-tuned."""

    def __init__(self, session: Session, tenant: str) -> None:
        """See only rows of ``tenant``."""
        self._session = session
        self._tenant = tenant

    def create(
        self,
        dataset_id: str,
        model_ids: list[str],
        recipe: dict[str, Any],
        name: str | None = None,
        *,
        budget_seconds: float | None = None,
        selection_id: str | None = None,
        expires_at: datetime | None = None,
        warnings: Sequence[dict[str, Any]] = (),
    ) -> Finetune:
        """Add a fine-tune.

        Args:
            dataset_id: a data set that is ready.
            model_ids: the models, the most promising first.
            recipe: as ``app.domain.finetuning.Recipe.as_dict`` gives it.
            name: for people; by default the data set's.
            budget_seconds: of worker time, for all models together.
            selection_id: of the selection that it proves.
            expires_at: when it is deleted, if it has ended by then.
            warnings: that its users should know, such as ``deprecations`` of its models.

        Raises:
            NotFound: ``dataset_not_found``.
            Conflict: ``dataset_not_ready`` or ``dataset_rejected``.
        """
        dataset = Datasets(self._session, self._tenant).get_ready(dataset_id)
        finetune = Finetune(
            id=new_id("ft"),
            tenant=self._tenant,
            name=name or dataset.name,
            dataset_id=dataset_id,
            selection_id=selection_id,
            expires_at=expires_at,
            model_ids=model_ids,
            recipe=recipe,
            budget_seconds=budget_seconds,
            spent_seconds=0.0,
            warnings=list(warnings),
            failures={},
            revision=1,
        )
        self._session.add(finetune)
        self._session.flush()
        return finetune

    def get(self, finetune_id: str) -> Finetune:
        """Return one fine-tune.

        Raises:
            NotFound: ``finetune_not_found``, also when it is another tenant's.
            Gone: ``finetune_expired``.
        """
        query = select(Finetune).where(Finetune.id == finetune_id, Finetune.tenant == self._tenant)
        finetune = self._session.scalar(query.execution_options(populate_existing=True))
        if finetune is None:
            raise _not_found(finetune_id)
        if finetune.deleted_at is not None:
            raise _expired(finetune_id)
        return finetune

    def revision(self, finetune_id: str) -> tuple[int, bool]:
        """Return the revision and whether it is the last one, for cheap polling."""
        query = select(Finetune.revision, Finetune.state, Finetune.deleted_at)
        row = self._session.execute(
            query.where(Finetune.id == finetune_id, Finetune.tenant == self._tenant)
        ).one_or_none()
        if row is None:
            raise _not_found(finetune_id)
        if row.deleted_at is not None:
            raise _expired(finetune_id)
        return row.revision, row.state in FINETUNE_TERMINAL

    def page(self, *, limit: int, cursor: str | None) -> Page[Finetune]:
        """List fine-tunes, newest first."""
        query = select(Finetune).where(Finetune.tenant == self._tenant, Finetune.deleted_at.is_(None))
        return page(self._session, query, Finetune, limit=limit, cursor=cursor)

    def cancel(self, finetune_id: str) -> Finetune:
        """End a fine-tune; one that has ended already stays as it is, and so does what is known of each model."""
        finetune = self.get(finetune_id)
        _cancel(self._session, [Finetune.id == finetune_id])
        self._session.refresh(finetune)
        return finetune


def kept_objects(session: Session, finetune_ids: Sequence[str]) -> dict[str, set[str]]:
    """Return the objects that results name, for those of these fine-tunes that have ended: they name no other later."""
    query = select(Finetune.id, Finetune.result).where(
        Finetune.id.in_(finetune_ids), Finetune.state.in_(FINETUNE_TERMINAL)
    )
    return {
        finetune_id: {entry.get("object") for entry in (result or {}).get("models", [])} - {None}
        for finetune_id, result in session.execute(query)
    }


def proof_of(session: Session, selection_id: str) -> Finetune | None:
    """Return the fine-tune of a selection's first models, if one was begun."""
    return session.scalar(select(Finetune).where(Finetune.selection_id == selection_id))


@dataclass(frozen=True)
class ProofProgress:
    """Where the fine-tune of a selection's first models stands: ``ended`` of ``asked`` models have ended."""

    id: str
    state: str
    revision: int
    progress: dict[str, Any] | None
    asked: int
    ended: int


def proofs_of(session: Session, selection_ids: Sequence[str]) -> dict[str, ProofProgress]:
    """Return where the proofs of some selections stand, without their results; those not begun are left out."""
    if not selection_ids:
        return {}
    table = Finetune
    ended = func.coalesce(func.json_array_length(table.result["models"]), 0).label("ended")
    columns = table.selection_id, table.id, table.state, table.revision, table.progress, table.model_ids, ended
    rows = session.execute(select(*columns).where(table.selection_id.in_(selection_ids)))
    return {
        row.selection_id: ProofProgress(row.id, row.state, row.revision, row.progress, len(row.model_ids), row.ended)
        for row in rows
    }


def hold_proof(session: Session, selection_id: str) -> int:
    """Keep the proof of a selection as it is until this writing transaction ends; return its revision, 0 if none."""
    query = select(Finetune.revision).where(Finetune.selection_id == selection_id)
    return session.scalar(query.with_for_update()) or 0


def charge(session: Session, finetune_id: str, seconds: float, *, is_news: bool = True) -> str | None:
    """Add worker time to a fine-tune, whatever has become of it; return the selection that it proves, if any.

    ``is_news``: whether its users are to look again, as they are when the work has ended, not while it goes on.
    """
    values: dict[str, Any] = {"spent_seconds": Finetune.spent_seconds + seconds}
    values |= {"revision": Finetune.revision + 1} if is_news else {"updated_at": Finetune.updated_at}
    session.execute(
        update(Finetune).where(Finetune.id == finetune_id).values(values).execution_options(synchronize_session=False)
    )
    return session.scalar(select(Finetune.selection_id).where(Finetune.id == finetune_id))


def cancel_proof(session: Session, selection_id: str) -> None:
    """End the fine-tune of a selection that is cancelled."""
    _cancel(session, [Finetune.selection_id == selection_id])


def _cancel(session: Session, which: list[Any]) -> None:
    cancelled = session.scalars(
        update(Finetune)
        .where(*which, Finetune.state.not_in(FINETUNE_TERMINAL))
        .values(
            state=FinetuneState.CANCELLED,
            lease_token=None,
            lease_holder=None,
            lease_expires_at=None,
            finished_at=now(),
            revision=Finetune.revision + 1,
        )
        .returning(Finetune.id)
        .execution_options(synchronize_session=False)
    )
    for finetune_id in cancelled.all():
        tell_finetune_end(session, finetune_id)


def _expired(finetune_id: str) -> Gone:
    return Gone(
        "finetune_expired",
        f"Fine-tune {finetune_id} was deleted, and its weights, when it expired.",
        param="finetune",
        hint="Ask for a new one: POST /v1/finetunes.",
    )


def _not_found(finetune_id: str) -> NotFound:
    return NotFound(
        "finetune_not_found",
        f"There is no fine-tune {finetune_id}.",
        param="finetune",
        hint="List yours with GET /v1/finetunes.",
    )
