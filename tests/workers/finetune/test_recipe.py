"""The recipe as data, and the steps and rates that follow from it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import BadRequest
from app.domain.finetuning import Recipe


def test_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 1e-4)
    assert (recipe.batch_size, recipe.epochs, recipe.learning_rates) == (32, 30, (0.01, 0.005, 0.001))
    assert (recipe.loss, recipe.batch_norm, recipe.augmentation) == ("cross_entropy", "frozen", "none")


@given(st.integers(1, 700))
def test_thirty_epochs_have_milestones_after_epochs_15_and_25(images: int) -> None:
    recipe = Recipe()
    steps = recipe.steps(images)
    assert steps == 30 * -(-images // 32)
    rates = [recipe.rate_at(step, steps, 0.01) for step in range(steps)]
    an_epoch = steps // 30
    expected = [0.01] * 15 * an_epoch + [0.001] * 10 * an_epoch + [0.0001] * 5 * an_epoch
    assert rates == pytest.approx(expected, rel=1e-12)


def test_milestones_follow_the_number_of_steps() -> None:
    recipe = Recipe(epochs=4, max_steps=12)
    assert recipe.steps(320) == 12
    assert recipe.steps(10) == 4
    rates = [recipe.rate_at(step, 12, 1.0) for step in range(12)]
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 4 + [0.01] * 2, rel=1e-12)
    assert Recipe(schedule="constant").rate_at(11, 12, 1.0) == 1.0


def test_live_statistics_leave_out_a_rest_of_one_image() -> None:
    assert Recipe(batch_norm="live").steps_per_epoch(65) == 2
    assert Recipe(batch_norm="live").steps_per_epoch(66) == 3
    assert Recipe(batch_norm="live").steps_per_epoch(1) == 1
    assert Recipe().steps_per_epoch(65) == 3


def test_a_recipe_survives_json() -> None:
    recipe = Recipe(learning_rates=(0.1, 0.02), momentum=0.0, max_steps=7, loss="squared", seed=3)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert Recipe.from_dict({}) == Recipe()
    assert Recipe.from_dict({"momentum": 0, "learning_rates": [1]}).learning_rates == (1.0,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rates", []),
        ("learning_rates", [0.1, 0.1]),
        ("learning_rates", [0.0]),
        ("learning_rates", [float("nan")]),
        ("learning_rates", 0.1),
        ("learning_rates", ["0.1"]),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("momentum", "0.9"),
        ("nesterov", 1),
        ("weight_decay", -1e-4),
        ("weight_decay", float("inf")),
        ("batch_size", 0),
        ("batch_size", 2.0),
        ("epochs", 0),
        ("epochs", True),
        ("max_steps", 0),
        ("seed", -1),
        ("seed", 2**31),
        ("loss", "hinge"),
        ("loss", ["squared"]),
        ("batch_norm", "off"),
        ("augmentation", None),
        ("schedule", "cosine"),
        ("optimizer", "adam"),
    ],
)
def test_an_impossible_value_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        Recipe.from_dict({field: value})
    assert (refused.value.code, refused.value.param) == ("invalid_recipe", field)
    assert refused.value.hint


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(BadRequest, match="no recipe"):
        Recipe.from_dict([])  # type: ignore[arg-type]
