"""What models have to be, as options of the commands that list them, rank them and plan that."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from app.cli.amounts import read_amount


@dataclass(frozen=True)
class ModelFilter:
    """Only some models; all but ``zoo`` are constraints, as the service names them."""

    zoo: Annotated[str | None, typer.Option(metavar="NAME", help="Only members of this zoo.")] = None
    max_parameters: Annotated[
        float | None,
        typer.Option(metavar="N", parser=read_amount, help="Only models of at most so many, as in 30M or 30e6."),
    ] = None
    max_gflops: Annotated[
        float | None, typer.Option(metavar="N", help="Only models of at most 10^9 floating-point operations an image.")
    ] = None
    max_memory_bytes: Annotated[
        float | None,
        typer.Option(
            "--max-memory",
            metavar="BYTES",
            parser=read_amount,
            help="Only models whose weights and pass of 32 images fit in so many, as in 512MiB or 1.5GB.",
        ),
    ] = None
    licenses: Annotated[
        list[str] | None, typer.Option("--license", help="Only models under this licence; again for others.")
    ] = None
    families: Annotated[
        list[str] | None, typer.Option("--family", help="Only models of this family, such as resnet; again for more.")
    ] = None
    pretrained_on: Annotated[
        list[str] | None, typer.Option(help="Only models that saw this data set; again for others.")
    ] = None
    capabilities: Annotated[
        list[str] | None,
        typer.Option("--capability", help="Only models that have it: features, logits, gradients; again for both."),
    ] = None
    tags: Annotated[
        list[str] | None, typer.Option("--tag", help="Only models that carry this tag; again for all of several.")
    ] = None

    @property
    def constraints(self) -> dict[str, Any]:
        """The constraints that were given."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if name != "zoo"}
        return {name: value for name, value in given.items() if value not in (None, [])}
