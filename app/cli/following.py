"""Following what the service does: an upload, a data set being prepared, models being checked or ranked or tuned."""

from pathlib import Path
from typing import IO

from app.cli.folder_archive import packed_folder
from app.cli.progress import Bar
from app.cli.terminal import Terminal, printable
from app.client import Dataset, Failure, Finetune, Foretune, JobFailed, Model, Selection

_ARCHIVES = "Name a zip, tar or tar.gz of class folders, or the folder that holds them."


def upload(
    terminal: Terminal, client: Foretune, path: Path, name: str | None, *, retention_days: float | None = None
) -> Dataset:
    """Upload an archive, or a folder packed into one, and return the data set once it is ready.

    Raises:
        Failure: ``file_not_readable``, ``empty_folder``.
        JobFailed: the archive was rejected.
    """
    if not path.exists():
        raise Failure("file_not_readable", f"There is no {path}.", param=str(path), hint=_ARCHIVES)
    name = name or path.resolve().name
    if path.is_dir():
        with Bar(terminal, "packing") as packing, packed_folder(path, packing.update) as archive:
            dataset = _send(terminal, client, archive, name, retention_days)
    else:
        dataset = _send(terminal, client, path, name, retention_days)
    return follow_dataset(terminal, client, dataset)


def _send(
    terminal: Terminal, client: Foretune, source: Path | IO[bytes], name: str, retention_days: float | None
) -> Dataset:
    with Bar(terminal, "uploading") as bar:
        return client.datasets.upload(source, name, retention_days=retention_days, on_progress=bar.update)


def follow_dataset(terminal: Terminal, client: Foretune, dataset: Dataset) -> Dataset:
    """Return a data set once it is ready.

    Raises:
        JobFailed: it was rejected.
    """
    note_missing_worker(terminal, client)
    with Bar(terminal, "preparing") as bar:

        def show(seen: Dataset) -> None:
            progress = seen.progress
            done, total = (progress.done, progress.total or None) if progress else (0, None)
            bar.update(done, total, progress.stage if progress else seen.status, milestone=seen.status)

        return client.datasets.wait(dataset.id, on_change=show)


def follow_checks(terminal: Terminal, client: Foretune) -> None:
    """Wait until no model of the zoo is being checked, and tell of those that were refused."""
    unchecked = [model for model in client.models.list() if not model.has_ended]
    if not unchecked:
        return
    note_missing_worker(terminal, client)
    with Bar(terminal, "checking models") as bar:
        for place, model in enumerate(reversed(unchecked)):  # the oldest is the first to be checked
            bar.update(place, len(unchecked), model.name)
            follow_model(terminal, client, model)
            bar.update(place + 1, len(unchecked), milestone=f"{place + 1} of {len(unchecked)}, {model.name}")


def follow_model(terminal: Terminal, client: Foretune, model: Model) -> Model:
    """Return a model once its checks have ended, and tell if it was refused."""
    try:
        return client.models.wait(model.id)
    except JobFailed as refused:
        terminal.note(f"{model.name} was refused: {refused.message} ({refused.code})", style="yellow")
        return client.models.get(model.id)


def follow_selection(terminal: Terminal, client: Foretune, selection_id: str) -> Selection:
    """Return a selection once it has ended.

    Raises:
        JobFailed: no model could be ranked.
    """
    note_missing_worker(terminal, client)
    with Bar(terminal, "evaluating") as bar:
        for selection in client.selections.watch(selection_id):
            _show(bar, selection)
    if selection.error is not None:
        error = selection.error
        raise JobFailed(error.code, error.message, param=error.param, hint=error.hint)
    return selection


def _show(bar: Bar, selection: Selection) -> None:
    counts = selection.progress.models
    told = [f"{counts.ended} of {counts.total} models"]
    if counts.eliminated:
        told.append(f"{counts.eliminated} dropped")
    if counts.over_budget:
        told.append(f"{counts.over_budget} stopped by the budget")
    if counts.cached:
        told.append(f"{counts.cached} from the cache")
    if counts.failed:
        told.append(f"{counts.failed} failed")
    current = [f"{one.name} {one.stage} {one.done}/{one.total}" for one in selection.progress.current]
    proof = selection.proof
    if proof is not None and not selection.has_ended:
        now = f": {proof.progress.stage}" if proof.progress else f" is {proof.status}"
        told.append(f"fine-tuning the first of them{now}")
        if proof.progress and proof.progress.total:
            current.append(f"{proof.progress.done:,}/{proof.progress.total:,}")
    milestone = ", ".join(told)
    bar.update(selection.progress.fraction, 1.0, "; ".join([milestone, *current]), milestone=milestone)


def follow_finetune(terminal: Terminal, client: Foretune, finetune_id: str) -> Finetune:
    """Return a fine-tune once it has ended.

    Raises:
        JobFailed: no model could be trained.
    """
    note_missing_worker(terminal, client)
    with Bar(terminal, "fine-tuning") as bar:
        return client.finetunes.wait(finetune_id, on_change=lambda seen: _show_training(bar, seen))


def _show_training(bar: Bar, seen: Finetune) -> None:
    ended = f"{len(seen.models)} models ended" if len(seen.models) != 1 else "1 model ended"
    if seen.progress is None:
        bar.update(0, None, ended, milestone=f"{seen.status}, {ended}")
        return
    done, total = seen.progress.done, seen.progress.total
    now = f"{ended}; {seen.progress.stage}"
    steps = f" {done:,}/{total:,}" if total else ""
    bar.update(done, total or None, now + steps, milestone=now)


def note_missing_worker(terminal: Terminal, client: Foretune) -> None:
    """Tell a user who is about to wait that nobody is there to do the work."""
    state = client.health().checks.get("workers", "ok")
    if state != "ok":
        terminal.note(f"Waiting for a worker ({printable(state)}); `foretune worker` starts one.", style="yellow")
