"""Options and arguments that several commands share."""

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once.")]
DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="Id or name of a data set.")]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="Id or name of a model.")]
SelectionId = Annotated[str, typer.Argument(metavar="SELECTION", help="Id of a selection.")]
Reason = Annotated[str | None, typer.Option(help="Why, for those who read the zoo.")]
ExpiresInDays = Annotated[
    float | None, typer.Option(metavar="DAYS", help="When it is deleted by itself; else as the service is set up.")
]
