"""PARC against scipy's Spearman correlation of whole distance matrices.

Legend: N images, D feature dimensions.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from app.scoring import Panel, compute, measure
from app.scoring.features import dissimilarities, parc


def by_matrices(features_ND, labels_N):
    features_ND = np.asarray(features_ND, dtype=float)
    features_ND = features_ND[:, np.ptp(features_ND, axis=0) > 0]
    z_ND = (features_ND - features_ND.mean(axis=0)) / features_ND.std(axis=0)
    pairs = np.triu_indices(len(z_ND), 1)
    distance = np.round(1 - np.corrcoef(z_ND), 10)[pairs]
    different = (labels_N[:, None] != labels_N)[pairs]
    return 100 * spearmanr(distance, different).statistic


@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=5).filter(lambda counts: max(counts) > 1),
    dimensions=st.integers(3, 12),
    spread=st.sampled_from([0.0, 0.5, 2.0]),
    copies=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=40)
def test_equals_the_matrices(counts, dimensions, spread, copies, seed):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = random.normal(size=(len(counts), dimensions)) * spread
    features_ND = random.normal(size=(len(labels_N), dimensions)) + centres[labels_N]
    if copies:  # pairs that are exactly as far from each other share a rank
        features_ND, labels_N = np.tile(features_ND, (2, 1)), np.tile(labels_N, 2)
    if len(labels_N) > 3:
        expected = by_matrices(features_ND, labels_N)
        assert compute("parc", features_ND, labels_N).value == pytest.approx(expected, rel=1e-8, abs=1e-8)


def test_two_dimensions_give_two_ranks():
    random = np.random.default_rng(0)
    features_ND, labels_N = random.normal(size=(30, 2)), np.arange(30) % 3
    assert compute("parc", features_ND, labels_N).value == pytest.approx(by_matrices(features_ND, labels_N), rel=1e-9)


def test_one_dimension_has_no_correlations():
    result = compute("parc", np.arange(6.0)[:, None], [0, 0, 1, 1, 2, 2])
    assert (result.value, result.warnings) == (0.0, ("no_variation",))


def test_images_that_share_no_label_have_no_rank():
    result = compute("parc", np.random.default_rng(0).normal(size=(4, 5)), [0, 1, 2, 3])
    assert (result.value, result.warnings) == (0.0, ("no_variation",))


@pytest.mark.parametrize("classes", [3, 7, 12])
def test_class_names_do_not_count(classes):
    """Correlations of one-hot rows differ by rounding, and public code ranks the rounding."""
    random = np.random.default_rng(1)
    labels_N = np.arange(84) % classes
    features_ND = random.normal(size=(84, 20)) + random.normal(size=(classes, 20))[labels_N]
    values = {compute("parc", features_ND, random.permutation(classes)[labels_N]).value for _ in range(5)}
    assert max(values) - min(values) < 1e-10


def test_counting_in_bins_agrees_with_sorting():
    random = np.random.default_rng(2)
    labels_N = np.sort(np.arange(90) % 4)
    features_ND = random.normal(size=(90, 16)) + random.normal(size=(4, 16))[labels_N]
    features_ND[5] = features_ND[6]
    unit_NV = dissimilarities.profile_rows(Panel(features_ND, labels_N).centred_ND.copy())
    stops_N = np.cumsum(np.bincount(labels_N))[labels_N]
    sorted_sums = parc._by_sorting(dissimilarities.packed_pairs(unit_NV), stops_N)
    assert parc._by_counting(unit_NV, stops_N) == pytest.approx(sorted_sums, rel=1e-4, abs=100)
    assert sorted_sums[0] > 10_000


def test_null_value_is_the_mean_over_shuffled_labels():
    random = np.random.default_rng(3)
    labels_N = np.repeat([0, 1, 2], [9, 6, 3])
    panel = Panel(random.normal(size=(18, 6)), labels_N)
    nulls = [measure("parc", panel.with_labels(random.permutation(labels_N))).value for _ in range(1000)]
    assert measure("parc", panel).null_value == 0.0
    assert np.mean(nulls) == pytest.approx(0.0, abs=4 * np.std(nulls) / np.sqrt(1000))
