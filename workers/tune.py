"""A fine-tune: some models really trained on one data set, their accuracy measured, the tuned weights kept."""

import time

from app.domain.finetuning import Recipe
from app.domain.model_spec import ModelSpec
from app.domain.states import FINETUNE_TERMINAL
from app.ingest.shard import iter_images, read_labels
from app.storage import leases
from app.storage.leases import Lease
from app.storage.purge import delete_unreferenced
from app.storage.tables import Dataset, Finetune, Model, now
from workers.finetune.contest import Candidate, Contest, Task
from workers.finetune.data import Data
from workers.finetune.split import split_images
from workers.images import stopping
from workers.lease import HeldLease
from workers.near_duplicates import near_duplicate_units
from workers.runtime import Runtime


def finetune(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Train the models of a fine-tune, and store what became of each.

    A model that cannot be trained says why, and spoils no other.

    Raises:
        EvaluationFailed: the data set cannot be split, the budget is too small, or no model could be trained.
        Interrupted: the worker is to stop; whoever takes the job goes on from the last checkpoint.
        LeaseLost: nothing more was stored.
    """
    began_at = time.monotonic()
    task = _begin(runtime, lease)
    try:
        with runtime.objects.as_file(f"datasets/{task.dataset_digest}.parquet") as shard:
            labels_N, class_names, splits = read_labels(shard)
            units_N = near_duplicate_units(stopping(iter_images(shard), held.should_stop))
            split = split_images(labels_N, split_names=splits, units_N=units_N)
            data = Data(task.dataset_name, shard, labels_N, class_names, split)
            with runtime.stage("finetune"):
                Contest(runtime, lease, held, task, data, began_at).run()
    except Exception:
        with runtime.database.read() as session:
            was_cancelled = session.get_one(Finetune, task.id).state in FINETUNE_TERMINAL
        if was_cancelled:
            for candidate in task.candidates:
                runtime.objects.delete(task.checkpoint(candidate))
        # The data set may have been deleted while weights were being stored.
        delete_unreferenced(runtime.database, runtime.objects, task.dataset_digest)
        raise


def _begin(runtime: Runtime, lease: Lease) -> Task:
    with runtime.database.write() as session:
        row = session.get_one(Finetune, lease.id)
        dataset = session.get_one(Dataset, row.dataset_id)
        if row.started_at is None:
            leases.note(session, lease, started_at=now())
        candidates = []
        for model_id in row.model_ids:
            model = session.get_one(Model, model_id)
            assert model.facts is not None  # only active models come into a fine-tune
            candidates.append(Candidate(model.id, model.name, ModelSpec.from_dict(model.facts["resolved"])))
    assert dataset.digest is not None  # only ready data sets do
    return Task(
        id=row.id,
        dataset_name=dataset.name,
        dataset_digest=dataset.digest,
        candidates=tuple(candidates),
        recipe=Recipe.from_dict(row.recipe),
        budget_seconds=row.budget_seconds,
        result=row.result,
        spent=row.spent_seconds,
    )
