"""An uploaded archive becomes a data set: unpacked, checked and stored as one canonical file."""

import json
import tempfile
from pathlib import Path

import structlog

from app.domain.errors import DatasetRejected
from app.ingest.prepare import prepare
from app.storage import leases
from app.storage.leases import Lease, LeaseLost
from app.storage.purge import delete_unreferenced
from workers.lease import HeldLease
from workers.runtime import Runtime

log = structlog.get_logger()


def prepare_dataset(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Prepare one upload and store what was understood of it.

    Raises:
        DatasetRejected: the archive cannot become a data set; the upload is gone then.
        Interrupted: the worker is to stop.
        LeaseLost: the data set was deleted, or is another worker's; what was stored for it is removed.
    """
    objects = runtime.objects
    with tempfile.TemporaryDirectory(prefix="foretune-prepare-") as workspace:
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
        report = dict(prepared.report)
        outcomes = report.pop("outcomes")
        objects.put(f"datasets/{prepared.digest}.parquet", prepared.shard)
        with objects.create(f"reports/{lease.id}.json") as file:
            file.write(json.dumps(outcomes).encode())
    try:
        with runtime.database.write() as session:
            leases.finish(session, lease, digest=prepared.digest, report=report)
    except LeaseLost:
        objects.delete(f"reports/{lease.id}.json")
        delete_unreferenced(runtime.database, objects, prepared.digest)
        raise
    objects.delete(f"uploads/{lease.id}")
