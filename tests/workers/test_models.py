"""The checks of a registered model as a worker runs them: what of them is seen meanwhile, and what remains."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy import update

from app.config import Settings
from app.domain.interruption import Interrupted
from app.domain.model_spec import ModelSpec
from app.domain.states import ModelState
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import MODEL, Lease, LeaseLost
from app.storage.migrate import upgrade
from app.storage.objects import Objects
from app.storage.repositories.models import Models
from app.storage.tables import Model
from tests.fixtures.weights import one_thread, small_spec
from workers.lease import HeldLease
from workers.models import check_model
from workers.runtime import Runtime
from workers.zoo.admission import CHECKS

__all__ = ["one_thread"]


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """Return a worker with a database of its own."""
    database = Database(f"sqlite:///{tmp_path}/foretune.db")
    upgrade(database)
    yield Runtime(
        settings=Settings(home=tmp_path, weights_cache=tmp_path / "weights"),
        database=database,
        objects=Objects((tmp_path / "objects").as_uri()),
        holder="test/0",
        device=torch.device("cpu"),
        workspace=tmp_path,
    )
    database.close()


class Watcher(HeldLease):
    """A held lease that looks, as a user would, at what is stored when each check begins."""

    def __init__(
        self,
        runtime: Runtime,
        lease: Lease,
        *,
        until: str | None = None,
        lose_at: str | None = None,
        withdraw_at: str | None = None,
    ) -> None:
        super().__init__(runtime, lease)
        self.seen: list[list[str]] = []
        self.until, self.lose_at, self.withdraw_at = until, lose_at, withdraw_at
        self._parts, self._held_lease = runtime, lease

    def should_stop(self) -> bool:
        names = [check["name"] for check in read(self._parts, self._held_lease.id).checks or []]
        if names not in self.seen:  # asked while the weights are waited for, too
            self.seen.append(names)
        next_one = CHECKS[len(names)]
        if next_one == self.lose_at:
            with self._parts.database.write() as session:
                session.execute(update(Model).values(lease_token="another's"))
        if next_one == self.withdraw_at:
            with self._parts.database.write() as session:
                Models(session).switch(self._held_lease.id, ModelState.REJECTED, "misspelt")
        return next_one == self.until


def register(runtime: Runtime, spec: ModelSpec) -> Lease:
    with runtime.database.write() as session:
        model = Models(session).register(spec)[0]
        lease = leases.claim(session, MODEL, model.id, holder="test/0", seconds=60)
    assert lease is not None
    return lease


def read(runtime: Runtime, model_id: str) -> Model:
    with runtime.database.read() as session:
        return session.get_one(Model, model_id)


def test_each_check_is_seen_as_soon_as_it_ended(runtime: Runtime, tmp_path: Path) -> None:
    lease = register(runtime, small_spec(tmp_path))
    held = Watcher(runtime, lease)
    check_model(runtime, lease, held)
    assert held.seen == [list(CHECKS[:count]) for count in range(len(CHECKS))]
    model = read(runtime, lease.id)
    assert model.state == ModelState.ACTIVE
    assert [check["name"] for check in model.checks or []] == list(CHECKS)
    assert model.facts is not None
    assert model.facts["resolved"] == model.spec


def test_checks_can_be_interrupted_between_two_of_them(runtime: Runtime, tmp_path: Path) -> None:
    lease = register(runtime, small_spec(tmp_path))
    with pytest.raises(Interrupted, match="after 5 checks"):
        check_model(runtime, lease, Watcher(runtime, lease, until=CHECKS[5]))
    model = read(runtime, lease.id)
    assert [check["name"] for check in model.checks or []] == list(CHECKS[:5])
    assert model.progress == {"stage": CHECKS[5], "done": 5, "total": len(CHECKS)}


def test_a_worker_that_lost_its_lease_stores_no_further_check(runtime: Runtime, tmp_path: Path) -> None:
    lease = register(runtime, small_spec(tmp_path))
    with pytest.raises(LeaseLost):
        check_model(runtime, lease, Watcher(runtime, lease, lose_at="tensors"))
    model = read(runtime, lease.id)
    assert [check["name"] for check in model.checks or []] == list(CHECKS[: CHECKS.index("tensors")])
    assert (model.state, model.facts) == (ModelState.CHECKING, None)


def test_of_a_model_that_is_withdrawn_meanwhile_only_what_had_ended_remains(runtime: Runtime, tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    with runtime.database.write() as session:
        older = Models(session).register(dataclasses.replace(spec, notes="the one in use"))[0].id
        session.execute(update(Model).where(Model.id == older).values(state=ModelState.ACTIVE, facts={}))
    lease = register(runtime, spec)
    with pytest.raises(LeaseLost):
        check_model(runtime, lease, Watcher(runtime, lease, withdraw_at="architecture"))
    model = read(runtime, lease.id)
    assert (model.state, model.reason, model.facts) == (ModelState.REJECTED, "misspelt", None)
    assert [check["name"] for check in model.checks or []] == list(CHECKS[: CHECKS.index("architecture")])
    assert read(runtime, older).state == ModelState.ACTIVE


def test_a_twin_is_named_and_an_older_version_is_none(runtime: Runtime, tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    versions = [spec, dataclasses.replace(spec, notes="said again"), dataclasses.replace(spec, name="twin")]
    duplicates = []
    for one in versions:
        lease = register(runtime, one)
        check_model(runtime, lease, HeldLease(runtime, lease))
        [check] = [check for check in read(runtime, lease.id).checks or [] if check["name"] == "duplicate_weights"]
        duplicates.append((check["outcome"], check["detail"]))
    assert duplicates == [
        ("pass", "no other model has these weights"),
        ("pass", "no other model has these weights"),
        ("warn", "test_resnet (version 1) has the same weights as twin"),
    ]
