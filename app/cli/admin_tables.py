"""The queue and the workers, drawn for people."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.tables import listing
from app.client.operations import HeldJob, Queue, Worker

_BAR_WIDTH = 12


def queue_tables(queue: Queue) -> RenderableType:
    """Return how much waits, whose it is, and what is being worked on."""
    kinds = listing(
        ("kind", "waiting", "held", "oldest"),
        ((one.kind, one.waiting, one.held, _duration(one.oldest_waiting_seconds)) for one in queue.kinds),
    )
    parts: list[RenderableType] = [kinds]
    if queue.tenants:
        rows = ((one.tenant, one.kind, one.waiting, one.held) for one in queue.tenants)
        parts += [Text(), listing(("tenant", "kind", "waiting", "held"), rows)]
    if queue.held:
        held = ((one.id, one.kind, one.tenant, one.worker, *_work(one)) for one in queue.held)
        parts += [Text(), listing(("job", "kind", "tenant", "worker", "for", "stage", "progress"), held)]
    return Group(*parts)


def workers_table(workers: Sequence[Worker]) -> RenderableType:
    """Return the workers, one line for each job they hold."""
    if not workers:
        return Text("No worker is there; `foretune worker` starts one.")
    rows = []
    for worker in workers:
        about = (worker.name, worker.status, worker.device, _rate(worker.images_per_second), _seen(worker))
        for job in worker.holds or (None,):
            work = ("", "", "", "") if job is None else (job.id, *_work(job))
            rows.append((*about, *work, worker.versions.get("foretune", "")))
    columns = ("worker", "status", "device", "images/s", "seen", "job", "for", "stage", "progress", "version")
    return listing(columns, rows)


def _work(job: HeldJob) -> tuple[str, str, str]:
    """Return how long a job is held, its stage and how far that is."""
    held = _duration((datetime.now(UTC) - job.since).total_seconds())
    if job.progress is None:
        return held, "", ""
    return held, job.progress.stage, _bar(job.progress.done, job.progress.total)


def _bar(done: int, total: int) -> str:
    if total <= 0:
        return ""
    filled = round(_BAR_WIDTH * min(done / total, 1))
    return f"{'━' * filled}{'╌' * (_BAR_WIDTH - filled)} {done:,}/{total:,}"


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:.0f}" if images_per_second >= 0.5 else ""


def _seen(worker: Worker) -> str:
    return f"{_duration((datetime.now(UTC) - worker.seen_at).total_seconds())} ago"


def _duration(seconds: float | None) -> str:
    """Return a duration as people say it; nothing for None."""
    if seconds is None:
        return ""
    seconds = max(seconds, 0.0)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
