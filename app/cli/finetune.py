"""``foretune finetune``: really train models, and take the tuned weights home."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import AsJson, DatasetName, ExpiresInDays, NoWait
from app.cli.session import session

if TYPE_CHECKING:
    from app.cli.terminal import Terminal
    from app.client import Finetune, Foretune, TunedModel

commands = typer.Typer(help="Really fine-tune models, and take the tuned weights home.", no_args_is_help=True)

_INTERRUPTED = 130
_NO_FILE_NAME = re.compile(r"[^\w.-]+")
_FinetuneId = Annotated[str, typer.Argument(metavar="FINETUNE", help="Id of a fine-tune.")]


@commands.command()
def start(
    dataset: DatasetName,
    model: Annotated[list[str], typer.Option(help="Id or name; again for more, the most promising first.")],
    lr: Annotated[
        list[float] | None,
        typer.Option(help="Learning rate; again for more, of which validation images choose. By default three."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step. By default 32.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images. By default 30.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="The most steps, where the epochs would need more.")] = None,
    loss: Annotated[str | None, typer.Option(help="cross_entropy or squared.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of the images. By default 0.")] = None,
    budget: Annotated[float | None, typer.Option(metavar="SECONDS", help="Worker time that may be spent.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="PATH", help="Download weights: the best to FILE.zip, else all to this folder."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name for people; by default the data set's.")] = None,
    expires_in_days: ExpiresInDays = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Fine-tune models on a data set, showing how far it is, and print how accurate they got."""
    from app.cli.lookup import find_dataset
    from app.cli.output import check_file, check_folder

    if no_wait and output is not None:
        raise typer.BadParameter(
            "--no-wait downloads nothing: leave out --output, and see `foretune finetune weights`."
        )
    asked = {
        "learning_rates": lr or None,
        "batch_size": batch,
        "epochs": epochs,
        "max_steps": max_steps,
        "loss": loss,
        "seed": seed,
    }
    recipe = {field: value for field, value in asked.items() if value is not None}
    if output is not None:
        (check_file if _is_one_file(output) else check_folder)(output)
    with session(as_json=as_json) as (terminal, client):
        dataset_id = find_dataset(client, dataset).id
        made = client.finetunes.create(
            dataset_id, model, recipe=recipe, budget_seconds=budget, retention_days=expires_in_days, name=name
        )
        for warning in made.warnings:
            terminal.note(f"{warning.detail} ({warning.code})", style="yellow")
        if no_wait:
            terminal.answer(made, made.id)
            terminal.note(f"Follow it: foretune finetune watch {made.id}")
        else:
            _follow(terminal, client, made.id, output)


@commands.command("list")
def list_finetunes(as_json: AsJson = False) -> None:
    """List fine-tunes, newest first."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(client.finetunes.list()),
            ("id", "name", "status", "models", "best accuracy", "asked"),
            lambda one: (
                one.id,
                one.name,
                f"{one.status}: {one.error.code}" if one.error else one.status,
                ", ".join(model.name for model in one.models),
                _best_accuracy(one.models),
                one.created_at,
            ),
        )


@commands.command()
def show(finetune: _FinetuneId, as_json: AsJson = False) -> None:
    """Show what is known of a fine-tune."""
    with session(as_json=as_json) as (terminal, client):
        _answer(terminal, client.finetunes.get(finetune))


@commands.command()
def watch(finetune: _FinetuneId, as_json: AsJson = False) -> None:
    """Show how far a fine-tune is until it has ended; with --json, one line for each change."""
    with session(as_json=as_json) as (terminal, client):
        if not as_json:
            _follow(terminal, client, finetune, None)
            return
        client.finetunes.wait(finetune, on_change=lambda seen: typer.echo(seen.model_dump_json()))


@commands.command()
def cancel(finetune: _FinetuneId, as_json: AsJson = False) -> None:
    """End a fine-tune; what is known of models by then stays readable."""
    with session(as_json=as_json) as (terminal, client):
        ended = client.finetunes.cancel(finetune)
        terminal.answer(ended, f"{ended.id} is {ended.status}.")


@commands.command()
def weights(
    finetune: _FinetuneId,
    model: Annotated[str | None, typer.Option(help="Id or name; by default the best on the test images.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="By default FINETUNE.zip in this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download tuned weights, with a model card and a script that trains them without Foretune."""
    from app.cli.output import check_file

    target = output or Path(f"{finetune}.zip")
    check_file(target)
    with session(as_json=as_json) as (terminal, client):
        path = client.finetunes.download(finetune, target, model=model)
        terminal.answer({"finetune": finetune, "path": str(path)}, f"Wrote {path}.")


def _follow(terminal: "Terminal", client: "Foretune", finetune_id: str, output: Path | None) -> None:
    from app.cli.following import follow_finetune

    try:
        ended = follow_finetune(terminal, client, finetune_id)
    except KeyboardInterrupt:
        later = f"foretune finetune watch {finetune_id}. End it: foretune finetune cancel {finetune_id}"
        terminal.note(f"The fine-tune goes on: {later}", style="")
        raise typer.Exit(_INTERRUPTED) from None
    _answer(terminal, ended)
    if output is not None:
        for path in _download(client, ended, output):
            terminal.note(f"Wrote {path}.")


def _download(client: "Foretune", finetune: "Finetune", output: Path) -> Sequence[Path]:
    """Write the best model's weights to a file, or those of all models to a folder."""
    trained = [model for model in finetune.models if model.weights]
    if _is_one_file(output):
        return [client.finetunes.download(finetune.id, output)] if trained else []
    output.mkdir(parents=True, exist_ok=True)
    return [
        client.finetunes.download(finetune.id, output / _file_name(model, finetune), model=model.model)
        for model in trained
    ]


def _is_one_file(output: Path) -> bool:
    return output.suffix == ".zip"


def _file_name(model: "TunedModel", finetune: "Finetune") -> str:
    return f"{_NO_FILE_NAME.sub('-', model.name)}-{finetune.id}.zip"


def _answer(terminal: "Terminal", finetune: "Finetune") -> None:
    from app.cli.finetune_report import finetune_report

    terminal.answer(finetune, finetune_report(finetune))


def _best_accuracy(models: Sequence[Any]) -> str:
    known = [model.test_accuracy for model in models if model.test_accuracy is not None]
    return f"{max(known):.1%}" if known else ""
