"""``foretune models check``: the admission checks of models, on this machine and before anyone registers them.

The checks need torch, and weights that may take a process down with them: they run in a process of their own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.model_fields import StatedFields
from app.cli.model_specs import SPEC_HELP, read_specs
from app.cli.option_group import with_groups
from app.cli.options import AsJson

if TYPE_CHECKING:
    from app.cli.terminal import Terminal
    from app.config import Settings

_COMMAND = [sys.executable, "-m", "workers.zoo.local_check"]
_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}


@with_groups
def check(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help=SPEC_HELP)],
    *,
    stated: StatedFields,
    as_json: AsJson = False,
) -> None:
    """Run the admission checks of models on this machine, without a service and without registering anything.

    Exits with 1 if a model would be refused. Weights are kept in FORETUNE_HOME for the next time.
    """
    from app.cli.terminal import Terminal
    from app.client.address import read_settings
    from app.manifest import read_row

    terminal = Terminal(as_json=as_json)
    specs = read_specs(spec, stated)
    for one in specs:
        read_row(one)  # what is wrong with a later one is told before the first is fetched
    reports = _checked(terminal, specs, read_settings())
    if as_json:
        terminal.json(reports)
    if any(report["error"] for report in reports):
        raise typer.Exit(1)


def _checked(terminal: "Terminal", specs: list[dict[str, Any]], settings: "Settings") -> list[dict[str, Any]]:
    """Follow the checks, show each as it ends, and return what came out for every model."""
    reports: list[dict[str, Any]] = [
        {"model": one["name"], "checks": [], "facts": None, "error": None} for one in specs
    ]
    ended, now, exit_code = 0, "start", 0
    for event in _events(specs, settings):
        report = reports[min(ended, len(reports) - 1)]
        if event["event"] == "start":
            now = event["check"]
            _tell_model(terminal, report)
        elif event["event"] == "check":
            report["checks"].append(event["check"])
            _tell_check(terminal, event["check"])
        elif event["event"] == "end":
            report |= {"facts": event["facts"], "error": event["error"]}
            ended += 1
            _tell_end(terminal, report)
        else:
            exit_code = event["code"]
    for report in reports[ended:]:
        report["error"] = {
            "code": "worker_lost",
            "message": f"The process that ran the checks ended with code {exit_code} in the check {now}.",
            "param": None,
            "hint": "It may have run out of memory: see what it printed, and the system's log.",
        }
        _tell_end(terminal, report)
    return reports


def _events(specs: list[dict[str, Any]], settings: "Settings") -> Iterator[dict[str, Any]]:
    """Yield what the checking process tells, and at last how it ended."""
    import app

    root = str(Path(app.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "FORETUNE_HOME": str(settings.home), "PYTHONPATH": path}
    with subprocess.Popen(  # noqa: S603 - no shell, and constant but for a folder
        [*_COMMAND, str(settings.weights)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin as asked:
            json.dump(specs, asked)
        for line in process.stdout:
            yield json.loads(line)
    yield {"event": "exit", "code": process.returncode}


def _tell_model(terminal: "Terminal", report: dict[str, Any]) -> None:
    if not terminal.as_json and not report["checks"]:
        from rich.text import Text

        from app.cli.terminal import printable

        terminal.show(Text(printable(report["model"]), style="bold"))


def _tell_check(terminal: "Terminal", one: dict[str, Any]) -> None:
    if terminal.as_json:
        return
    from rich.text import Text

    from app.cli.terminal import printable

    seconds = f"{one['seconds']:7.2f} s  "
    line = Text.assemble("  ", (one["outcome"], _STYLES[one["outcome"]]), (seconds, "dim"), f"{one['name']}: ")
    terminal.out.print(line.append(printable(one["detail"])), soft_wrap=True)
    if one["hint"]:
        terminal.out.print(Text(f"{'':18}{printable(one['hint'])}", style="dim"), soft_wrap=True)


def _tell_end(terminal: "Terminal", report: dict[str, Any]) -> None:
    if terminal.as_json:
        return
    from rich.text import Text

    from app.cli.terminal import printable

    error, checks = report["error"], report["checks"]
    warnings = sum(one["outcome"] == "warn" for one in checks)
    if error is None:
        told = f"Would be admitted: {len(checks)} checks, {warnings} with a warning."
        terminal.show(Text(told, style="green"))
    elif checks and checks[-1]["outcome"] == "fail":
        terminal.show(Text(f"Would be refused ({error['code']}); the checks after it were not run.", style="bold red"))
    else:
        terminal.show(Text(f"{printable(error['message'])} ({error['code']})", style="bold red"))
        terminal.show(Text(printable(error["hint"] or ""), style="dim"))
