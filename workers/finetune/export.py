"""What a user takes home: the tuned weights, a model card and a script that needs nothing of this product.

D features, C classes
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from safetensors.torch import save
from torch import Tensor

from app.domain.errors import EvaluationFailed
from app.domain.finetuning import Recipe
from app.domain.model_spec import ModelSpec, Preprocessing
from workers.finetune.model_card import model_card
from workers.finetune.plain_architecture import base_state, classifier_name, construction, plain_state
from workers.finetune.tuning import Tuned
from workers.zoo.network import Network

_SCRIPT = Path(__file__).with_name("script.py.txt")
_BEGIN, _END = "# settings\n", "# end of settings\n"
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes


@dataclass(frozen=True, eq=False)
class Export:
    """What is exported: the model it came from, the data set, the recipe and the outcome."""

    spec: ModelSpec
    dataset_name: str
    class_names: Sequence[str]
    images: dict[str, int]
    recipe: Recipe
    tuned: Tuned


def write_export(export: Export, file: IO[bytes], *, base: Network | None = None) -> None:
    """Write an archive of weights.safetensors, README.md, finetune.py and, with ``base``, base.safetensors.

    The weights have the names of the library's plain network, whose class names lie in the metadata. The same
    content gives the same bytes. Besides the network, one file of the archive is in memory at a time.

    Args:
        export: its outcome has weights.
        file: open for writing; it need not be seekable.
        base: the network before the tuning, from which the script then starts; without it, from the tuned weights.

    Raises:
        EvaluationFailed: ``nothing_to_export`` where the training diverged; nothing was written.
    """
    spec, tuned, recipe = export.spec, export.tuned, export.recipe
    if tuned.weights is None or tuned.learning_rate is None or spec.preprocessing is None:
        raise EvaluationFailed(
            "nothing_to_export",
            f"the training of {spec.name} left no usable weights ({tuned.verdict})",
            hint="Train with smaller learning rates.",
        )
    metadata = {"classes": json.dumps(list(export.class_names))}
    card = model_card(spec, export.dataset_name, export.class_names, export.images, recipe, tuned)
    with zipfile.ZipFile(file, "w") as archive:
        _add(archive, "weights.safetensors", save(_contiguous(plain_state(spec, tuned.weights)), metadata))
        _add(archive, "README.md", card)
        _add(archive, "finetune.py", finetune_script(spec, recipe, tuned.learning_rate))
        if base is not None:
            _add(archive, "base.safetensors", save(_contiguous(base_state(spec, base.trunk))))


def _add(archive: zipfile.ZipFile, name: str, content: bytes | str) -> None:
    archive.writestr(zipfile.ZipInfo(name, _TIMESTAMP), content)


def finetune_script(spec: ModelSpec, recipe: Recipe, learning_rate: float) -> str:
    """Return a Python script that trains and answers with plain torch and timm, torchvision or transformers.

    Args:
        spec: a specification whose preprocessing is stated.
        recipe: how the script trains.
        learning_rate: the one that was chosen.
    """
    assert spec.preprocessing is not None
    text = _SCRIPT.read_text(encoding="utf-8")
    head, rest = text.split(_BEGIN)
    tail = rest.split(_END)[1]
    return head + "\n".join(_settings(spec, spec.preprocessing, recipe, learning_rate)) + tail


def _settings(spec: ModelSpec, steps: Preprocessing, recipe: Recipe, learning_rate: float) -> list[str]:
    chosen = [("learning_rate", learning_rate), *recipe.as_dict().items()]
    chosen = [(name, value) for name, value in chosen if name != "learning_rates"]
    library = spec.architecture.partition(":")[0]
    return [
        f"import {library}",
        "",
        f"RESIZE = {steps.resize!r}  # pixels of the shorter side, or height and width; None: stretched to the crop",
        f"CROP = {steps.crop!r}  # height, width",
        f'CROP_CORNER = "{steps.crop_corner}"  # where the margins cannot be equal',
        f"INTERPOLATION = Image.Resampling.{steps.interpolation.upper()}",
        f'CHANNELS = "{steps.channels}"',
        f"DIVIDE_BY = {steps.divide_by!r}",
        f"MEAN = {steps.mean!r}",
        f"STD = {steps.std!r}",
        f'CLASSIFIER = "{classifier_name(spec)}"',
        "RECIPE = {",
        *(f'    "{name}": {json.dumps(value) if isinstance(value, str) else repr(value)},' for name, value in chosen),
        "}",
        "",
        "",
        "def build(num_classes):",
        '    """Return the network, its weights still random."""',
        *(f"    {statement}" for statement in construction(spec)),
        "    return model",
        "",
    ]


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
