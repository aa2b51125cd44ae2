"""``foretune select``, ``watch``, ``results``, ``cancel``: rank models on a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.constraint_options import ModelFilter
from app.cli.option_group import with_groups
from app.cli.options import AsJson, DatasetName, ExpiresInDays, NoWait, SelectionId
from app.cli.session import session

if TYPE_CHECKING:
    from app.cli.terminal import Terminal
    from app.client import Foretune

_INTERRUPTED = 130


@with_groups
def select(
    dataset: DatasetName,
    model: Annotated[list[str] | None, typer.Option(help="Id or name; again for more. By default all.")] = None,
    score: Annotated[list[str] | None, typer.Option(help="Score to compute; again for more. By default 12.")] = None,
    race: Annotated[bool, typer.Option("--race", help="Drop models early that surely cannot be the best.")] = False,
    keep: Annotated[int | None, typer.Option(help="With --race: how many of the first to keep. By default 3.")] = None,
    error: Annotated[
        float | None,
        typer.Option(help="With --race: probability of dropping one of these by chance. By default 0.05."),
    ] = None,
    budget: Annotated[float | None, typer.Option(metavar="SECONDS", help="Worker time that may be spent.")] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Forecast the time until fine-tuning gets to this share of the initial loss, such as 0.1."),
    ] = None,
    speed: Annotated[
        float | None, typer.Option(help="With --target: of your machine; 4 does a step in a quarter of the time.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="With --target: of an hour of the machine.")] = None,
    verify: Annotated[
        int | None, typer.Option(metavar="K", help="Fine-tune the first K for real, and say whether they hold up.")
    ] = None,
    verify_budget: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="With --verify: worker time that may be spent on it.")
    ] = None,
    *,
    wanted: ModelFilter,
    follow_zoo: Annotated[
        bool, typer.Option("--watch", help="Also rank models that join the zoo later, in selections that follow.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="A name for people; by default the data set's.")] = None,
    expires_in_days: ExpiresInDays = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Rank models on a data set, showing how far it is, and print the ranking."""
    from app.cli.following import follow_checks
    from app.cli.lookup import find_dataset

    if not race and (keep is not None or error is not None):
        raise typer.BadParameter("--keep and --error are rules of a race: add --race.")
    if verify is None and verify_budget is not None:
        raise typer.BadParameter("--verify-budget is of a proof: add --verify.")
    machine = {"speed": speed, "price_per_hour": price}
    hardware = {field: value for field, value in machine.items() if value is not None}
    if target is None and hardware:
        raise typer.BadParameter("--speed and --price are of a forecast: add --target.")
    with session(as_json=as_json) as (terminal, client):
        dataset_id = find_dataset(client, dataset).id
        if not no_wait and not model:
            follow_checks(terminal, client)
        rules = {"keep": keep, "error_probability": error}
        asked = {rule: value for rule, value in rules.items() if value is not None}
        proof = {"k": verify} | ({} if verify_budget is None else {"budget_seconds": verify_budget})
        selection = client.selections.create(
            dataset_id,
            models=model,
            zoo=wanted.zoo,
            constraints=wanted.constraints,
            watch=follow_zoo,
            scores=score,
            race=asked or race,
            budget_seconds=budget,
            target=False if target is None else {"value": target},
            hardware=hardware or None,
            verify=False if verify is None else proof,
            retention_days=expires_in_days,
            name=name,
        )
        if no_wait:
            terminal.answer(selection, selection.id)
            terminal.note(f"Follow it: foretune watch {selection.id}")
        else:
            _follow(terminal, client, selection.id)


def watch(selection: SelectionId, as_json: AsJson = False) -> None:
    """Show how far a selection is until it has ended, then its ranking; with --json, one line for each change."""
    with session(as_json=as_json) as (terminal, client):
        if not as_json:
            _follow(terminal, client, selection)
            return
        for seen in client.selections.watch(selection):
            typer.echo(seen.model_dump_json())


def results(
    selection: SelectionId,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write JSON (FILE.json) or CSV (FILE.csv).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a ranking as far as it has come, or write it to a file."""
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json exclude each other.")
    if output is not None and not (as_csv or as_json):
        as_csv, as_json = output.suffix == ".csv", output.suffix == ".json"
        if not (as_csv or as_json):
            raise typer.BadParameter("End the file's name in .json or .csv, or add --json or --csv.")
    with session(as_json=as_json) as (terminal, client):
        if output is not None:
            output.write_text(_as_text(client, selection, as_csv=as_csv), encoding="utf-8", newline="")
            terminal.note(f"Wrote {output}.")
        elif as_csv or as_json:
            typer.echo(_as_text(client, selection, as_csv=as_csv), nl=False)
        else:
            _show(terminal, client, selection)


def cancel(selection: SelectionId, as_json: AsJson = False) -> None:
    """End a selection; what was ranked stays readable."""
    with session(as_json=as_json) as (terminal, client):
        ended = client.selections.cancel(selection)
        terminal.answer(ended, f"{ended.id} is {ended.status}.")


def list_selections(as_json: AsJson = False) -> None:
    """List selections, newest first."""
    with session(as_json=as_json) as (terminal, client):
        selections = list(client.selections.list())
        terminal.list(
            selections,
            ("id", "name", "status", "models", "asked", "verdict"),
            lambda one: (
                one.id,
                one.name,
                one.status,
                f"{one.progress.models.ended}/{one.progress.models.total}",
                one.created_at,
                one.verdict,
            ),
        )


def _follow(terminal: "Terminal", client: "Foretune", selection_id: str) -> None:
    from app.cli.following import follow_selection

    try:
        follow_selection(terminal, client, selection_id)
    except KeyboardInterrupt:
        goes_on = f"The selection goes on: foretune watch {selection_id}. End it: foretune cancel {selection_id}"
        terminal.note(goes_on, style="")
        raise typer.Exit(_INTERRUPTED) from None
    _show(terminal, client, selection_id)


def _show(terminal: "Terminal", client: "Foretune", selection_id: str) -> None:
    from app.cli.ranking_table import ranking_table

    ranking = client.selections.results(selection_id)
    terminal.answer(ranking, ranking_table(ranking, terminal.out))


def _as_text(client: "Foretune", selection_id: str, *, as_csv: bool) -> str:
    if as_csv:
        return client.selections.results_csv(selection_id)
    return client.selections.results(selection_id).model_dump_json(indent=2) + "\n"
