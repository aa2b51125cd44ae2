"""An uploaded archive becomes a data set: unpacked, checked and stored as one canonical file."""

import json
import tempfile
from pathlib import Path

from app.domain.errors import DatasetRejected
from app.ingest.prepare import Prepared, prepare
from app.storage import leases
from app.storage.leases import Lease, LeaseLost
from app.storage.purge import delete_unreferenced, hold_content
from workers.lease import HeldLease
from workers.runtime import Runtime


def prepare_dataset(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Prepare one upload and store what was understood of it.

    Raises:
        DatasetRejected: the archive cannot become a data set; the upload is gone then.
        Interrupted: the worker is to stop.
        LeaseLost: the data set was deleted, or is another worker's; what was stored for it is removed.
    """
    objects = runtime.objects
    with tempfile.TemporaryDirectory(dir=runtime.workspace, prefix="prepare-") as workspace:
        try:
            with objects.as_file(f"uploads/{lease.id}") as archive:
                prepared = prepare(
                    archive,
                    Path(workspace),
                    on_progress=lambda done, total: held.report("checking files", done, total),
                    should_stop=held.should_stop,
                )
        except DatasetRejected:
            objects.delete(f"uploads/{lease.id}")
            raise
        try:
            _store(runtime, lease, prepared)
        except LeaseLost:
            objects.delete(f"reports/{lease.id}.json")
            delete_unreferenced(runtime.database, objects, prepared.digest)
            raise
    objects.delete(f"uploads/{lease.id}")


def _store(runtime: Runtime, lease: Lease, prepared: Prepared) -> None:
    objects, key = runtime.objects, f"datasets/{prepared.digest}.parquet"
    report = dict(prepared.report)
    outcomes = report.pop("outcomes")
    objects.put(key, prepared.shard)
    with objects.create(f"reports/{lease.id}.json") as file:
        file.write(json.dumps(outcomes).encode())
    with runtime.database.write() as session:
        hold_content(session, prepared.digest)
        if not objects.exists(key):  # the last other data set with this content was deleted just now
            objects.put(key, prepared.shard)
        leases.finish(session, lease, digest=prepared.digest, report=report)
