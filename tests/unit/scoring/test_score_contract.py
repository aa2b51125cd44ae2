"""What every score promises: its invariances, its answers to odd input, and that it is the same on every run.

Legend: N images, D feature dimensions.
"""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from app.domain.errors import BadRequest, EvaluationFailed
from app.scoring import SCORES, Panel, conformance, find, measure, synthetic
from app.scoring import compute as compute_given
from app.scoring.contract import Input, Score
from app.scoring.measurement import measure_score
from app.scoring.products import NumpyProducts

EVERY = tuple(SCORES)
NAMES = tuple(name for name, score in SCORES.items() if not score.zoo_relative)  # of one model alone
LABELLED = tuple(name for name in NAMES if "labels" in SCORES[name].inputs)
OF_FEATURES = tuple(name for name in NAMES if "features" in SCORES[name].inputs)
SPEAKS_WITHOUT_FEATURES = {
    "logme",
    "nleep",
    "domain_similarity",
    "domain_similarity_scalefree",
    "otce",
    "rankme",
    "gbc",
    "gbc_diagonal",
    "gbc_spherical",
    "lda_likelihood",
    "sfda",
    "sfda_scalefree",
    "ped",
    "pactran_gauss",
    "alignment_speed",
    "ncti_posterior",
    "ncti_compactness",
    "etran_energy",
    "etran_class",
    "etran_mended_energy",
    "etran_mended_class",
}
# Means something only beside the other parts of its combination.
ONLY_IN_COMBINATION = {"ncti_compactness", "etran_energy", "etran_mended_energy"}
COUNTS_DIMENSIONS = {
    "hscore_regularized",
    "gbc_spherical",
    "lda",
    "lda_likelihood",
    "sfda",
    "ped",
    "sfda_scalefree",
    "pactran_gauss",
    "etran_energy",
    "etran_mended_energy",
    "etran_mended_class",
}  # those without variance too


def noisy_classes(images, dimensions, classes=3, spread=0.8, seed=0):
    sample = synthetic.noisy_classes(images, dimensions, classes, spread, seed)
    return sample.features_ND, sample.labels_N


def compute(name, features_ND, labels_N):
    """Compute a score; what it reads besides features and labels is made up to go with them."""
    return measure(name, synthetic.sample_of(features_ND, labels_N).panel())


@pytest.mark.parametrize("invariance", conformance.INVARIANCES)
@pytest.mark.parametrize("name", NAMES)
def test_stated_invariances_hold_and_no_others(name, invariance):
    stated = invariance in SCORES[name].invariances
    problem_of = conformance.unchanged_problem if stated else conformance.changed_problem
    assert problem_of(SCORES[name], invariance) == ""


@pytest.mark.parametrize("name", EVERY)
def test_statement_is_complete(name):
    score = find(name)
    assert score.name == name
    assert conformance.statement_problem(score) == ""
    assert score.inputs
    reads_the_task = bool({"labels", "reference_features"} & set(score.inputs))
    assert reads_the_task or score.group == "prior" or name in ONLY_IN_COMBINATION
    assert not score.meaning.startswith("The same")  # as what, when it is read alone?
    assert score.needs_head == (score.group == "head")


@pytest.mark.parametrize("name", EVERY)
def test_documented(name):
    page = Path(__file__).parents[3] / "docs" / "scores.md"
    assert f"| `{name}` |" in page.read_text(encoding="utf-8")


def test_warnings_are_documented():
    """What the sources put into ``warnings=``, or add to it, is in the table of the page, and nothing else is."""
    root = Path(__file__).parents[3]
    sources = [path.read_text(encoding="utf-8") for path in sorted((root / "app" / "scoring").rglob("*.py"))]
    given = {code for text in sources for code in re.findall(r"\(\"([a-z]+(?:_[a-z]+)*)\",\)", text)}
    page = (root / "docs" / "scores.md").read_text(encoding="utf-8")
    table = page.split("### Warnings\n")[1].split("\n### ")[0]
    assert given - set(get_args(Input)) == set(re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE))


def test_unknown_score_lists_the_names():
    with pytest.raises(BadRequest) as caught:
        compute_given("lfg", *noisy_classes(10, 2))
    assert caught.value.code == "unknown_score"
    assert caught.value.param == "scores"
    assert all(name in caught.value.hint for name in EVERY)


def test_a_score_of_the_head_is_refused_without_one():
    score = Score(
        group="head",
        name="headed",
        meaning="Needs the head.",
        implementation="app.scoring.features.lfc:lfc",
        invariances=frozenset(),
        cost="n",
        paper="none",
        equation="none",
        inputs=("features", "labels", "source_probabilities"),
    )
    features_ND, labels_N = noisy_classes(10, 2)
    with pytest.raises(EvaluationFailed) as caught:
        measure_score(score, Panel(features_ND, labels_N))
    assert caught.value.code == "source_head_required"
    with_head = Panel(features_ND, labels_N, source_probabilities=np.full((10, 4), 0.25))
    assert measure_score(score, with_head).value == compute_given("lfc", features_ND, labels_N).value


@pytest.mark.parametrize("name", NAMES)
def test_larger_is_better(name):
    if "labels" in SCORES[name].inputs:
        assert len(conformance.better_samples(SCORES[name])) == 3
    if conformance.better_samples(SCORES[name]) and name not in ONLY_IN_COMBINATION:
        assert conformance.better_problem(SCORES[name]) == ""


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("odd", conformance.ODD)
def test_odd_input_gives_a_number_or_a_refusal(name, odd):
    assert conformance.odd_problem(SCORES[name], conformance.ODD[odd]()) == ""


@pytest.mark.parametrize("name", NAMES)
def test_what_a_score_does_not_read_does_not_count(name):
    sample = synthetic.noisy_classes(40, 6)
    other = synthetic.noisy_classes(40, 6, spread=2.0, seed=9)
    read = {
        "features": ("features_ND",),
        "labels": ("labels_N",),
        "gradients": ("gradients_PNS",),
        "source_probabilities": ("probabilities_NZ",),
        "reference_features": ("reference_NR",),
        "source_classes": ("means_ZD",),
        "facts": ("facts",),
    }
    unread = [field for name_, fields in read.items() if name_ not in SCORES[name].inputs for field in fields]
    changed = dataclasses.replace(sample, **{field: getattr(other, field) for field in unread})
    assert measure(name, changed.panel()).value == measure(name, sample.panel()).value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "relabel",
    [
        lambda labels: np.array([0, 3, 7])[labels],
        lambda labels: labels - 1,
        lambda labels: labels.astype(np.uint8),
        lambda labels: np.array(["cat", "dog", "été"])[labels],
        lambda labels: np.array(["cat", "dog", "été"], dtype=object)[labels],
        lambda labels: list(labels),
    ],
    ids=["gaps", "negative", "uint8", "strings", "objects", "list"],
)
def test_labels_of_any_kind(name, relabel):
    features_ND, labels_N = noisy_classes(30, 5)
    expected = compute(name, features_ND, labels_N).value
    assert compute(name, features_ND, relabel(labels_N)).value == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_low_precision_input_is_computed_in_double(name, dtype):
    features_ND, labels_N = noisy_classes(40, 6)
    large_ND = (features_ND * 3000).astype(dtype)  # squares overflow float16
    expected = compute(name, large_ND.astype(np.float64), labels_N)
    assert compute(name, large_ND, labels_N).value == expected.value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-200, 1e-4, 1e4, 1e200])
def test_extreme_scales(name, scale):
    features_ND, labels_N = noisy_classes(40, 6)
    expected = compute(name, features_ND, labels_N).value
    if name == "pactran_gauss" and scale == 1e200:
        with pytest.raises(EvaluationFailed, match="ordinary size"):
            compute(name, features_ND * scale, labels_N)
        return
    scaled = compute(name, features_ND * scale, labels_N).value
    if "scale" in SCORES[name].invariances:
        assert scaled == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(40, 6), (20, 50)])
def test_dead_columns_and_zero_rows(name, shape):
    features_ND, labels_N = noisy_classes(*shape)
    features_ND[3] = 0.0
    plain = compute(name, features_ND, labels_N).value
    padded_ND = np.hstack([features_ND, np.zeros((len(labels_N), 30))])
    if name not in COUNTS_DIMENSIONS:
        assert compute(name, padded_ND, labels_N).value == pytest.approx(plain, rel=1e-8)
    constant_ND = np.hstack([features_ND, np.full((len(labels_N), 2), 0.1)])
    assert np.isfinite(compute(name, constant_ND, labels_N).value)


@pytest.mark.parametrize("huge", [1e70, 1e160, 1e200])
@pytest.mark.parametrize("name", ["knn", "separation_index", "silhouette", "lfc_centered", "participation_ratio"])
def test_a_huge_dimension_that_all_images_share(name, huge):
    """It is not taken for features without variation; while there is enough precision it changes nothing."""
    features_ND, labels_N = noisy_classes(40, 6)
    plain = compute_given(name, features_ND, labels_N).value
    beside_ND = np.hstack([features_ND, np.full((40, 1), 1e50)])
    assert compute_given(name, beside_ND, labels_N).value == pytest.approx(plain, rel=1e-8)
    with pytest.raises(EvaluationFailed, match="All images have a feature of about") as caught:
        compute_given(name, np.hstack([features_ND, np.full((40, 1), huge)]), labels_N)
    assert caught.value.code == "invalid_features"


@pytest.mark.parametrize("name", OF_FEATURES)
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e300])
def test_features_that_say_nothing(name, constant):
    labels_N = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    result = compute(name, np.full((8, 5), constant), labels_N)
    if name not in SPEAKS_WITHOUT_FEATURES:
        assert result.value == pytest.approx(0.0, abs=1e-12)
    assert "constant_features" in result.warnings
    assert result.held_out_N is not None or not result.stderr  # nothing varies within a class


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "labels",
    [[0, 1, 1], [0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 2, 3, 3, 3], [0] * 19 + [1]],
    ids=lambda labels: "".join(map(str, labels)),
)
@pytest.mark.parametrize("dimensions", [1, 4, 40])
def test_tiny_and_lopsided_classes(name, labels, dimensions):
    features_ND = np.random.default_rng(0).normal(size=(len(labels), dimensions))
    result = compute(name, features_ND, labels)
    assert np.isfinite(result.value)
    if result.held_out_N is not None:
        counts = np.bincount(labels)
        assert result.held_out_N.tolist() == (counts[labels] > 1).tolist()
        assert not result.per_image_N[~result.held_out_N].any()
        assert result.value == result.per_image_N.sum() / result.held_out_N.sum()
        assert ("singleton_class" in result.warnings) == (1 in counts)


@pytest.mark.parametrize("name", ["knn", "linear_probe", "ridge_loo", "lda", "lda_likelihood"])
def test_only_singletons_cannot_be_held_out(name):
    with pytest.raises(EvaluationFailed) as caught:
        compute(name, np.eye(4), [0, 1, 2, 3])
    assert caught.value.code == "no_held_out_images"


@pytest.mark.parametrize("shape", [(60, 20), (30, 80)])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_where_the_spectrum_is_known_already(name, shape):
    features_ND, labels_N = noisy_classes(*shape)
    alone = compute(name, features_ND, labels_N)
    panel = synthetic.sample_of(features_ND, labels_N).panel()
    assert len(panel.spectrum[0]) == min(shape)
    assert panel.decomposed
    together = measure(name, panel)
    assert together.value == pytest.approx(alone.value, rel=1e-8)
    assert (together.null_value or 0) == pytest.approx(alone.null_value or 0, rel=1e-8)
    assert (together.stderr or 0) == pytest.approx(alone.stderr or 0, rel=1e-7)
    assert together.warnings == alone.warnings


@pytest.mark.parametrize("shape", [(60, 20), (30, 80)])
def test_shared_decompositions(shape):
    panel = Panel(*noisy_classes(*shape))
    x_ND = panel.features_ND - panel.features_ND.mean(axis=0)
    gram_NN = x_ND @ x_ND.T
    assert panel.principal_NM @ panel.principal_NM.T == pytest.approx(gram_NN, abs=1e-12)
    assert panel.gram_energy_N == pytest.approx((gram_NN**2).sum(axis=1), rel=1e-10)
    assert panel.gram_rows(slice(3, 7)) == pytest.approx(gram_NN[3:7], abs=1e-12)
    assert panel.spectrum[0] == pytest.approx(np.linalg.eigvalsh(gram_NN)[::-1][: min(shape)], abs=1e-12)
    assert panel.class_sums_CD[1] == pytest.approx(x_ND[panel.labels_N == 1].sum(axis=0), abs=1e-12)


@pytest.mark.parametrize("workspace_bytes", [0, 2 * 90**2 * 8 - 1, 2 * 90**2 * 8, 1 << 40])
def test_decompositions_of_any_workspace(workspace_bytes):
    """Both drivers of LAPACK, on either side of the limit: the matrix is the product of what they return."""
    factor_MM = np.random.default_rng(0).normal(size=(90, 90))
    symmetric_MM = factor_MM @ factor_MM.T
    values_M, vectors_MM = NumpyProducts(workspace_bytes).eigh(symmetric_MM.copy())
    assert (np.diff(values_M) <= 0).all()
    assert vectors_MM * values_M @ vectors_MM.T == pytest.approx(symmetric_MM, abs=1e-11)
    assert vectors_MM.T @ vectors_MM == pytest.approx(np.eye(90), abs=1e-12)


@pytest.mark.parametrize("shape", [(120, 30), (80, 200)])
def test_same_on_every_run_and_for_every_number_of_threads(shape):
    features_ND, labels_N = noisy_classes(*shape, classes=5, spread=0.3)
    runs = []
    for threads in (1, 1, 2):
        with threadpool_limits(limits=threads):
            panel = synthetic.sample_of(features_ND, labels_N).panel()
            runs.append([measure(name, panel) for name in NAMES])
    for first, second, threaded in zip(*runs, strict=True):
        assert first.value == second.value
        assert first.stderr == second.stderr
        assert threaded.value == pytest.approx(first.value, rel=1e-6)
        assert (threaded.stderr or 0) == pytest.approx(first.stderr or 0, rel=1e-6)


def test_importing_the_list_of_scores_loads_no_scientific_library():
    program = (
        "import sys; from app.scoring import SCORES, find; "
        "print(*{'numpy', 'scipy', 'sklearn', 'torch'} & set(sys.modules), end='')"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout == ""
