"""What a tenant has of what its quotas limit, and whether it may have more.

Quotas hold under concurrency because whoever adds something takes the tenant's row first, and counts then: two requests
of one tenant take turns, and the second one sees what the first has added. The tenant's row is taken before any other,
so that nobody waits for somebody who waits for him.
"""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from app.domain.errors import Forbidden
from app.domain.quotas import NAMES
from app.domain.states import DATASET_GONE, FINETUNE_TERMINAL, SELECTION_TERMINAL, DatasetState
from app.storage.repositories.tenants import quotas_of
from app.storage.repositories.worker_seconds import day
from app.storage.tables import Dataset, Finetune, Selection, Tenant, WorkerSeconds

_WORDS = {
    "bytes": ("store {} bytes of uploads", "Delete data sets: DELETE /v1/datasets/{id}."),
    "datasets": ("have {} data sets", "Delete data sets: DELETE /v1/datasets/{id}."),
    "open_selections": (
        "have {} selections that have not ended",
        "Wait for one to end, or cancel one: POST /v1/selections/{id}/cancel.",
    ),
    "open_finetunes": (
        "have {} fine-tunes that have not ended",
        "Wait for one to end, or cancel one: POST /v1/finetunes/{id}/cancel.",
    ),
    "worker_seconds_per_day": (
        "use {} worker seconds a day",
        "Wait for the next day, which begins at midnight UTC.",
    ),
}


def used(session: Session, tenant: str, names: tuple[str, ...] = NAMES) -> dict[str, float]:
    """Return how much a tenant has of what its quotas limit, by the quota's name."""
    found = {name: session.scalar(_query(tenant, name)) or 0 for name in names}
    # A sum of whole numbers is a decimal number on PostgreSQL.
    return {name: float(value) if name == "worker_seconds_per_day" else int(value) for name, value in found.items()}


class Allowance:
    """What one tenant may add, held until the transaction ends: nobody else adds anything of the tenant's meanwhile."""

    def __init__(self, session: Session, tenant: str, *names: str) -> None:
        """Take the tenant's row, and read how much of these quotas is used."""
        self._tenant = tenant
        row = session.scalar(select(Tenant).where(Tenant.name == tenant).with_for_update())
        limits = asdict(quotas_of(row))
        self._limits = {name: limits[name] for name in names if limits[name] is not None}
        self._used = used(session, tenant, tuple(self._limits))

    def demand(self, **needed: float) -> None:
        """Ask for more, as ``bytes=1000, datasets=1``.

        Raises:
            Forbidden: ``quota_exceeded``.
        """
        for name, limit in self._limits.items():
            if name in needed and self._used[name] + needed[name] > limit:
                may, hint = _WORDS[name]
                raise Forbidden(
                    "quota_exceeded",
                    f"Tenant {self._tenant} may {may.format(f'{limit:.15g}')}; {self._used[name]:.15g} are used, and "
                    f"this needs {needed[name]:.15g} more.",
                    param=f"quotas.{name}",
                    hint=f"{hint} GET /v1/usage shows what is used; an admin sets quotas.",
                )


def _query(tenant: str, name: str) -> Select[Any]:
    if name == "worker_seconds_per_day":
        return select(WorkerSeconds.seconds).where(WorkerSeconds.tenant == tenant, WorkerSeconds.day == day())
    if name == "open_selections":
        is_open = Selection.state.not_in(SELECTION_TERMINAL)
        return select(func.count()).select_from(Selection).where(Selection.tenant == tenant, is_open)
    if name == "open_finetunes":
        mine = [Finetune.tenant == tenant, Finetune.selection_id.is_(None), Finetune.state.not_in(FINETUNE_TERMINAL)]
        return select(func.count()).select_from(Finetune).where(*mine)
    # An upload counts once it is complete: one that broke off with its process leaves a row for a while.
    complete = [Dataset.tenant == tenant, Dataset.state.not_in((*DATASET_GONE, DatasetState.RECEIVING))]
    if name == "datasets":
        return select(func.count()).select_from(Dataset).where(*complete)
    return select(func.sum(Dataset.bytes)).where(*complete, Dataset.state != DatasetState.REJECTED)
