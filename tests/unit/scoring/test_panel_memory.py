"""Memory of many scores on one panel: what is shared is kept, what is large and soon formed again is not."""

import tracemalloc

import numpy as np
import pytest

from app.scoring import Panel, measure, synthetic

NAMES = (
    "lfc", "lfc_offdiagonal", "lfc_centered", "lfc_cosine", "logme", "hscore", "hscore_regularized", "transrate",
    "transrate_scalefree", "gbc_spherical", "gbc_diagonal", "parc", "fisher_ratio", "separation_index", "knn", "lda",
    "ridge_gcv", "ridge_loo", "etran_class", "participation_ratio",
)  # fmt: skip
SMALL_BUDGET = 1 << 26  # too little for the decomposition that takes a workspace of two matrices


def test_twenty_scores_take_three_times_the_features():
    sample = synthetic.noisy_classes(1400, 1440, classes=20, spread=0.3)
    features_ND = sample.features_ND.astype(np.float32)
    measured_together(features_ND[:, :100], sample.labels_N)  # so that no module is loaded while memory is traced
    tracemalloc.start()
    measured_together(features_ND, sample.labels_N)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * features_ND.size * 8


def measured_together(features_ND, labels_N):
    panel = Panel(features_ND, labels_N, memory_bytes=SMALL_BUDGET)
    return [measure(name, panel).value for name in NAMES]


@pytest.mark.parametrize("shape", [(60, 90), (90, 40)])
def test_no_score_depends_on_those_before_it(shape):
    sample = synthetic.noisy_classes(*shape, classes=4, spread=0.3)
    alone = [measure(name, Panel(sample.features_ND, sample.labels_N)).value for name in NAMES]
    panel = Panel(sample.features_ND, sample.labels_N)
    for order in (NAMES, NAMES[::-1]):
        found = {name: measure(name, panel).value for name in order}
        assert [found[name] for name in NAMES] == pytest.approx(alone, rel=1e-9, abs=1e-12)


def test_labels_of_its_own_leave_the_other_panel_as_it_is():
    sample = synthetic.noisy_classes(50, 80, classes=4, spread=0.3)
    panel = Panel(sample.features_ND, sample.labels_N)
    before = measure("lfc", panel).value
    other = panel.with_labels(sample.labels_N[::-1])
    for name in NAMES:
        measure(name, other)
    assert measure("lfc", panel).value == before
    assert measure("logme", panel).value == pytest.approx(measure("logme", Panel(*_arrays(sample))).value, rel=1e-12)


def _arrays(sample):
    return sample.features_ND, sample.labels_N
