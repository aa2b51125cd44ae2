"""All commands, by name. The modules that do the work are imported by the command that runs."""

from importlib.metadata import version
from typing import Annotated

import typer

from app.cli import (
    admin,
    dataset,
    demo,
    explanation,
    finetune,
    forecast,
    key,
    model,
    plan,
    scores,
    selection,
    service,
    tenant,
    webhook,
    zoo,
)

program = typer.Typer(
    name="foretune",
    help="Which pretrained model should I fine-tune on my images?",
    epilog="Commands find the service by FORETUNE_URL and FORETUNE_KEY, else on this machine. See the README.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"foretune {version('foretune')}")
        raise typer.Exit


@program.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


_RUN, _RANK, _MANAGE = "Run the service", "Rank, forecast and fine-tune models", "Manage"

program.command(rich_help_panel=_RUN)(service.serve)
program.command(rich_help_panel=_RUN)(service.worker)
program.command(rich_help_panel=_RUN)(service.migrate)
program.command(rich_help_panel=_RUN)(service.status)
program.command(rich_help_panel=_RUN)(demo.demo)
program.add_typer(dataset.commands, name="dataset", rich_help_panel=_RANK)
program.command(rich_help_panel=_RANK)(plan.plan)
program.command(rich_help_panel=_RANK)(selection.select)
program.command(rich_help_panel=_RANK)(selection.watch)
program.command(rich_help_panel=_RANK)(selection.results)
program.command(rich_help_panel=_RANK)(explanation.explain)
program.command(rich_help_panel=_RANK)(forecast.forecast)
program.command(rich_help_panel=_RANK)(selection.cancel)
program.command("selections", rich_help_panel=_RANK)(selection.list_selections)
program.add_typer(finetune.commands, name="finetune", rich_help_panel=_RANK)
program.add_typer(scores.commands, name="scores", rich_help_panel=_RANK)
program.add_typer(model.commands, name="models", rich_help_panel=_MANAGE)
program.add_typer(zoo.commands, name="zoos", rich_help_panel=_MANAGE)
program.add_typer(key.commands, name="key", rich_help_panel=_MANAGE)
program.add_typer(tenant.commands, name="tenants", rich_help_panel=_MANAGE)
program.command(rich_help_panel=_MANAGE)(tenant.usage)
program.command(rich_help_panel=_MANAGE)(tenant.audit)
program.add_typer(webhook.commands, name="webhook", rich_help_panel=_MANAGE)
program.add_typer(admin.commands, name="admin", rich_help_panel=_MANAGE)
