"""What the scores accept, what they refuse in words, and that they leave it as it is."""

import numpy as np
import pytest

from app.domain.errors import EvaluationFailed
from app.scoring import SCORES, Panel, measure, synthetic
from app.scoring import compute as compute_given

NAMES = tuple(name for name, score in SCORES.items() if not score.zoo_relative)


def noisy_classes(images, dimensions):
    sample = synthetic.noisy_classes(images, dimensions, 3, 0.8, 0)
    return sample.features_ND, sample.labels_N


@pytest.mark.parametrize(
    ("features", "labels", "code"),
    [
        (np.array([[1.0], [np.nan], [2.0]]), [0, 1, 1], "non_finite_features"),
        (np.array([[1.0], [-np.inf], [2.0]], dtype=np.float16), [0, 1, 1], "non_finite_features"),
        (np.array(["a", "b", "c"])[:, None], [0, 1, 1], "invalid_features"),
        (np.ones((3, 1), dtype=complex), [0, 1, 1], "invalid_features"),
        (np.ones(3), [0, 1, 1], "invalid_features"),
        (np.ones((3, 0)), [0, 1, 1], "invalid_features"),
        (np.eye(3), [0, 1], "invalid_labels"),
        (np.eye(3), [[0], [1], [1]], "invalid_labels"),
        (np.eye(3), [0.0, np.nan, 1.0], "invalid_labels"),
        (np.eye(3), np.array(["a", None, "b"], dtype=object), "invalid_labels"),
        (np.eye(3), np.array(["a", 1, "b"], dtype=object), "invalid_labels"),
        (np.eye(3), [5, 5, 5], "too_few_classes"),
        ([[1, 2], [3]], [0, 1], "invalid_features"),
        (np.ma.masked_equal(np.eye(3), 1.0), [0, 1, 1], "invalid_features"),
        (np.eye(3), [[0], [1, 1], [1]], "invalid_labels"),
        (np.eye(3), np.ma.masked_equal([0, 1, 1], 0), "invalid_labels"),
        (np.eye(2), [0, 1], "too_few_images"),
        (np.ones((0, 3)), [], "too_few_images"),
    ],
)
def test_refused_arrays(features, labels, code):
    with pytest.raises(EvaluationFailed) as caught:
        Panel(features, labels)
    assert caught.value.code == code
    assert caught.value.param in {"features", "labels"}
    assert caught.value.hint


def test_tensors_that_numpy_cannot_read_are_refused_with_a_way_out():
    torch = pytest.importorskip("torch")
    features = torch.eye(3)
    for tensor in (features.requires_grad_(), features.detach().bfloat16()):
        with pytest.raises(EvaluationFailed, match="features") as caught:
            compute_given("lfc", tensor, [0, 0, 1])
        assert caught.value.code == "invalid_features"
        assert compute_given("lfc", tensor.detach().float().numpy(), [0, 0, 1]).value == pytest.approx(
            compute_given("lfc", np.eye(3), [0, 0, 1]).value
        )
        assert "tensor.detach().float()" in caught.value.hint


def test_nothing_masked_is_nothing_missing():
    features_ND, labels_N = noisy_classes(20, 4)
    plain = compute_given("lfc", features_ND, labels_N).value
    assert compute_given("lfc", np.ma.masked_array(features_ND), labels_N).value == plain


@pytest.mark.parametrize(
    "facts",
    [{"parameters": None}, {"flops": "4e9"}, {"flops": [1, 2]}, {"flops": 10**400}, {"age": 3}, [1], []],
    ids=str,
)
def test_refused_facts(facts):
    with pytest.raises(EvaluationFailed) as caught:
        Panel(np.eye(3), [0, 1, 1], facts=facts)
    assert caught.value.code == "invalid_facts"
    assert caught.value.param == "facts"


def test_first_bad_value_is_located():
    features_ND = np.zeros((5, 4))
    features_ND[2, 3] = np.nan
    features_ND[4, 0] = np.inf
    with pytest.raises(EvaluationFailed, match=r"2 of 20 .* image 2, dimension 3"):
        Panel(features_ND, [0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    "probabilities",
    [
        np.full((3, 4), 0.3),
        np.array([[1.5, -0.5]] * 3),
        np.full((3, 2), np.nan),
        np.full((2, 2), 0.5),
        np.ones(3),
    ],
    ids=["logits", "negative", "nan", "rows", "vector"],
)
def test_refused_source_probabilities(probabilities):
    with pytest.raises(EvaluationFailed) as caught:
        Panel(np.eye(3), [0, 1, 1], source_probabilities=probabilities)
    assert caught.value.code == "invalid_source_probabilities"


def test_half_precision_probabilities_are_renormalised():
    raw = np.random.default_rng(0).dirichlet(np.ones(1000), size=3).astype(np.float16)
    panel = Panel(np.eye(3), [0, 1, 1], source_probabilities=raw)
    assert panel.source_probabilities_NZ.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-14)


def test_inputs_are_left_alone_and_the_panel_cannot_be_changed():
    features_ND, labels_N = noisy_classes(30, 5)
    before = features_ND.copy(), labels_N.copy()
    features_ND.flags.writeable = labels_N.flags.writeable = False
    panel = synthetic.sample_of(features_ND, labels_N).panel()
    for name in NAMES:
        measure(name, panel)
    assert np.array_equal(features_ND, before[0])
    assert np.array_equal(labels_N, before[1])
    with pytest.raises(ValueError, match="read-only"):
        panel.centred_ND[0, 0] = 1.0


def test_scaled_features_give_the_original_back():
    features_ND, labels_N = noisy_classes(30, 5)
    panel = Panel(features_ND * 1e5, labels_N)
    assert np.array_equal(panel.features_ND * panel.scale, features_ND * 1e5)
    assert 0.5 <= np.abs(panel.features_ND).max() < 1
