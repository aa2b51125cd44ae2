"""Train, validation and test: by class, by unit, by seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.errors import EvaluationFailed
from workers.finetune.split import Split, split_images


def parts(split: Split) -> list[np.ndarray]:
    return [split.train_T, split.validation_V, split.test_S]


def test_a_fifth_of_each_class_and_a_fifth_of_what_is_left() -> None:
    labels_N = np.repeat([0, 1, 2], [100, 50, 20])
    split = split_images(labels_N)
    assert np.bincount(labels_N[split.test_S]).tolist() == [20, 10, 4]
    assert np.bincount(labels_N[split.validation_V]).tolist() == [16, 8, 3]
    assert split.warnings == ()


def test_the_seed_chooses() -> None:
    labels_N = np.repeat([0, 1], 40)
    first, again, other = split_images(labels_N), split_images(labels_N), split_images(labels_N, seed=1)
    assert all((a == b).all() for a, b in zip(parts(first), parts(again), strict=True))
    assert first.test_S.tolist() != other.test_S.tolist()
    assert first.validation_V.tolist() != other.validation_V.tolist()


@settings(deadline=None)
@given(st.data())
def test_every_image_once_units_together_and_every_class_trained(data: st.DataObject) -> None:
    count = data.draw(st.integers(8, 60))
    labels_N = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)))
    units_N = np.array(data.draw(st.lists(st.integers(0, count), min_size=count, max_size=count)))
    try:
        split = split_images(labels_N, units_N=units_N, seed=data.draw(st.integers(0, 5)))
    except EvaluationFailed:
        return
    together = np.concatenate(parts(split))
    assert sorted(together.tolist()) == list(range(count))
    assert all((np.diff(part) > 0).all() for part in parts(split))
    units = [set(units_N[part].tolist()) for part in parts(split)]
    assert sum(map(len, units)) == len(set(units_N.tolist()))
    assert set(labels_N[split.train_T].tolist()) == set(labels_N.tolist())
    assert ("class_not_tested" in split.warnings) == (set(labels_N[split.test_S]) != set(labels_N))
    assert ("class_not_validated" in split.warnings) == (set(labels_N[split.validation_V]) != set(labels_N))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=80))
def test_without_units_every_class_of_three_images_is_in_every_part(labels: list[int]) -> None:
    labels_N = np.array(labels)
    counts = np.bincount(labels_N)
    if (counts >= 3).any():
        split = split_images(labels_N)
        for class_ in np.flatnonzero(counts >= 3):
            assert all((labels_N[part] == class_).any() for part in parts(split))


def test_a_class_with_one_image_is_trained_and_told() -> None:
    labels_N = np.array([0] * 10 + [1] * 10 + [2])
    split = split_images(labels_N)
    assert 20 in split.train_T
    assert split.warnings == ("class_not_tested", "class_not_validated")


def test_a_class_of_large_units_gives_its_smallest() -> None:
    labels_N = np.array([0] * 12 + [1] * 10)
    units_N = np.array([0] * 5 + [1] * 4 + [2] * 3 + list(range(3, 13)))
    split = split_images(labels_N, units_N=units_N)
    assert split.test_S[:3].tolist() == [9, 10, 11]
    assert split.validation_V[:4].tolist() == [5, 6, 7, 8]


def test_own_splits_are_kept() -> None:
    labels_N = np.tile([0, 1], 30)
    names = ["train"] * 40 + ["test"] * 20
    split = split_images(labels_N, split_names=names)
    assert split.test_S.tolist() == list(range(40, 60))
    assert len(split.validation_V) == 8
    three = split_images(labels_N, split_names=["train"] * 40 + ["validation"] * 10 + ["test"] * 10)
    assert three.validation_V.tolist() == list(range(40, 50))
    assert three.train_T.tolist() == list(range(40))
    without_test = split_images(labels_N, split_names=["train"] * 40 + ["validation"] * 20)
    assert without_test.validation_V.tolist() == list(range(40, 60))
    assert without_test.test_S.max() < 40
    assert len(without_test.test_S) == 8
    alone = split_images(labels_N, split_names=["test"] * 60)
    assert len(alone.test_S) == 12


def test_copies_of_test_images_and_untrained_classes_are_told() -> None:
    labels_N = np.array([0, 1] * 10 + [0, 1, 2])
    units_N = np.array([*range(20), 0, 20, 21])
    split = split_images(labels_N, split_names=["train"] * 20 + ["test"] * 3, units_N=units_N)
    assert split.warnings == ("class_not_validated", "class_not_trained", "near_duplicates_of_test")


@pytest.mark.parametrize(
    ("labels", "names", "units", "code"),
    [
        ([0, 1, 2], None, None, "nothing_to_test"),
        ([0, 0, 1, 1], None, None, "nothing_to_validate"),
        ([0, 0, 0, 0], None, [1, 1, 1, 1], "nothing_to_test"),
        ([0, 1, 0], ["train", "train", "test"], None, "nothing_to_validate"),
    ],
)
def test_too_few_images_are_refused(
    labels: list[int], names: list[str] | None, units: list[int] | None, code: str
) -> None:
    with pytest.raises(EvaluationFailed) as refused:
        split_images(np.array(labels), split_names=names, units_N=None if units is None else np.array(units))
    assert refused.value.code == code
    assert refused.value.hint
