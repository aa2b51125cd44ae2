"""Features larger than memory: the same scores, from files, in little memory.

Legend: N images, D feature dimensions, R dimensions of the reference.
"""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from app.domain.errors import EvaluationFailed
from app.scoring import SCORES, Panel, SourceClasses, compute, contributions, measure, synthetic
from app.scoring.workspace import Workspace

NAMES = tuple(name for name, score in SCORES.items() if not score.zoo_relative)
# The smallest budgets that hold the inner products; a block is a row or two.
CASES = {"tall": (300, 24, 14_000), "wide": (40, 200, 39_000)}
UNEVEN = np.repeat(np.arange(5), [3, 1, 8, 12, 16])  # by which class sizes are made to differ


def sample_of(case):
    images, dimensions, memory_bytes = CASES[case]
    sample = synthetic.noisy_classes(images, dimensions, classes=5, spread=0.25, seed=4)
    features_ND = sample.features_ND.copy()
    features_ND[:, 5] = 0.25  # a dimension that says nothing
    labels_N = UNEVEN[np.arange(images) % len(UNEVEN)]
    return synthetic.sample_of(features_ND.astype(np.float16), labels_N), memory_bytes


def panel_of(sample, features, **options):
    return Panel(
        features,
        sample.labels_N,
        gradients=sample.gradients_PNS,
        source_probabilities=sample.probabilities_NZ,
        reference_features=np.tile(sample.reference_NR, 12),
        source_classes=SourceClasses(sample.means_ZD, np.ones(len(sample.means_ZD))),
        facts=sample.facts,
        **options,
    )


@pytest.fixture(params=CASES, scope="module")
def both(request, tmp_path_factory):
    sample, memory_bytes = sample_of(request.param)
    path = tmp_path_factory.mktemp("features") / "features.npy"
    np.save(path, sample.features_ND)

    def streamed():
        return panel_of(sample, np.load(path, mmap_mode="r"), memory_bytes=memory_bytes)

    return streamed, lambda: panel_of(sample, sample.features_ND)


def in_a_file(matrix):
    while matrix is not None and not isinstance(matrix, np.memmap):
        matrix = matrix.base
    return matrix is not None


@pytest.mark.parametrize("name", NAMES)
def test_streamed_scores_are_those_in_memory(both, name):
    panel, other = (make() for make in both)
    assert panel.streamed
    assert not other.streamed
    expected = measure(name, other)
    if name == "nleep" and not panel.wide:
        with pytest.raises(EvaluationFailed) as caught:
            measure(name, panel)
        assert caught.value.code == "too_many_images"
        return
    actual = measure(name, panel)
    assert actual.value == pytest.approx(expected.value, rel=1e-10, abs=1e-13)
    assert (actual.stderr or 0) == pytest.approx(expected.stderr or 0, rel=1e-8)
    assert (actual.null_value or 0) == pytest.approx(expected.null_value or 0, rel=1e-10)
    assert actual.warnings == expected.warnings


def test_all_scores_of_one_panel_and_what_is_kept_in_files(both):
    panel, other = (make() for make in both)
    for name in NAMES:
        if name != "nleep" or panel.wide:
            assert measure(name, panel).value == pytest.approx(measure(name, other).value, rel=1e-10, abs=1e-13), name
    large = [panel.features_ND, panel.centred_ND, panel.centred_copy()]
    large += [] if panel.wide else [panel.principal_NM]
    assert all(map(in_a_file, large))
    assert not in_a_file(other.centred_ND)
    with pytest.raises(ValueError, match="read-only"):
        panel.centred_ND[0, 0] = 1.0


def test_sums_of_many_classes():
    features_ND, labels_N = np.random.default_rng(6).normal(size=(300, 12)), np.arange(300) % 40
    streamed, other = Panel(features_ND, labels_N, memory_bytes=4000), Panel(features_ND, labels_N)
    assert len(list(streamed.class_parts())) > 40
    assert streamed.class_sums_CD == pytest.approx(other.class_sums_CD, abs=1e-14)
    assert streamed.residual_norms_N == pytest.approx(other.residual_norms_N, rel=1e-12)


@pytest.mark.parametrize("name", contributions.CORRELATIONS)
def test_streamed_contributions(both, name):
    streamed, in_memory = (contributions.contributions(name, make()).pairs_CC for make in both)
    assert streamed == pytest.approx(in_memory, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("shape", [(80, 60), (60, 80)])
def test_inner_products_that_do_not_fit_are_refused(shape):
    sample = synthetic.noisy_classes(*shape)
    for name in ("lfc", "rankme", "linear_probe", "hscore"):
        with pytest.raises(EvaluationFailed, match="60 x 60") as caught:
            compute(name, sample.features_ND, sample.labels_N, memory_bytes=60 * 60 * 8)
        assert caught.value.code == "too_many_images"
        assert "memory_bytes" in caught.value.hint
    knn = compute("knn", sample.features_ND, sample.labels_N, memory_bytes=60 * 60 * 8)
    assert knn.value == compute("knn", sample.features_ND, sample.labels_N).value


def test_a_disk_that_is_full_is_refused():
    with pytest.raises(EvaluationFailed) as caught:
        Workspace(1000).matrix(1 << 40, 1 << 10)
    assert caught.value.code == "no_room_on_disk"
    assert "TMPDIR" in caught.value.hint


def test_budget():
    whole = Workspace()
    assert whole.memory_bytes > 1 << 27
    assert whole.holds(1000, 1000)
    assert list(whole.parts(1000, 1000)) == [slice(0, 1000)]
    small = Workspace(16 * 8 * 10)
    assert small.holds(4, 10)
    assert not small.holds(5, 10)
    assert list(small.parts(25, 100)) == [slice(row, row + 1) for row in range(25)]
    assert list(small.parts(25, 4)) == [slice(row, min(row + 2, 25)) for row in range(0, 25, 2)]
    matrix = small.matrix(30, 40, np.float32)
    assert matrix.dtype == np.float32
    assert in_a_file(matrix)
    matrix[:] = 2.0
    assert matrix.sum() == 2400


MEASURED = """
    import importlib, sys, threading
    import numpy as np
    from app.scoring import Panel, find, measure
    from app.scoring.registry import DEFAULT_SCORES

    def anonymous():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

    for name in DEFAULT_SCORES:
        importlib.import_module(find(name).implementation.split(":")[0])
    before, peak, ended = anonymous(), 0, threading.Event()

    def watch():
        global peak
        while not ended.wait(0.001):
            peak = max(peak, anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    labels_N = np.load(sys.argv[2])
    panel = Panel(
        np.load(sys.argv[1], mmap_mode="r"),
        labels_N,
        source_probabilities=np.full((len(labels_N), 4), 0.25),
        memory_bytes=int(sys.argv[3]),
    )
    for name in DEFAULT_SCORES:
        measure(name, panel)
    ended.set()
    watching.join()
    print(peak - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_the_default_scores(tmp_path):
    images, dimensions = 16_000, 640
    random = np.random.default_rng(0)
    labels_N = np.arange(images) % 4
    directions_CD = 2.0 * random.normal(size=(4, dimensions)).astype(np.float32)
    features_ND = np.lib.format.open_memmap(
        tmp_path / "features.npy", mode="w+", dtype=np.float16, shape=(images, dimensions)
    )
    for start in range(0, images, 1000):
        rows = slice(start, start + 1000)
        features_ND[rows] = random.standard_normal((1000, dimensions), np.float32) + directions_CD[labels_N[rows]]
    np.save(tmp_path / "labels.npy", labels_N)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURED), "features.npy", "labels.npy", str(16_000_000)],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.6 * images * dimensions * 8
