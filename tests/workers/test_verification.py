"""What measured accuracies say of a ranking, in words."""

from typing import Any

import pytest

from app.domain.finetuning import Recipe
from app.domain.ranking import wilson_interval
from app.domain.states import ModelState
from app.storage.database import Database
from app.storage.repositories.models import Models
from app.storage.repositories.selections import Selections
from app.storage.tables import Finetune
from tests.fixtures.rows import TENANT, add_model, add_ready_dataset
from workers.verification import begin, sentence


def proof(*accuracies: float | None, images: int = 400) -> Finetune:
    entries: list[dict[str, Any]] = [
        {
            "model": f"m{number}",
            "name": f"model {number}",
            "verdict": "given_up" if accuracy is None else "trained",
            "test_accuracy": accuracy,
            "interval": None if accuracy is None else wilson_interval(accuracy * images, images, 0.9),
        }
        for number, accuracy in enumerate(accuracies, 1)
    ]
    return Finetune(id="ft_1", result={"images": {"test": images}, "models": entries})


@pytest.mark.parametrize(
    ("accuracies", "said"),
    [
        ((0.9, 0.8), "Fine-tuning agrees: model 1 gets 90.0% of 400 unseen images right, model 2 gets 80.0%."),
        ((0.9, 0.89), "Fine-tuning does not contradict: model 1 gets 90.0%"),
        ((0.8, 0.9), "Fine-tuning disagrees: model 2 gets 90.0% of 400 unseen images right, model 1 gets 80.0%."),
        ((0.89, 0.9), "Fine-tuning cannot tell them apart: model 2 gets 90.0%"),
        ((0.9, 0.9), "Fine-tuning does not contradict: model 1 gets 90.0%"),
        ((0.9,), "Fine-tuned for real, model 1 gets 90.0% of 400 unseen images right."),
        ((0.9, None), "Fine-tuned for real, model 1 gets 90.0%"),
        ((None, 0.9, 0.8), "Fine-tuning gave the first one up on the way; model 2 gets 90.0%"),
        ((None, 0.9), "Fine-tuning gave the first one up on the way; model 2 gets 90.0% of 400 unseen images right."),
        ((None, None), "Fine-tuning proves nothing: no model was trained to the end."),
        ((), "Fine-tuning proves nothing"),
    ],
)
def test_what_is_said(accuracies: tuple[float | None, ...], said: str) -> None:
    assert sentence("m1", proof(*accuracies)).startswith(said)


def test_a_first_one_that_failed_was_not_given_up() -> None:
    found = proof(None, 0.9)
    assert found.result is not None
    found.result["models"][0]["verdict"] = "failed"
    assert sentence("m1", found).startswith("Fine-tuning says nothing of the first one; model 2 gets 90.0%")


def test_few_images_tell_less() -> None:
    assert sentence("m1", proof(0.9, 0.8, images=20)).startswith("Fine-tuning does not contradict")


def test_all_of_four_images_prove_nothing() -> None:
    assert sentence("m1", proof(1.0, 0.5, images=4)).startswith("Fine-tuning does not contradict")


def test_why_a_fine_tune_failed_is_said() -> None:
    error = {"code": "budget_too_small", "message": "Too little.", "param": None, "hint": None}
    said = sentence("m1", Finetune(id="ft_1", result=None, error=error))
    assert said == "Fine-tuning failed: Too little (budget_too_small)."


def test_a_fine_tune_that_failed_has_no_result() -> None:
    assert sentence("m1", Finetune(id="ft_1", result=None)).startswith("Fine-tuning proves nothing")


def test_the_proof_of_a_deprecated_model_says_so_too(database: Database) -> None:
    dataset_id = add_ready_dataset(database)
    old = add_model(database, "old", state=ModelState.DEPRECATED)
    new, last = add_model(database, "new"), add_model(database, "last", state=ModelState.DEPRECATED)
    verify = {"k": 2, "budget_seconds": None, "recipe": Recipe().as_dict()}
    with database.write() as session:
        models = Models(session).choose(["old", "new", "last"])
        selection = Selections(session, TENANT).create(dataset_id, models, ["lfc"], None, verify=verify)
        assert [warning["model"] for warning in selection.warnings] == [old, last]
        of_no_model = {"code": "worker_seconds_spent", "detail": "Of the tenant."}
        selection.warnings = [*selection.warnings, of_no_model]
        ranked = {new: {"rank": 1}, old: {"rank": 2}, last: {"rank": 3}}
        finetune = begin(session, selection, ranked)
        assert (finetune.model_ids, finetune.warnings) == ([new, old], selection.warnings[:1])
