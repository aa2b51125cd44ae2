"""Fields of a model's specification as options, for what a safetensors file does not say of itself."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer

_IMAGENET = {
    "resize": 256,
    "crop": [224, 224],
    "interpolation": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
"""What torchvision's classifiers are evaluated with, and most networks of 224 pixels were trained for."""

_EXAMPLES = {
    "architecture": "--architecture timm:resnet18",
    "license": "--license apache-2.0",
    "preprocessing": "--preprocessing imagenet",
}


@dataclass(frozen=True)
class StatedFields:
    """What is stated of one model, in place of what its source says."""

    name: Annotated[str | None, typer.Option(help="By default that of the source or of the file.")] = None
    architecture: Annotated[
        str | None, typer.Option(metavar="LIBRARY:NAME", help="Of a safetensors file, such as timm:resnet18.")
    ] = None
    license: Annotated[str | None, typer.Option(metavar="SPDX", help="Such as apache-2.0.")] = None
    classes: Annotated[
        int | None, typer.Option(metavar="N", help="Of the classifier in the file; by default it has none.")
    ] = None
    preprocessing: Annotated[
        str | None,
        typer.Option(
            metavar="STEPS",
            help="imagenet (shorter side 256, centre 224, ImageNet's mean and deviation), or a specification's "
            "mapping: '{resize: 288, crop: [256, 256], interpolation: bicubic, mean: [...], std: [...]}'.",
        ),
    ] = None

    def fields(self, name: str) -> dict[str, Any]:
        """Return the fields that are stated; ``name`` is the model's where none is."""
        name = self.name or name
        stated = {
            "name": name,
            "architecture": self.architecture,
            "license": self.license,
            "head": None if self.classes is None else {"num_classes": self.classes, "label_set": name},
            "preprocessing": None if self.preprocessing is None else _steps(self.preprocessing),
        }
        return {field: value for field, value in stated.items() if value is not None}

    def are_stated(self) -> bool:
        """Tell whether anything is."""
        return self != StatedFields()

    def require(self, file: str) -> None:
        """Ask for what a file of tensors alone does not say.

        Raises:
            typer.BadParameter: something is not stated.
        """
        missing = [example for field, example in _EXAMPLES.items() if getattr(self, field) is None]
        if missing:
            hint = " and --classes N, if it holds a classifier" if self.classes is None else ""
            raise typer.BadParameter(
                f"{file} holds tensors, and nothing that says what they are. Say it, as in: {' '.join(missing)}{hint}. "
                "Or write a specification: docs/zoo.md shows one."
            )


def _steps(text: str) -> Any:
    import yaml

    if text == "imagenet":
        return _IMAGENET
    try:
        steps = yaml.safe_load(text)
    except yaml.YAMLError:
        steps = None
    if not isinstance(steps, dict):
        message = f"{text!r} is neither imagenet nor a mapping such as '{{resize: 256, crop: [224, 224], ...}}'."
        raise typer.BadParameter(message, param_hint="--preprocessing")
    return steps
