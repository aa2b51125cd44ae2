"""What models have to be, as options of the commands that list them and rank them."""

from typing import Annotated, Any

import typer

MaxParameters = Annotated[float | None, typer.Option(metavar="N", help="Only models of at most so many, as in 30e6.")]
MaxGflops = Annotated[
    float | None, typer.Option(metavar="N", help="Only models of at most 10^9 floating-point operations an image.")
]
MaxMemory = Annotated[
    float | None,
    typer.Option("--max-memory", metavar="BYTES", help="Only models whose weights and pass of 32 images fit in."),
]
License = Annotated[list[str] | None, typer.Option(help="Only models under this licence; again for others.")]
Family = Annotated[list[str] | None, typer.Option(help="Only models of this family, such as resnet; again for more.")]
PretrainedOn = Annotated[list[str] | None, typer.Option(help="Only models that saw this data set; again for others.")]
Capability = Annotated[
    list[str] | None, typer.Option(help="Only models that have it: features, logits, gradients; again for both.")
]
Tag = Annotated[list[str] | None, typer.Option(help="Only models that carry this tag; again for all of several.")]
ZooName = Annotated[str | None, typer.Option("--zoo", metavar="NAME", help="Only members of this zoo.")]


def constraints(
    max_parameters: float | None,
    max_gflops: float | None,
    max_memory: float | None,
    licenses: list[str] | None,
    families: list[str] | None,
    pretrained_on: list[str] | None,
    capabilities: list[str] | None,
    tags: list[str] | None,
) -> dict[str, Any]:
    """Return the constraints that were given, as the service takes them."""
    asked = {
        "max_parameters": max_parameters,
        "max_gflops": max_gflops,
        "max_memory_bytes": max_memory,
        "licenses": licenses,
        "families": families,
        "pretrained_on": pretrained_on,
        "capabilities": capabilities,
        "tags": tags,
    }
    return {name: value for name, value in asked.items() if value not in (None, [])}
