"""A worker that was frozen past its lease, and goes on preparing what another one has prepared meanwhile."""

from pathlib import Path

import pytest
import torch

from app.config import Settings
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import DATASET, Lease, LeaseLost
from app.storage.objects import Objects
from app.storage.purge import purge_deleted
from app.storage.repositories.datasets import Datasets
from app.storage.tables import Dataset
from tests.fixtures.archives import class_folders, one_class, zip_of
from tests.fixtures.rows import TENANT, add_dataset
from workers.lease import HeldLease
from workers.prepare import prepare_dataset
from workers.runtime import Runtime

GOOD = zip_of({**class_folders(), "bag/broken.png": b"no image"})


@pytest.fixture
def runtime(database: Database, objects: Objects, tmp_path: Path) -> Runtime:
    return Runtime(Settings(home=tmp_path), database, objects, "host/0", torch.device("cpu"), tmp_path)


def upload(runtime: Runtime, dataset_id: str, archive: bytes) -> None:
    with runtime.objects.create(f"uploads/{dataset_id}") as file:
        file.write(archive)


def claim(runtime: Runtime, dataset_id: str, seconds: float = 60) -> Lease:
    with runtime.database.write() as session:
        lease = leases.claim(session, DATASET, dataset_id, holder="host/0", seconds=seconds)
    assert lease is not None
    return lease


def prepare(runtime: Runtime, lease: Lease) -> None:
    prepare_dataset(runtime, lease, HeldLease(runtime, lease))


@pytest.mark.parametrize(("archive", "state"), [(GOOD, "ready"), (one_class(), "rejected")])
def test_it_leaves_what_the_other_one_has_stored(runtime: Runtime, archive: bytes, state: str) -> None:
    dataset_id = add_dataset(runtime.database)
    upload(runtime, dataset_id, archive)
    frozen = claim(runtime, dataset_id, seconds=-1)
    with runtime.database.write() as session:
        leases.free_expired(session, DATASET)
    prepare(runtime, claim(runtime, dataset_id))
    report = runtime.objects.open(f"reports/{dataset_id}.json").read() if state == "ready" else b""
    kept = runtime.objects.keys()

    upload(runtime, dataset_id, archive)  # the frozen one has read it before
    with pytest.raises(LeaseLost):
        prepare(runtime, frozen)
    assert set(runtime.objects.keys()) - {f"uploads/{dataset_id}"} == set(kept)
    if state == "ready":
        assert b"broken.png" in report
        assert runtime.objects.open(f"reports/{dataset_id}.json").read() == report
    with runtime.database.read() as session:
        assert session.get_one(Dataset, dataset_id).state == state


def test_of_a_data_set_that_was_deleted_meanwhile_it_leaves_nothing(runtime: Runtime) -> None:
    dataset_id = add_dataset(runtime.database)
    lease = claim(runtime, dataset_id)
    with runtime.database.write() as session:
        Datasets(session, TENANT).delete(dataset_id)
    purge_deleted(runtime.database, runtime.objects)
    upload(runtime, dataset_id, GOOD)
    with pytest.raises(LeaseLost):
        prepare(runtime, lease)
    assert runtime.objects.keys() == [f"uploads/{dataset_id}"]
