"""The proof of a ranking: its first models really fine-tuned, and what that says of it."""

from typing import Any

from sqlalchemy.orm import Session

from app.domain.finetuning import Recipe
from app.storage.repositories.finetunes import Finetunes
from app.storage.tables import Finetune, Selection


def begin(session: Session, selection: Selection, models: dict[str, dict[str, Any]]) -> Finetune:
    """Ask for the fine-tune of a selection's first models.

    Args:
        session: a writing transaction.
        selection: with ``verify``.
        models: the ranked ones by id, with their ``rank``.
    """
    assert selection.verify is not None
    asked = selection.verify
    first = sorted(models, key=lambda model_id: models[model_id]["rank"])[: asked["k"]]
    return Finetunes(session, selection.tenant).create(
        selection.dataset_id,
        first,
        Recipe.from_dict(asked["recipe"]).as_dict(),
        selection.name,
        budget_seconds=asked["budget_seconds"],
        selection_id=selection.id,
        expires_at=selection.expires_at,
        warnings=[warning for warning in selection.warnings if warning.get("model") in first],
    )


def sentence(first_id: str, finetune: Finetune) -> str:
    """Return what measured accuracies say of the model that is ranked first."""
    if finetune.error is not None:
        return f"Fine-tuning failed: {finetune.error['message'].rstrip('.')} ({finetune.error['code']})."
    result = finetune.result or {}
    tested = [entry for entry in result.get("models", []) if entry["test_accuracy"] is not None]
    if not tested:
        return "Fine-tuning proves nothing: no model was trained to the end."
    best = max(tested, key=lambda entry: (entry["test_accuracy"], entry["model"] == first_id))
    images = result["images"]["test"]
    first = next((entry for entry in tested if entry["model"] == first_id), None)
    if first is None:
        was_given_up = any(entry["model"] == first_id and entry["verdict"] == "given_up" for entry in result["models"])
        what = "gave the first one up on the way" if was_given_up else "says nothing of the first one"
        return f"Fine-tuning {what}; {_told(best)} of {images} unseen images right."
    if len(tested) == 1:
        return f"Fine-tuned for real, {_told(best)} of {images} unseen images right."
    if best["model"] == first_id:
        second = max((entry for entry in tested if entry is not best), key=lambda entry: entry["test_accuracy"])
        agreed = "agrees" if _differ(best, second) else "does not contradict"
        return f"Fine-tuning {agreed}: {_told(best)} of {images} unseen images right, {_told(second)}."
    if _differ(best, first):
        return f"Fine-tuning disagrees: {_told(best)} of {images} unseen images right, {_told(first)}."
    return f"Fine-tuning cannot tell them apart: {_told(best)} of {images} unseen images right, {_told(first)}."


def _told(entry: dict[str, Any]) -> str:
    return f"{entry['name']} gets {entry['test_accuracy']:.1%}"


def _differ(better: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether the intervals of two measured accuracies are apart."""
    return bool(better["interval"][0] > other["interval"][1])
