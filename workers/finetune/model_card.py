"""The model card of a tuned network, in Markdown."""

from collections.abc import Sequence

from app.domain.finetuning import Recipe
from app.domain.model_spec import ModelSpec
from workers.finetune.tuning import LEVEL, Tuned


def model_card(
    spec: ModelSpec,
    dataset_name: str,
    class_names: Sequence[str],
    images: dict[str, int],
    recipe: Recipe,
    tuned: Tuned,
) -> str:
    """Return what someone who meets the weights needs to know: origin, licence, data, recipe, accuracy, input.

    Args:
        spec: the base model.
        dataset_name: as the user calls it.
        class_names: by label.
        images: numbers of images by part, such as ``{"train": 256, "validation": 64, "test": 80}``.
        recipe: of the training.
        tuned: its outcome.
    """
    steps = spec.preprocessing
    assert steps is not None
    learned_from = ", ".join(spec.pretraining.datasets) if spec.pretraining is not None else ""
    crop = f"{steps.crop[1]} x {steps.crop[0]}"
    if steps.resize is None:
        resized = f"the whole image is stretched to {crop} pixels"
    elif isinstance(steps.resize, int):
        resized = f"the shorter side is resized to {steps.resize} pixels, of which the centre {crop} is used"
    else:
        stretched = f"{steps.resize[1]} x {steps.resize[0]}"
        resized = f"the whole image is stretched to {stretched} pixels, of which the centre {crop} is used"
    tried = ", ".join(f"{trial.learning_rate:g} ({_validation(trial.validation_accuracy)})" for trial in tuned.trials)
    lines = [
        f"# {_line(spec.name)}, fine-tuned on {_line(dataset_name)}",
        "",
        "## Origin",
        "",
        f"- Base model: {_line(spec.name)} (`{spec.architecture}`)",
        f"- Pretrained on: {_line(learned_from) or 'not stated'}",
        f"- Licence of the base model: {_line(spec.license) or 'not stated'}",
        *([f"- Home page: {_line(spec.homepage)}"] if spec.homepage else []),
        "",
        "## Data",
        "",
        f"- Data set: {_line(dataset_name)}",
        f"- Images: {', '.join(f'{count} {part}' for part, count in images.items())}",
        f"- Classes ({len(class_names)}): {', '.join(_line(name) for name in class_names)}",
        "",
        "## Accuracy",
        "",
        _accuracy(tuned),
        "",
        "## Recipe",
        "",
        f"- Stochastic gradient descent, {'Nesterov ' if recipe.nesterov else ''}momentum {recipe.momentum:g}, weight "
        f"decay {recipe.weight_decay:g}, batches of {recipe.batch_size}",
        f"- Learning rate {_rate(tuned.learning_rate)}, chosen on the validation images; tried: {tried}",
        f"- {recipe.epochs} epochs"
        + ("" if recipe.max_steps is None else f", at most {recipe.max_steps} steps")
        + _ended_early(tuned, recipe.steps(images["train"])),
        "- Schedule: "
        + (
            "constant"
            if recipe.schedule == "constant"
            else "a tenth after half, and again after five sixths, of all steps"
        ),
        f"- Loss: {recipe.loss.replace('_', ' ')}; batch statistics: {recipe.batch_norm}; "
        f"augmentation: {recipe.augmentation}; seed: {tuned.seed}; the classifier started at zero",
        "",
        "## Input",
        "",
        f"- Size: {resized} ({steps.interpolation}, with antialiasing)",
        f"- Channels: {steps.channels}; values are divided by {steps.divide_by:g}",
        f"- Then (x - mean) / std with mean {_numbers(steps.mean)} and std {_numbers(steps.std)}",
        "",
        "## Use",
        "",
        "    python finetune.py predict IMAGE",
        "    python finetune.py train FOLDER",
        "",
    ]
    return "\n".join(lines)


def _accuracy(tuned: Tuned) -> str:
    accuracy, interval = tuned.test_accuracy, tuned.interval
    if accuracy is None or interval is None or tuned.correct_S is None:
        return "Not measured."
    return (
        f"{accuracy:.1%} of {len(tuned.correct_S)} test images, which training and the choice of the learning rate "
        f"have not seen ({LEVEL:.0%} interval: {interval[0]:.1%} to {interval[1]:.1%})."
    )


def _ended_early(tuned: Tuned, steps: int) -> str:
    done = tuned.curves.points[-1].step if tuned.curves and tuned.curves.points else steps
    return "" if done == steps else f"; of {steps} steps {done} were taken, when the budget was spent"


def _validation(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else f"{accuracy:.1%} of the validation images"


def _rate(rate: float | None) -> str:
    return "none" if rate is None else f"{rate:g}"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _line(text: str) -> str:
    """Return text of a user as one line that Markdown does not read as markup."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in flat)
