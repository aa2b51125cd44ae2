"""The proof of a ranking: its first models really fine-tuned, and what that says of it."""

import math
from typing import Any

from sqlalchemy.orm import Session

from app.domain.finetuning import Recipe
from app.storage.repositories.finetunes import Finetunes
from app.storage.tables import Finetune, Selection

_SURE = 1.645
"""Standard errors beyond which two measured accuracies differ, one in ten times by chance."""


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
    )


def sentence(first_id: str, finetune: Finetune) -> str:
    """Return what measured accuracies say of the model that is ranked first."""
    result = finetune.result or {}
    tested = [entry for entry in result.get("models", []) if entry["test_accuracy"] is not None]
    if not tested:
        return "Fine-tuning proves nothing: no model was trained to the end."
    best = max(tested, key=lambda entry: (entry["test_accuracy"], entry["model"] == first_id))
    images = result["images"]["test"]
    first = next((entry for entry in tested if entry["model"] == first_id), None)
    if len(tested) == 1:
        return f"Fine-tuned for real, {_told(best)} of {images} unseen images right."
    if best["model"] == first_id:
        second = max((entry for entry in tested if entry is not best), key=lambda entry: entry["test_accuracy"])
        agreed = "agrees" if _differ(best, second, images) else "does not contradict"
        return f"Fine-tuning {agreed}: {_told(best)} of {images} unseen images right, {_told(second)}."
    if first is None:
        return f"Fine-tuning gave the first one up on the way; {_told(best)} of {images} unseen images right."
    if _differ(best, first, images):
        return f"Fine-tuning disagrees: {_told(best)} of {images} unseen images right, {_told(first)}."
    return f"Fine-tuning cannot tell them apart: {_told(best)} of {images} unseen images right, {_told(first)}."


def _told(entry: dict[str, Any]) -> str:
    return f"{entry['name']} gets {entry['test_accuracy']:.1%}"


def _differ(one: dict[str, Any], other: dict[str, Any], images: int) -> bool:
    shares = one["test_accuracy"], other["test_accuracy"]
    error = math.sqrt(sum(share * (1 - share) for share in shares) / images)
    return bool(abs(shares[0] - shares[1]) > _SURE * error)
