"""Data sets of one tenant."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, Gone, NotFound
from app.domain.ids import new_id
from app.domain.retention import later
from app.domain.states import DATASET_GONE, DATASET_TERMINAL, FINETUNE_TERMINAL, SELECTION_TERMINAL, DatasetState
from app.domain.subsets import evaluated_split, looks
from app.storage.repositories.paging import Page, page
from app.storage.tables import Dataset, Finetune, Selection, now


class Datasets:
    """What one tenant has uploaded."""

    def __init__(self, session: Session, tenant: str) -> None:
        """See only rows of ``tenant``."""
        self._session = session
        self._tenant = tenant

    def start(self, name: str) -> Dataset:
        """Add the row of an upload that begins."""
        dataset = Dataset(id=new_id("ds"), tenant=self._tenant, name=name, failures={}, revision=1)
        self._session.add(dataset)
        self._session.flush()
        return dataset

    def receive(
        self, dataset_id: str, *, name: str, sha256: str, size: int, expires_at: datetime | None = None
    ) -> tuple[Dataset, bool]:
        """Note that an upload is complete.

        Returns:
            The data set of these bytes, and whether it is this new one. When the tenant had uploaded the same bytes
            before, the new row is gone and the earlier one is returned; it expires when the later of both would.

        Raises:
            NotFound: ``dataset_not_found``, when the upload was deleted while it went on.
        """
        arrived = update(Dataset).where(*self._receiving(dataset_id))
        arrived = arrived.values(
            state=DatasetState.RECEIVED, name=name, sha256=sha256, bytes=size, expires_at=expires_at
        )
        while True:
            try:
                with self._session.begin_nested():
                    self._session.execute(arrived.values(revision=Dataset.revision + 1))
                return self.get(dataset_id), True
            except IntegrityError:
                earlier = self._visible_with(
                    Dataset.sha256 == sha256, Dataset.state != DatasetState.RECEIVING, lock=True
                )
                if earlier is not None:  # else it was deleted at this moment, and its place is free
                    self._keep_until(earlier, later(earlier.expires_at, expires_at))
                    self._session.execute(delete(Dataset).where(Dataset.id == dataset_id))
                    return earlier, False

    def abandon(self, dataset_id: str) -> bool:
        """Remove the row of an upload that broke off, and tell whether its bytes are to go too.

        They stay when the upload was complete already.
        """
        self._session.execute(delete(Dataset).where(*self._receiving(dataset_id)))
        kept = select(Dataset.id).where(Dataset.id == dataset_id, Dataset.state.not_in(DATASET_GONE))
        return self._session.scalar(kept) is None

    def get(self, dataset_id: str, *, lock: bool = False) -> Dataset:
        """Return one data set.

        Raises:
            NotFound: ``dataset_not_found``, also when it is another tenant's or was deleted.
            Gone: ``dataset_expired``.
        """
        dataset = self._visible_with(Dataset.id == dataset_id, lock=lock)
        if dataset is None:
            raise self._missing(dataset_id)
        return dataset

    def get_ready(self, dataset_id: str) -> Dataset:
        """Return one data set that can be worked on, held against deletion until the transaction ends.

        Raises:
            NotFound: ``dataset_not_found``.
            Conflict: ``dataset_not_ready`` or ``dataset_rejected``.
        """
        dataset = self.get(dataset_id, lock=True)
        if dataset.state == DatasetState.REJECTED:
            raise Conflict(
                "dataset_rejected",
                f"Data set {dataset_id} was rejected: {(dataset.error or {}).get('message')}",
                param="dataset",
                hint="Mend the archive and upload it again.",
            )
        if dataset.state != DatasetState.READY:
            raise Conflict(
                "dataset_not_ready",
                f"Data set {dataset_id} is {dataset.state}.",
                param="dataset",
                hint=f"Wait for it: GET /v1/datasets/{dataset_id}?wait=30.",
            )
        return dataset

    def revision(self, dataset_id: str) -> tuple[int, bool]:
        """Return the revision and whether it is the last one, for cheap polling."""
        query = select(Dataset.revision, Dataset.state).where(Dataset.id == dataset_id, *self._visible())
        row = self._session.execute(query).one_or_none()
        if row is None:
            raise self._missing(dataset_id)
        return row.revision, row.state in DATASET_TERMINAL

    def page(self, *, limit: int, cursor: str | None) -> Page[Dataset]:
        """List data sets, newest first."""
        return page(self._session, select(Dataset).where(*self._visible()), Dataset, limit=limit, cursor=cursor)

    def delete(self, dataset_id: str, *, expired: bool = False) -> None:
        """Hide a data set at once; ``app.storage.purge`` removes its objects.

        Fine-tunes on it lose their weights, which is news to who polls them. Who asks for it later is told whether it
        has ``expired``.

        Raises:
            NotFound: ``dataset_not_found``.
            Conflict: ``dataset_in_use``, while a selection or a fine-tune on it is open.
        """
        self.get(dataset_id, lock=True)
        open_selection = select(Selection.id).where(
            Selection.dataset_id == dataset_id, Selection.state.not_in(SELECTION_TERMINAL)
        )
        selection_id = self._session.scalar(open_selection.limit(1))
        if selection_id is not None:
            raise Conflict(
                "dataset_in_use",
                f"Selection {selection_id} is still working on data set {dataset_id}.",
                hint=f"Wait for it, or cancel it first: POST /v1/selections/{selection_id}/cancel.",
            )
        open_finetune = select(Finetune.id).where(
            Finetune.dataset_id == dataset_id, Finetune.state.not_in(FINETUNE_TERMINAL)
        )
        finetune_id = self._session.scalar(open_finetune.limit(1))
        if finetune_id is not None:
            raise Conflict(
                "dataset_in_use",
                f"Fine-tune {finetune_id} is still working on data set {dataset_id}.",
                hint=f"Wait for it, or cancel it first: POST /v1/finetunes/{finetune_id}/cancel.",
            )
        self._session.execute(
            update(Dataset)
            .where(Dataset.id == dataset_id)
            .values(
                state=DatasetState.DELETING,
                lease_token=None,
                expires_at=Dataset.expires_at if expired else None,
                revision=Dataset.revision + 1,
            )
        )
        self._session.execute(
            update(Finetune)
            .where(Finetune.dataset_id == dataset_id)
            .values(revision=Finetune.revision + 1)
            .execution_options(synchronize_session=False)
        )

    def _keep_until(self, dataset: Dataset, expires_at: datetime | None) -> None:
        if dataset.expires_at != expires_at:
            dataset.expires_at, dataset.revision = expires_at, dataset.revision + 1
            self._session.flush()

    def _missing(self, dataset_id: str) -> NotFound | Gone:
        gone = [Dataset.id == dataset_id, Dataset.tenant == self._tenant, Dataset.state.in_(DATASET_GONE)]
        expired_at = self._session.scalar(select(Dataset.expires_at).where(*gone))
        if expired_at is None:
            return _not_found(dataset_id)
        return Gone(
            "dataset_expired",
            f"Data set {dataset_id} was deleted when it expired, at {expired_at:%Y-%m-%d %H:%M} UTC.",
            param="dataset",
            hint="Upload it again: POST /v1/datasets.",
        )

    def _receiving(self, dataset_id: str) -> list[Any]:
        return [Dataset.id == dataset_id, Dataset.tenant == self._tenant, Dataset.state == DatasetState.RECEIVING]

    def _visible(self) -> list[Any]:
        return [Dataset.tenant == self._tenant, Dataset.state.not_in(DATASET_GONE)]

    def _visible_with(self, *conditions: Any, lock: bool = False) -> Dataset | None:
        query = select(Dataset).where(*conditions, *self._visible()).execution_options(populate_existing=True)
        return self._session.scalar(query.with_for_update() if lock else query)


def is_referenced(session: Session, digest: str) -> bool:
    """Tell whether any tenant's live data set has this canonical content."""
    query = select(Dataset.id).where(Dataset.digest == digest, Dataset.state.not_in(DATASET_GONE))
    return session.scalar(query.limit(1)) is not None


def deleted_among(session: Session, dataset_ids: Sequence[str]) -> set[str]:
    """Return those of some data sets that were deleted."""
    query = select(Dataset.id).where(Dataset.id.in_(dataset_ids), Dataset.state.in_(DATASET_GONE))
    return set(session.scalars(query))


def mark_stale_uploads(session: Session, *, older_than_seconds: float) -> None:
    """Mark uploads that began long ago and never ended for removal."""
    begun_before = now() - timedelta(seconds=older_than_seconds)
    stale = [Dataset.state == DatasetState.RECEIVING, Dataset.created_at < begun_before]
    session.execute(update(Dataset).where(*stale).values(state=DatasetState.DELETING))


def look_sizes(dataset: Dataset, max_images: int) -> list[int]:
    """Return how many images each look of a race on a data set sees."""
    report = dataset.report or {}
    split = evaluated_split(report["splits"])
    images = sum(number for name, number in report["splits"].items() if split in (None, name))
    return list(looks(min(images, max_images), classes=len(report["classes"])))


def _not_found(dataset_id: str) -> NotFound:
    return NotFound(
        "dataset_not_found",
        f"There is no data set {dataset_id}.",
        param="dataset",
        hint="List yours with GET /v1/datasets.",
    )
