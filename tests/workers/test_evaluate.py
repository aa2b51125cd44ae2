"""An evaluation ends when it is told to, also before its network has seen an image."""

import io
from pathlib import Path

import pytest
import torch
from sqlalchemy import update

from app.config import Settings
from app.domain.interruption import Interrupted
from app.ingest.shard import write_shard
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import EVALUATION
from app.storage.objects import Objects
from app.storage.tables import Model
from tests.fixtures.rows import add_selection, spec
from tests.workers.finetune.conftest import pictures
from workers.evaluate import evaluate
from workers.lease import HeldLease
from workers.runtime import Runtime

KEY = f"datasets/{'a' * 8}.parquet"


def test_comparing_images_ends_when_the_worker_is_to_end(database: Database, objects: Objects, tmp_path: Path) -> None:
    images, labels_N = pictures(12)
    files = []
    for image in images:
        image.save(file := io.BytesIO(), "PNG")
        files.append(file.getvalue())
    rows = [
        (file, f"{number}.png", int(label), "")
        for number, (file, label) in enumerate(zip(files, labels_N, strict=True))
    ]
    write_shard(tmp_path / "shard", rows, ["a", "b", "c"])
    objects.put(KEY, tmp_path / "shard")
    _, (evaluation_id,) = add_selection(database, "m")
    with database.write() as session:
        session.execute(update(Model).values(facts={"parameters": 10, "resolved": spec("m").as_dict()}))
        lease = leases.claim(session, EVALUATION, evaluation_id, holder="host/0", seconds=60)
    assert lease is not None
    runtime = Runtime(Settings(home=tmp_path), database, objects, "host/0", torch.device("cpu"), tmp_path)
    runtime.stopping.set()
    with HeldLease(runtime, lease) as held, pytest.raises(Interrupted, match="reading images"):
        evaluate(runtime, lease, held)
    assert objects.keys() == [KEY], "nothing was computed"
