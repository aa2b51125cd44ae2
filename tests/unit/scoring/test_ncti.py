"""NCTI's parts against scikit-learn's discriminant analysis.

Legend: N images, D feature dimensions, C classes.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from app.scoring import compute

PARTS = ("ncti_spread", "ncti_posterior", "ncti_compactness")


def noisy(seed, images, dimensions, classes, scale=1.0):
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    centres = random.normal(size=(classes, dimensions))
    return (random.normal(size=(images, dimensions)) + centres[labels_N] + 1) * scale, labels_N


def by_scikit_learn(features_ND, labels_N):
    components = PCA(min(64, *features_ND.shape), svd_solver="full")
    component_NP = components.fit_transform(features_ND)
    intensity = max(np.exp(-components.explained_variance_[:32].sum()), 1e-10)
    model = (
        LinearDiscriminantAnalysis(solver="svd")
        if intensity == 1e-10
        else LinearDiscriminantAnalysis(solver="eigen", shrinkage=float(intensity))
    )
    projected_NR = model.fit_transform(component_NP, labels_N)
    projected_NR = projected_NR - projected_NR.mean(axis=0)
    posterior_NC = model.predict_proba(component_NP)
    norms = [np.linalg.norm(posterior_NC[labels_N == c], ord="nuc") for c in range(labels_N.max() + 1)]
    return (
        np.linalg.norm(projected_NR, ord="nuc"),
        posterior_NC[np.arange(len(labels_N)), labels_N].mean(),
        -np.log(sum(norms)),
    )


@given(
    seed=st.integers(0, 10**6),
    dimensions=st.sampled_from([1, 3, 8]),
    classes=st.integers(2, 4),
    scale=st.sampled_from([0.1, 0.5, 1.0, 30.0]),
)
@settings(deadline=None, max_examples=40)
def test_equals_scikit_learn(seed, dimensions, classes, scale):
    features_ND, labels_N = noisy(seed, 40, dimensions, classes, scale)
    values = [compute(name, features_ND, labels_N).value for name in PARTS]
    assert values == pytest.approx(by_scikit_learn(features_ND, labels_N), rel=1e-6)


@pytest.mark.parametrize("shape", [(120, 300), (300, 280)])
def test_equals_scikit_learn_with_sixty_four_components(shape):
    features_ND, labels_N = noisy(1, *shape, 5, 0.3)
    values = [compute(name, features_ND, labels_N).value for name in PARTS]
    assert values == pytest.approx(by_scikit_learn(features_ND, labels_N), rel=1e-6)


def test_constant_features():
    labels_N = [0, 0, 0, 0, 1, 1]
    values = {name: compute(name, np.ones((6, 3)), labels_N) for name in PARTS}
    share = np.hypot(4 / 6, 2 / 6)
    assert values["ncti_spread"].value == 0.0
    assert values["ncti_posterior"].value == pytest.approx(share**2)
    assert values["ncti_compactness"].value == pytest.approx(-np.log(share * (2 + np.sqrt(2))))


def test_classes_that_are_points():
    labels_N = np.repeat(np.arange(3), 4)
    assert compute("ncti_posterior", np.eye(3)[labels_N], labels_N).value == pytest.approx(1.0)
    assert np.isfinite(compute("ncti_spread", np.eye(3)[labels_N], labels_N).value)
