"""How accurate the models of a fine-tune got, for people."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.forecast import duration
from app.cli.tables import facts, listing
from app.cli.terminal import printable
from app.client import Finetune, TunedModel

_COLUMNS = ("model", "verdict", "test accuracy", "learning rate", "steps", "time")


def finetune_report(finetune: Finetune) -> RenderableType:
    """Return the models that have ended, the best first, with what the numbers mean and what went wrong."""
    title = Text.assemble((printable(finetune.name), "bold"), f"  {finetune.id}  {finetune.status}")
    expiry = [] if finetune.expires_at is None else [facts([("expires", finetune.expires_at)])]
    return Group(title, *expiry, *_parts(finetune))


def _parts(finetune: Finetune) -> Iterator[RenderableType]:
    models = sorted(finetune.models, key=lambda model: model.test_accuracy or 0.0, reverse=True)
    if models:
        yield Text()
        yield listing(_COLUMNS, map(_row, models))
        yield Text()
        yield Text(_legend(finetune), style="dim")
    for warning in finetune.warnings:
        yield Text(printable(f"{warning.detail} ({warning.code})"), style="yellow")
    codes = sorted({code for model in models for code in model.warnings})
    if codes:
        yield Text("Warnings: " + ", ".join(codes) + ".", style="yellow")
    for model in models:
        if model.error is not None:
            yield Text.assemble(
                (printable(model.name), "bold red"), printable(f" failed: {model.error.message} ({model.error.code})")
            )
            if model.error.hint:
                yield Text(f"  {printable(model.error.hint)}", style="dim")
    if finetune.error is not None and not any(model.error for model in models):
        yield Text(printable(f"{finetune.error.message} ({finetune.error.code})"), style="red")
        if finetune.error.hint:
            yield Text(f"  {printable(finetune.error.hint)}", style="dim")
    if any(model.weights for model in models):
        yield Text(f"Tuned weights, with a model card and a script:\n  foretune finetune weights {finetune.id}")


def _row(model: TunedModel) -> tuple[object, ...]:
    rate = None if model.learning_rate is None else f"{model.learning_rate:g}"
    return (
        model.name,
        model.verdict.replace("_", " "),
        _accuracy(model),
        rate,
        f"{model.steps:,}" if model.steps else None,
        duration(model.seconds),
    )


def _accuracy(model: TunedModel) -> str:
    if model.test_accuracy is None:
        return "-"
    if model.interval is None:
        return f"{model.test_accuracy:.1%}"
    low, high = model.interval
    return f"{model.test_accuracy:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def _legend(finetune: Finetune) -> str:
    level = next((model.interval_level for model in finetune.models if model.interval_level), None)
    shown = "" if level is None else f" ({level:.0%} interval)"
    lines = [f"Test accuracy: images that neither training nor the choice of a learning rate has seen{shown}."]
    images = finetune.images
    if images:
        lines.append(
            f"{images['train']:,} images trained, {images['validation']:,} chose the learning rate, "
            f"{images['test']:,} tested. Steps: with the best learning rate."
        )
    spent = f"{duration(finetune.worker_seconds)} of worker time"
    lines.append(f"{spent} on {finetune.device}." if finetune.device else f"{spent}.")
    return "\n".join(lines)
