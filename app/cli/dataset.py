"""``foretune dataset``: upload images and see what was understood of them."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import AsJson, DatasetName, ExpiresInDays
from app.cli.session import session

if TYPE_CHECKING:
    from app.cli.terminal import Terminal
    from app.client import Dataset, Foretune

commands = typer.Typer(help="Upload labelled images and see what was understood.", no_args_is_help=True)

_FILES_READ = 200


@commands.command()
def add(
    path: Annotated[Path, typer.Argument(help="A zip, tar or tar.gz of class folders, or the folder that holds them.")],
    name: Annotated[str | None, typer.Option(help="A name for people; by default the file's.")] = None,
    expires_in_days: ExpiresInDays = None,
    as_json: AsJson = False,
) -> None:
    """Upload labelled images, wait until they are checked, and show what was understood."""
    from app.cli.following import upload

    with session(as_json=as_json) as (terminal, client):
        dataset = upload(terminal, client, path, name, retention_days=expires_in_days)
        show_dataset(terminal, client, dataset)
        terminal.note(f"Rank models on it: foretune select {dataset.id}")


@commands.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List data sets, newest first."""
    with session(as_json=as_json) as (terminal, client):
        datasets = list(client.datasets.list())
        terminal.list(
            datasets,
            ("id", "name", "status", "classes", "images", "uploaded"),
            lambda one: (
                one.id,
                one.name,
                f"{one.status}: {one.error.code}" if one.error else one.status,
                len(one.detected.classes) if one.detected else None,
                one.detected.files.used if one.detected else None,
                one.created_at,
            ),
        )


@commands.command()
def show(dataset: DatasetName, as_json: AsJson = False) -> None:
    """Show what was understood of a data set."""
    from app.cli.lookup import find_dataset

    with session(as_json=as_json) as (terminal, client):
        show_dataset(terminal, client, find_dataset(client, dataset))


@commands.command()
def files(dataset: DatasetName, as_json: AsJson = False) -> None:
    """List every file that was ignored, corrupt or left out, with the reason."""
    from app.cli.lookup import find_dataset

    with session(as_json=as_json) as (terminal, client):
        found = find_dataset(client, dataset)
        outcomes = list(client.datasets.files(found.id))
        if found.error is not None:
            terminal.note(f"The archive was rejected: {found.error.message}")
        elif not outcomes:
            terminal.note("Every file became part of the data set.")
        terminal.list(
            outcomes,
            ("path", "outcome", "reason", "detail"),
            lambda one: (one.path, one.outcome, one.reason, one.detail),
        )


@commands.command()
def delete(dataset: DatasetName, as_json: AsJson = False) -> None:
    """Delete a data set and everything computed from it; rankings made from it stay readable."""
    from app.cli.lookup import find_dataset

    with session(as_json=as_json) as (terminal, client):
        found = find_dataset(client, dataset)
        client.datasets.delete(found.id)
        terminal.answer({"id": found.id, "deleted": True}, f"Deleted {found.name} ({found.id}).")


def show_dataset(terminal: "Terminal", client: "Foretune", dataset: "Dataset") -> None:
    """Print a data set with the first few of the files that were left out."""
    from app.cli.dataset_report import dataset_report

    left_out = client.datasets.files(dataset.id) if dataset.status == "ready" and not terminal.as_json else ()
    terminal.answer(dataset, dataset_report(dataset, islice(left_out, _FILES_READ)))
