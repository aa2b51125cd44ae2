"""The screening in single precision: it must leave nothing out, and answer as double precision does.

Legend: N images, D feature dimensions.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.scoring import Panel, measure
from app.scoring.features.neighbours import nearest

FIELDS = ("per_image_N", "held_out_N", "influence_N")


def noisy(images, dimensions, classes, seed, offset=0.0):
    random = np.random.default_rng(seed)
    labels_N = random.integers(0, classes, size=images)
    labels_N[:classes], labels_N[classes : 2 * classes] = np.arange(classes), np.arange(classes)
    return random.normal(size=(images, dimensions)) + random.normal(size=(classes, dimensions))[
        labels_N
    ] + offset, labels_N


@given(
    images=st.integers(8, 60),
    dimensions=st.sampled_from([1, 2, 7, 300]),
    neighbours=st.integers(1, 5),
    cosine=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=40)
def test_the_nearest_are_among_the_candidates(images, dimensions, neighbours, cosine, seed):
    features_ND, labels_N = noisy(images, dimensions, 2, seed)
    features_ND[images // 2] = features_ND[0] * (1 + 1e-9)  # all but equal: single precision cannot tell
    panel = Panel(features_ND, labels_N)
    found = nearest(panel, neighbours, cosine=cosine)
    x_ND = panel.centred_ND
    if cosine:
        x_ND = x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True)
    distance_NN = np.square(x_ND[:, None] - x_ND).sum(axis=2)
    np.fill_diagonal(distance_NN, np.inf)
    last_N = np.sort(distance_NN, axis=1)[:, neighbours - 1]
    candidates = set(zip(found.image_V.tolist(), found.other_V.tolist(), strict=True))
    assert {tuple(pair) for pair in np.argwhere(distance_NN <= last_N[:, None]).tolist()} <= candidates
    assert all(image != other for image, other in candidates)
    assert len(candidates) == len(found.image_V)


@pytest.mark.parametrize("name", ["knn", "separation_index"])
@pytest.mark.parametrize("odd", ["plain", "far from zero", "duplicates", "ties", "at the mean"])
@pytest.mark.parametrize("shape", [(90, 200), (150, 12), (2100, 5)])
def test_the_same_as_from_the_whole_gram_matrix(name, odd, shape):
    features_ND, labels_N = noisy(*shape, 4, 3, offset=1e5 if odd == "far from zero" else 0.0)
    if odd == "duplicates":
        features_ND[40:60] = features_ND[:20]
    if odd == "ties":
        features_ND = np.round(features_ND[:, :3])
    if odd == "at the mean":
        features_ND[-1] = features_ND[:-1].mean(axis=0)
    screened = measure(name, Panel(features_ND, labels_N))
    # As many dimensions as it takes for the Gram matrix to be the smaller one; those of zeros change nothing.
    wide_ND = np.hstack([features_ND, np.zeros((len(labels_N), len(labels_N)))])
    panel = Panel(wide_ND, labels_N)
    assert panel.scatter_MM is not None
    assert panel.gram_known
    whole = measure(name, panel)
    assert screened.value == whole.value
    assert screened.stderr == whole.stderr
    assert screened.null_value == whole.null_value
    assert screened.warnings == whole.warnings
    for field in FIELDS:
        assert (getattr(screened, field) is None) == (getattr(whole, field) is None)
        if getattr(whole, field) is not None:
            assert np.array_equal(getattr(screened, field), getattr(whole, field))
