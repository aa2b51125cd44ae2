"""Scores with products on a device are the scores with numpy's.

Legend: N images, D feature dimensions.
"""

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from app.scoring import SCORES, Panel, measure, synthetic
from app.scoring.inputs import SourceClasses
from app.scoring.products import NumpyProducts
from workers.torch_products import TorchProducts

NAMES = tuple(name for name, score in SCORES.items() if not score.zoo_relative)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")))
SHAPES = {"tall": (240, 40), "wide": (60, 150)}


def panel_of(shape, products, dtype=np.float32):
    sample = synthetic.noisy_classes(*SHAPES[shape], classes=4, spread=0.3)
    return Panel(
        sample.features_ND.astype(dtype),
        sample.labels_N,
        gradients=sample.gradients_PNS,
        source_probabilities=sample.probabilities_NZ,
        reference_features=sample.reference_NR,
        source_classes=SourceClasses(sample.means_ZD, np.ones(len(sample.means_ZD))),
        facts=sample.facts,
        products=products,
    )


class Counted(TorchProducts):
    """Counts what was computed on the device."""

    done = 0

    def _zeros(self, rows, columns):
        self.done += 1
        return super()._zeros(rows, columns)

    def _sent(self, matrix):
        self.done += 1
        return super()._sent(matrix)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_those_of_numpy(device, shape):
    products = Counted(torch.device(device), always=True)
    ours, theirs = panel_of(shape, products), panel_of(shape, NumpyProducts())
    for name in NAMES:
        expected, actual = measure(name, theirs), measure(name, ours)
        assert actual.value == pytest.approx(expected.value, rel=1e-9), name
        assert (actual.stderr or 0) == pytest.approx(expected.stderr or 0, rel=1e-6), name
        assert actual.warnings == expected.warnings, name
    assert products.done > 10


@pytest.mark.parametrize("device", DEVICES)
def test_products_in_blocks(device):
    random = np.random.default_rng(0)
    rows_ND, right_DB = random.normal(size=(50, 30)), random.normal(size=(30, 7))
    rows_ND.flags.writeable = False
    products = TorchProducts(torch.device(device), always=True, block_entries=100)
    assert products.gram(rows_ND) == pytest.approx(rows_ND @ rows_ND.T, abs=1e-12)
    assert products.scatter(rows_ND) == pytest.approx(rows_ND.T @ rows_ND, abs=1e-12)
    assert products.times(rows_ND, right_DB) == pytest.approx(rows_ND @ right_DB, abs=1e-12)
    assert products.times(rows_ND.astype(np.float32), rows_ND.T.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("device", DEVICES)
def test_eigenvectors_are_ordered_and_writable(device):
    rows_ND = np.random.default_rng(1).normal(size=(20, 12))
    scatter_DD = rows_ND.T @ rows_ND
    values_D, vectors_DD = TorchProducts(torch.device(device), always=True).eigh(scatter_DD.copy())
    assert (np.diff(values_D) <= 0).all()
    assert (vectors_DD * values_D) @ vectors_DD.T == pytest.approx(scatter_DD, abs=1e-12)
    vectors_DD -= vectors_DD.mean(axis=0)


def test_small_products_stay_with_numpy():
    products = Counted(torch.device("cpu"))
    products.scatter(np.ones((500, 64)))
    products.times(np.ones((1000, 2000)), np.ones((2000, 1)))
    assert products.done == 0
    products.scatter(np.ones((4000, 800)))
    assert products.done > 0


class Failing(Counted):
    """A device on which nothing can be done."""

    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nDetails follow.")

    def _sent(self, matrix):
        self.done += 1
        raise self.error


def test_a_full_device_leaves_the_rest_to_numpy():
    products = Failing(torch.device("cpu"), always=True)
    rows_ND = np.random.default_rng(2).normal(size=(20, 9))
    with capture_logs() as logs:
        assert products.scatter(rows_ND) == pytest.approx(rows_ND.T @ rows_ND, abs=1e-12)
        asked = products.done
        assert products.gram(rows_ND) == pytest.approx(rows_ND @ rows_ND.T, abs=1e-12)
    assert products.done == asked
    assert [line["event"] for line in logs] == ["scores.device_out_of_memory"]
    assert logs[0]["error"] == "CUDA out of memory. Tried to allocate 2.00 GiB."


def test_only_memory_is_made_up_for():
    products = Failing(torch.device("cpu"), always=True)
    products.error = RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert products.gram(np.eye(3)).tolist() == np.eye(3).tolist()
    broken = Failing(torch.device("cpu"), always=True)
    broken.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError, match="illegal"):
        broken.gram(np.eye(3))
