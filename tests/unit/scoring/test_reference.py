"""RSA and DDS against whole distance matrices.

Legend: N images, V and W feature dimensions of the two models.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from app.domain.errors import EvaluationFailed
from app.scoring import compute
from app.scoring.features import dissimilarities, reference
from app.scoring.products import NumpyProducts


def standardised(x_NV):
    return (x_NV - x_NV.mean(axis=0)) / x_NV.std(axis=0)


def rsa(x_NV, y_NW):
    pairs = np.triu_indices(len(x_NV), 1)
    ours, theirs = (np.round(1 - np.corrcoef(standardised(m)), 10)[pairs] for m in (x_NV, y_NW))
    return 100 * spearmanr(ours, theirs).statistic


def dds(x_NV, y_NW):
    centred = []
    for model in (x_NV, y_NW):
        z_ND = standardised(model)
        z_ND = z_ND / np.linalg.norm(z_ND, axis=1, keepdims=True)
        distance_NN = 1 - z_ND @ z_ND.T
        np.fill_diagonal(distance_NN, 0)
        n, row_N = len(z_ND), distance_NN.sum(axis=0)
        u_NN = distance_NN - (row_N[:, None] + row_N) / (n - 2) + row_N.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(u_NN, 0)
        centred.append(u_NN)
    ours, theirs = centred
    return 100 * (ours * theirs).sum() / (np.linalg.norm(ours) * np.linalg.norm(theirs))


@pytest.mark.parametrize("by_matrices", [rsa, dds])
@given(
    images=st.integers(6, 30),
    widths=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    shared=st.sampled_from([0.0, 1.0]),
    copies=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=40)
def test_equals_the_matrices(by_matrices, images, widths, shared, copies, seed):
    random = np.random.default_rng(seed)
    common_NV = random.normal(size=(images, 40)) * shared
    ours_NV, theirs_NW = (random.normal(size=(images, width)) + common_NV[:, :width] for width in widths)
    if copies:
        ours_NV, theirs_NW = np.tile(ours_NV, (2, 1)), np.tile(theirs_NW, (2, 1))
    labels_N = np.arange(len(ours_NV)) % 2
    result = compute(by_matrices.__name__, ours_NV, labels_N, reference_features=theirs_NW)
    assert result.value == pytest.approx(by_matrices(ours_NV, theirs_NW), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", ["rsa", "dds"])
def test_a_model_agrees_with_itself_in_any_unit(name):
    features_ND = np.random.default_rng(0).normal(size=(40, 7))
    other_ND = features_ND * np.linspace(1, 9, 7) + 3
    result = compute(name, features_ND, np.arange(40) % 2, reference_features=other_ND)
    assert result.value == pytest.approx(100.0, abs=1e-9)


@pytest.mark.parametrize("shape", [(60, 5, 6), (20, 50, 45)], ids=["tall", "wide"])
def test_models_with_nothing_in_common_score_zero_on_average(shape):
    images, v, w = shape
    random = np.random.default_rng(1)
    values = [
        compute(
            "dds",
            random.normal(size=(images, v)),
            np.arange(images) % 2,
            reference_features=random.normal(size=(images, w)),
        ).value
        for _ in range(100)
    ]
    assert np.mean(values) == pytest.approx(0.0, abs=4 * np.std(values) / 10)


def test_both_forms_of_the_products_agree():
    random = np.random.default_rng(2)
    ours_NV, theirs_NW = random.normal(size=(1100, 9)), random.normal(size=(1100, 4))
    narrow = reference._products_of_dimensions(NumpyProducts(), ours_NV, theirs_NW)
    assert reference._products_of_images(NumpyProducts(), ours_NV, theirs_NW) == pytest.approx(narrow, rel=1e-10)


def test_counting_in_bins_agrees_with_sorting():
    random = np.random.default_rng(3)
    ours_NV = random.normal(size=(80, 12))
    theirs_NW = ours_NV[:, :8] + random.normal(size=(80, 8))
    rows = dissimilarities.profile_rows(ours_NV), dissimilarities.profile_rows(theirs_NW)
    assert reference._by_counting(*rows) == pytest.approx(reference._by_sorting(*rows), abs=1e-5)


def test_constant_models():
    features_ND, labels_N = np.random.default_rng(4).normal(size=(8, 3)), np.arange(8) % 2
    for name in ("rsa", "dds"):
        result = compute(name, np.ones((8, 3)), labels_N, reference_features=features_ND)
        assert (result.value, result.warnings) == (0.0, ("constant_features",))
        with pytest.raises(EvaluationFailed) as caught:
            compute(name, features_ND, labels_N, reference_features=np.ones((8, 2)))
        assert caught.value.code == "constant_reference"
        one_D = compute(name, np.arange(8.0)[:, None], labels_N, reference_features=features_ND)
        assert np.isfinite(one_D.value)


@pytest.mark.parametrize("seed", range(5))
def test_three_images_have_no_debiased_alignment(seed):
    random = np.random.default_rng(seed)
    result = compute("dds", random.normal(size=(3, 4)), [0, 1, 1], reference_features=random.normal(size=(3, 5)))
    assert (result.value, result.warnings) == (0.0, ("no_variation",))
