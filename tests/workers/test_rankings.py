"""The thread that ranks: what is put is ranked once, and what fails does not keep the others waiting."""

import threading
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from app.config import Settings
from app.domain.errors import EvaluationFailed
from app.domain.states import SelectionState
from app.storage import leases
from app.storage.database import Database
from app.storage.objects import Objects
from tests.contract.selection_steps import claim, read
from tests.fixtures.rows import add_selection
from tests.fixtures.story import wait_for
from workers.rankings import rank_until_stopped
from workers.runtime import Runtime

KEY = {"dataset_digest": "d" * 64, "model_digest": "m" * 64, "max_images": 100, "gradients": "random-all-200"}


@pytest.fixture
def runtime(database: Database, objects: Objects, tmp_path: Path) -> Runtime:
    return Runtime(Settings(home=tmp_path), database, objects, "host/0", torch.device("cpu"), tmp_path)


def test_what_is_put_is_ranked_and_what_fails_is_left_to_the_sweep(runtime: Runtime) -> None:
    without_scores, (finished,) = add_selection(runtime.database, "one")
    lease = claim(runtime.database, finished)
    with runtime.database.write() as session:
        leases.finish(session, lease, result={"cache_keys": [KEY]})  # under which nothing was ever stored
    failed, (evaluation_id,) = add_selection(runtime.database, "two")
    lease = claim(runtime.database, evaluation_id)
    with runtime.database.write() as session:
        leases.fail(session, lease, EvaluationFailed("unreadable_image", "It is no image."))
    for one in ("sel_nothing", without_scores, failed, failed):
        runtime.to_rank.put(one)
    rung = threading.Event()
    thread = threading.Thread(target=rank_until_stopped, args=(runtime, rung.set))
    with capture_logs() as logs:
        thread.start()
        wait_for(lambda: read(runtime.database, failed).state == SelectionState.FAILED)
        runtime.stopping.set()
        thread.join(10)
    assert not thread.is_alive()
    told = [(line["event"], line["selection"]) for line in logs if "selection" in line]
    assert told == [("ranking.failed", without_scores), ("selection.ranked", failed)]
    assert not rung.is_set(), "there is nothing left to do"
