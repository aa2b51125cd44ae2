"""An uploaded archive becomes a data set: unpacked, checked and stored as one canonical file."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from app.domain.errors import DatasetRejected, Unavailable
from app.ingest.prepare import Prepared, prepare
from app.storage import leases
from app.storage.leases import Lease, LeaseLost
from app.storage.purge import delete_unreferenced, hold_content
from app.storage.repositories.datasets import deleted_among
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
            _forget_outcomes(runtime, lease)
            delete_unreferenced(runtime.database, objects, prepared.digest)
            raise
    _delete_upload(runtime, lease)


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
    try:
        with runtime.database.write() as session:
            leases.fail(session, lease, error)
    except LeaseLost:
        _forget_outcomes(runtime, lease)
        raise
    _delete_upload(runtime, lease)


def _delete_upload(runtime: Runtime, lease: Lease) -> None:
    """Delete the archive of a data set that has ended, and not before: whoever tries again after a failure needs it."""
    try:
        runtime.objects.delete(f"uploads/{lease.id}")
    except Unavailable as error:
        log.warning("upload.left", code=error.code)  # it goes with the orphans


def _put_outcomes(runtime: Runtime, lease: Lease, outcomes: Sequence[dict[str, Any]]) -> None:
    with runtime.objects.create(f"reports/{lease.id}.json") as file:
        file.write(json.dumps(outcomes).encode())


def _forget_outcomes(runtime: Runtime, lease: Lease) -> None:
    """Remove the list of files of a deleted data set; where another worker has it now, the list is that one's."""
    with runtime.database.read() as session:
        is_deleted = bool(deleted_among(session, [lease.id]))
    if is_deleted:
        runtime.objects.delete(f"reports/{lease.id}.json")
