"""``foretune models``: the zoo."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli import model_check, model_curation
from app.cli.amounts import counted
from app.cli.constraint_options import ModelFilter
from app.cli.model_fields import StatedFields
from app.cli.model_specs import SPEC_HELP, is_weights_file, read_specs
from app.cli.option_group import with_groups
from app.cli.options import AsJson, ModelName, NoWait
from app.cli.session import session

if TYPE_CHECKING:
    from rich.console import RenderableType

    from app.cli.terminal import Terminal
    from app.client import Foretune, Model, Weights

commands = typer.Typer(help="See the zoo of pretrained models, and add to it.", no_args_is_help=True)


@commands.command("list")
@with_groups
def list_models(
    status: Annotated[str | None, typer.Option(help="Only models in this state, such as active.")] = None,
    *,
    wanted: ModelFilter,
    as_json: AsJson = False,
) -> None:
    """List models, newest first."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(client.models.list(status, constraints=wanted.constraints, zoo=wanted.zoo)),
            ("id", "name", "version", "status", "size", "pretrained on", "licence", "tags"),
            lambda one: (
                one.id,
                one.name,
                one.version,
                f"{one.status}: {one.error.code}" if one.error else one.status,
                _size(one),
                ", ".join(one.pretraining),
                one.license,
                ", ".join(one.tags),
            ),
        )


@commands.command()
def show(model: ModelName, as_json: AsJson = False) -> None:
    """Show a model, its facts and how it passed its checks."""
    from app.cli.lookup import find_model

    with session(as_json=as_json) as (terminal, client):
        found = find_model(client, model)
        terminal.answer(found, _report(found))


@commands.command()
@with_groups
def add(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=SPEC_HELP)],
    *,
    stated: StatedFields,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Register models and wait for their checks, as in: foretune models add torchvision:resnet50.IMAGENET1K_V2.

    A safetensors file is uploaded: foretune models add my.safetensors --architecture timm:resnet18 --classes 12
    --license apache-2.0 --preprocessing imagenet.
    """
    from app.cli.following import follow_model, note_missing_worker
    from app.manifest import read_row

    specs = read_specs(spec, stated)
    with session(as_json=as_json) as (terminal, client):
        if is_weights_file(spec):
            read_row(specs[0])  # what is wrong with it is told before anything is sent
            weights = _send(terminal, client, Path(spec))
            specs[0]["source"] = {"type": "upload", "sha256": weights.sha256}
        models = [client.models.register(one) for one in specs]
        if not no_wait and not all(model.has_ended for model in models):
            note_missing_worker(terminal, client)
            models = [follow_model(terminal, client, model) for model in models]
        if as_json:
            terminal.json(models)
        else:
            for model in models:
                terminal.show(_report(model))
    if any(model.status in ("rejected", "quarantined") for model in models):
        raise typer.Exit(1)


@commands.command("import")
def import_models(
    manifest: Annotated[Path, typer.Argument(help="A YAML file: `models:` and a list of specifications.")],
    dry_run: Annotated[bool, typer.Option(help="Only say what would become of every row.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register hundreds of models at once; what is wrong with one row spoils no other."""
    with session(as_json=as_json) as (terminal, client):
        found = client.models.import_manifest(_text(manifest), dry_run=dry_run)
        if as_json:
            terminal.json(found)
        else:
            terminal.list(
                found.rows,
                ("row", "name", "verdict", "version", "what is wrong"),
                lambda one: (one.row, one.name, one.verdict, one.version, one.error and one.error.message),
            )
            told = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
            terminal.note(f"{'Would be' if dry_run else 'Done'}: {told or 'no rows'}.")
    if "invalid" in found.counts:
        raise typer.Exit(1)


@commands.command()
def upload(
    file: Annotated[Path, typer.Argument(help="A safetensors file.")],
    as_json: AsJson = False,
) -> None:
    """Send weights to the service and print their SHA-256, for a source {type: upload, sha256: ...}."""
    with session(as_json=as_json) as (terminal, client):
        weights = _send(terminal, client, file)
        told = f"{counted(weights.tensors, 'tensor')}, {counted(weights.bytes, 'byte')}"
        terminal.note(f"{told}. Name them in a model within a day.")
        terminal.answer(weights, weights.sha256)


for _command in (
    *(model_curation.enable, model_curation.disable, model_curation.deprecate),
    *(model_curation.withdraw, model_curation.recheck),
    *(model_curation.tag, model_curation.untag, model_curation.log),
):
    commands.command()(_command)
commands.command()(model_check.check)


def _send(terminal: "Terminal", client: "Foretune", file: Path) -> "Weights":
    from app.cli.progress import Bar

    with Bar(terminal, "uploading") as bar:
        return client.models.upload(file, on_progress=bar.update)


def _text(file: Path) -> str:
    from app.client import Failure

    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "Give a file that can be read, in UTF-8."
        raise Failure("file_not_readable", f"{file} cannot be read: {error}.", param=str(file), hint=hint) from error


def _stated(model: "Model") -> dict[str, Any]:
    """Return the specification with what the checks filled in."""
    stated: dict[str, Any] = (model.facts or {}).get("resolved") or model.spec
    return stated


def _size(model: "Model") -> str:
    return f"{model.parameters / 1e6:.1f} M" if model.parameters else ""


def _report(model: "Model") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from app.cli.tables import facts
    from app.cli.terminal import printable

    stated = _stated(model)
    described = {field: stated.get(field) for field in ("architecture", "homepage", "notes")}
    rows: list[tuple[str, object]] = [
        (field, value) for field, value in (described | {"license": model.license}).items() if value
    ]
    if model.tags:
        rows.append(("tags", ", ".join(model.tags)))
    rows += [(fact, str(value)) for fact, value in (model.facts or {}).items() if fact != "resolved"]
    for check in model.checks:
        rows.append((f"check {check['name']}", f"{check['outcome']}  {check.get('detail') or ''}"))
    if model.reason:
        rows.append(("reason", model.reason))
    if model.error is not None:
        rows += [("error", f"{model.error.message} ({model.error.code})"), ("hint", model.error.hint)]
    title = (printable(model.name), "bold")
    return Group(Text.assemble(title, f"  version {model.version}  {model.id}  {model.status}"), facts(rows))
