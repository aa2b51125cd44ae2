"""An uploaded archive becomes a data set: unpacked, checked and stored as one canonical file."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from app.domain.errors import DatasetRejected
from app.ingest.prepare import Prepared, prepare
from app.storage import leases
from app.storage.leases import Lease, LeaseLost
from app.storage.purge import delete_unreferenced, hold_content
from workers.lease import HeldLease
from workers.runtime import Runtime

log = structlog.get_logger()


def prepare_dataset(runtime: Runtime, lease: Lease, held: HeldLease) -> None:
    """Prepare one upload and store what was understood of it.

    An archive that cannot become a data set ends as rejected, with its error and the list of its unusable files.

    Raises:
        Interrupted: the worker is to stop.
        LeaseLost: the data set was deleted, or is another worker's; what was stored for it is removed.
    """
    objects = runtime.objects
    with tempfile.TemporaryDirectory(dir=runtime.workspace, prefix="prepare-") as workspace:
        try:
            with runtime.stage("prepare"), objects.as_file(f"uploads/{lease.id}") as archive:
                prepared = prepare(
                    archive,
                    Path(workspace),
                    on_progress=lambda done, total: held.report("checking files", done, total),
                    should_stop=held.should_stop,
                )
        except DatasetRejected as error:
            held.rejected = error.code
            _reject(runtime, lease, error)
            return
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
    _put_outcomes(runtime, lease, outcomes)
    with runtime.database.write() as session:
        hold_content(session, prepared.digest)
        if not objects.exists(key):  # the last other data set with this content was deleted just now
            objects.put(key, prepared.shard)
        leases.finish(session, lease, digest=prepared.digest, report=report)


def _reject(runtime: Runtime, lease: Lease, error: DatasetRejected) -> None:
    log.warning("dataset.rejected", code=error.code, message=error.message)
    if error.outcomes:
        _put_outcomes(runtime, lease, error.outcomes)
    runtime.objects.delete(f"uploads/{lease.id}")
    try:
        with runtime.database.write() as session:
            leases.fail(session, lease, error)
    except LeaseLost:
        runtime.objects.delete(f"reports/{lease.id}.json")
        raise


def _put_outcomes(runtime: Runtime, lease: Lease, outcomes: Sequence[dict[str, Any]]) -> None:
    with runtime.objects.create(f"reports/{lease.id}.json") as file:
        file.write(json.dumps(outcomes).encode())
