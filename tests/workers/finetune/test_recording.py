"""What an interrupted training leaves to whoever goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app.config import Settings
from app.domain.finetuning import Recipe
from app.domain.interruption import Interrupted
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import FINETUNE, LeaseLost
from app.storage.objects import Objects
from app.storage.repositories.finetunes import Finetunes
from tests.fixtures.rows import TENANT, add_ready_dataset
from tests.workers.finetune.conftest import pictures, store_of
from workers.finetune.recording import Watched, train_recorded
from workers.finetune.stored_checkpoint import StoredCheckpoint
from workers.finetune.training import Training
from workers.finetune.tuned_network import TunedNetwork
from workers.lease import HeldLease
from workers.runtime import Runtime
from workers.zoo.network import Network

LEASE_SECONDS = 1.0
IMAGES, LABELS_N = pictures(12)
TRAIN_T, REST = np.arange(8), np.arange(8, 12)
RECIPE = Recipe(learning_rates=(0.01,), batch_size=4, epochs=3)


@pytest.mark.parametrize("ending", ["the worker is to end", "the fine-tune is cancelled", "another worker holds it"])
def test_a_state_is_stored_by_a_worker_that_is_to_end_and_by_no_other(
    network: Network, database: Database, objects: Objects, tmp_path: Path, ending: str
) -> None:
    settings = Settings(home=tmp_path, lease_seconds=LEASE_SECONDS)
    runtime = Runtime(settings, database, objects, "host/0", torch.device("cpu"), tmp_path)
    dataset_id = add_ready_dataset(database)
    with database.write() as session:
        finetune_id = Finetunes(session, TENANT).create(dataset_id, ["mdl_a"], RECIPE.as_dict()).id
        lease = leases.claim(session, FINETUNE, finetune_id, holder="host/0", seconds=LEASE_SECONDS)
    assert lease is not None
    store = store_of(network, IMAGES)
    training = Training(TunedNetwork.of(network, 3), store, TRAIN_T, LABELS_N, RECIPE, 0.01)
    checkpoint = StoredCheckpoint(objects, "finetunes/a/ft_b/mdl_a.checkpoint", tmp_path, "work")

    def end(step: int) -> None:
        if step != 2:
            return
        if ending == "the worker is to end":
            runtime.stopping.set()
            return
        with database.write() as session:
            if ending == "the fine-tune is cancelled":
                Finetunes(session, TENANT).cancel(finetune_id)
            else:
                leases.give_back(session, lease)
                leases.claim(session, FINETUNE, finetune_id, holder="host/1", seconds=60)
        assert held.lost.wait(10 * LEASE_SECONDS)

    with HeldLease(runtime, lease) as held, pytest.raises((Interrupted, LeaseLost)):
        train_recorded(
            training,
            Watched(store, LABELS_N, TRAIN_T, REST),
            should_stop=held.should_stop,
            on_step=end,
            save=checkpoint.save,
        )
    assert training.step == 2
    saved = checkpoint.load()
    if ending == "the worker is to end":
        assert saved is not None
        assert saved.progress["step"] == 2
    else:
        assert saved is None
