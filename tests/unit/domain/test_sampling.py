"""Class-balanced samples."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import BadRequest
from app.domain.sampling import stratified_sample

labels_and_limit = st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70))


def keys_of(count):
    return [hashlib.sha256(str(row).encode()).hexdigest() for row in range(count)]


@given(labels_and_limit)
def test_takes_as_many_as_allowed_and_levels_the_classes(case):
    labels, limit = case
    chosen = stratified_sample(labels, keys_of(len(labels)), limit)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == min(limit, len(labels))
    had, given_ = np.bincount(labels, minlength=5), np.bincount(np.array(labels)[chosen], minlength=5)
    level = given_.max()
    for available, taken in zip(had, given_, strict=True):
        assert taken == available or taken >= level - 1


@given(labels_and_limit)
def test_a_larger_sample_contains_the_smaller_one(case):
    labels, limit = case
    keys = keys_of(len(labels))
    assert set(stratified_sample(labels, keys, limit)) <= set(stratified_sample(labels, keys, limit + 1))


@given(labels_and_limit, st.randoms())
def test_the_order_of_rows_does_not_matter(case, random):
    labels, limit = case
    keys = keys_of(len(labels))
    order = list(range(len(labels)))
    random.shuffle(order)
    chosen = stratified_sample(labels, keys, limit)
    shuffled = stratified_sample([labels[row] for row in order], [keys[row] for row in order], limit)
    assert {keys[row] for row in chosen} == {keys[order[row]] for row in shuffled}


def test_smallest_keys_win_and_equal_keys_are_told_apart_by_row():
    labels = ["b", "a", "b", "b", "a", "b"]
    assert stratified_sample(labels, ["3", "9", "1", "2", "0", "1"], 4).tolist() == [1, 2, 4, 5]


def test_small_classes_give_all_they_have():
    labels = np.repeat([0, 1, 2], [2, 50, 100])
    chosen = stratified_sample(labels, keys_of(152), 41)
    assert np.bincount(labels[chosen]).tolist() == [2, 20, 19]


def test_misuse_is_refused():
    with pytest.raises(BadRequest, match="0 images"):
        stratified_sample([0, 1], ["a", "b"], 0)
    with pytest.raises(ValueError, match="1 keys for 2 labels"):
        stratified_sample([0, 1], ["a"], 1)
