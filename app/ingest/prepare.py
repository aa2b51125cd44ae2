"""From an uploaded archive to one canonical Parquet file, a digest and a report."""

import json
import warnings as python_warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from app.domain.errors import DatasetRejected
from app.ingest.archive import Archive, Member
from app.ingest.archive_format import open_archive
from app.ingest.class_checks import (
    check_class_count,
    check_corrupt_share,
    warn_about_channels,
    warn_about_empty,
    warn_about_names,
    warn_about_sizes,
)
from app.ingest.clutter import clutter_reason
from app.ingest.conversions import warn_about_conversions
from app.ingest.duplicates import without_duplicates
from app.ingest.intake import Intake
from app.ingest.layout import detect_layout
from app.ingest.limits import DEFAULT_LIMITS, Limits
from app.ingest.progress import Progress
from app.ingest.report import Outcome, Row, Warnings, outcomes_as_dicts, report
from app.ingest.shard import write_shard
from app.ingest.spool import Spool

__all__ = ["Limits", "Prepared", "prepare"]

SHARD_NAME = "dataset.parquet"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A data set that can be ranked on."""

    shard: Path
    """The canonical Parquet file; see :mod:`app.ingest.shard`."""
    digest: str
    """SHA-256 over path, split, class and stored bytes of every row, in order: the identity of the content."""
    report: dict[str, Any]
    """What was understood, JSON-ready; see :mod:`app.ingest.report`."""


def prepare(
    archive: Path,
    workspace: Path,
    *,
    limits: Limits = DEFAULT_LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Prepared:
    """Check every file of an archive of class folders and write the images that count to ``workspace/dataset.parquet``.

    Memory does not grow with the archive's bytes, only with its number of files. The same content gives the same digest
    and rows, from a zip as from a tar, whatever the order of its entries.

    Args:
        archive: a zip, tar or tar.gz, told by content.
        workspace: an existing folder; it needs room for twice the stored images.
        limits: what the archive may cost and what an image must be.
        on_progress: called with (files done, files in all) after each file.
        should_stop: asked between files.

    Raises:
        DatasetRejected: the archive cannot become a data set. Codes: ``unsupported_archive``, ``archive_empty``,
            ``archive_unsafe``, ``archive_encrypted``, ``archive_truncated``, ``archive_corrupt``, ``archive_bomb``,
            ``corrupt_fraction_exceeded``, ``label_conflict``, ``no_classes``, ``too_few_classes``. The last four carry
            the outcome of every file that does not count.
        Interrupted: ``should_stop()`` was true. Either way nothing is left in the workspace.
    """
    with TemporaryDirectory(dir=workspace, prefix=".preparing-") as scratch, _quiet_pillow():
        opened = open_archive(archive, limits)
        members, outcomes = _candidates(opened)
        progress = Progress(len(members), on_progress, should_stop)
        progress.check()
        layout = detect_layout(member.path for member in members)
        warnings = Warnings()
        guessed = sorted(member.path for member in opened.members if member.name_guessed)
        if guessed:
            detail = "Names in an unknown encoding, read as code page 437: pack with UTF-8 names to see them right."
            warnings.add("name_encoding_guessed", detail, guessed)

        with Spool(Path(scratch, "images")) as spool:
            intake = Intake(layout, spool, limits)
            intake.run(opened, members, progress)
            outcomes += intake.outcomes
            with _reporting(outcomes):
                check_corrupt_share(len(intake.rows), outcomes, limits)
                rows, repeated = without_duplicates(sorted(intake.rows, key=lambda row: row.order), limits, warnings)
                outcomes += repeated
                class_names = check_class_count(rows, outcomes)
            warn_about_conversions(rows, warnings)
            warn_about_names(members, layout, class_names, warnings)
            warn_about_sizes(rows, class_names, warnings)
            warn_about_channels(rows, warnings)
            warn_about_empty(class_names, layout, outcomes, warnings)
            shard = Path(scratch, SHARD_NAME)
            write_shard(shard, _stored(rows, class_names, spool, progress), class_names)
        prepared = Prepared(
            shard=workspace / SHARD_NAME,
            digest=_digest(rows),
            report=report(layout, rows, class_names, outcomes, warnings),
        )
        shard.replace(prepared.shard)
    return prepared


def _candidates(archive: Archive) -> tuple[list[Member], list[Outcome]]:
    """Return the members to look at, and the outcome of those that are ignored by their path alone."""
    last = {member.spelling: member.index for member in archive.members}
    members, outcomes = [], []
    for member in archive.members:
        reason = clutter_reason(member.path)
        if reason is not None:
            outcomes.append(Outcome(member.path, "ignored", reason, ""))
        elif last[member.spelling] != member.index:
            detail = "a later entry of the archive has the same path and takes its place"
            outcomes.append(Outcome(member.path, "ignored", "replaced_in_archive", detail))
        else:
            members.append(member)
    return members, outcomes


def _stored(
    rows: Iterable[Row], class_names: Sequence[str], spool: Spool, progress: Progress
) -> Iterator[tuple[bytes, str, int, str]]:
    labels = {name: label for label, name in enumerate(class_names)}
    for row in rows:
        progress.check()
        yield spool.read(row.offset, row.length), row.name, labels[row.class_name], row.split


def _digest(rows: Iterable[Row]) -> str:
    digest = sha256()
    for row in rows:
        digest.update(json.dumps([row.name, row.split, row.class_name, row.sha256], ensure_ascii=False).encode())
        digest.update(b"\n")
    return digest.hexdigest()


@contextmanager
def _reporting(outcomes: list[Outcome]) -> Iterator[None]:
    """Let a rejection say of every file what was wrong with it."""
    try:
        yield
    except DatasetRejected as error:
        error.outcomes = outcomes_as_dicts(outcomes)
        raise


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about files off the log: what they say is in the report.

    The filter is the process's own, so it is set here once, around all threads, and not around each image.
    """
    with python_warnings.catch_warnings():
        python_warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
