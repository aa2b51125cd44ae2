"""``foretune demo``: the whole way, from an archive of images to a ranking, on a service of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import AsJson

if TYPE_CHECKING:
    from app.cli.terminal import Terminal
    from app.client import Foretune

_RESULTS = ("results.json", "results.csv")


def demo(
    data: Annotated[Path, typer.Option(help="A zip, tar or tar.gz of class folders, or the folder that holds them.")],
    home: Annotated[Path, typer.Option(help="Where the demo's service keeps everything.")] = Path(".cache/demo"),
    out: Annotated[Path, typer.Option(help="Where results.json and results.csv go.")] = Path("out"),
    as_json: AsJson = False,
) -> None:
    """Start a service, upload images, rank the zoo on them, print the ranking, stop the service."""
    from app.cli.demo_service import command_to_keep, running_service
    from app.cli.output import check_file
    from app.cli.terminal import Terminal
    from app.client import Failure, Foretune

    terminal = Terminal(as_json=as_json)
    if not data.exists():
        hint = "Name a zip, tar or tar.gz of class folders: make demo DATA=photos.zip."
        raise Failure("file_not_readable", f"There is no {data}.", param="data", hint=hint)
    home = home.absolute()
    out.mkdir(parents=True, exist_ok=True)
    for name in _RESULTS:
        check_file(out / name)
    terminal.note(f"Starting a service in {home} ...")
    with running_service(home) as service, Foretune(service.url, service.key) as client:
        _rank(terminal, client, data, out)
    terminal.note(f"\nResults: {' and '.join(str(out / name) for name in _RESULTS)}", style="")
    terminal.note(
        f"To keep the service running, with this data set and its ranking:\n\n  {command_to_keep(home)}\n", style=""
    )


def _rank(terminal: "Terminal", client: "Foretune", data: Path, out: Path) -> None:
    from app.cli.dataset import show_dataset
    from app.cli.following import follow_checks, follow_selection, upload
    from app.cli.ranking_table import ranking_table

    follow_checks(terminal, client)
    active = list(client.models.list("active"))
    terminal.note(f"The zoo has {len(active)} models whose weights are verified and checked.")
    dataset = upload(terminal, client, data, None)
    if not terminal.as_json:
        show_dataset(terminal, client, dataset)
        terminal.show("")
    selection = client.selections.create(dataset.id)
    follow_selection(terminal, client, selection.id)
    results = client.selections.results(selection.id)
    as_json, as_csv = (out / name for name in _RESULTS)
    as_json.write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
    as_csv.write_text(client.selections.results_csv(selection.id), encoding="utf-8", newline="")
    terminal.answer(results, ranking_table(results, terminal.out))
