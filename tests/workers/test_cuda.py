"""What only a GPU can show; twins on the CPU are test_precision, test_part_size, test_features and test_worker.

N images, D features
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from app.cli.worker_slots import plan_slots
from app.config import Settings
from app.storage.database import Database
from app.storage.repositories.workers import alive
from tests.fixtures.processes import running_service
from tests.fixtures.story import finished, select, upload, wait_for_zoo
from tests.fixtures.tiny_zoo import ARCHITECTURES, tiny_zoo
from tests.fixtures.weights import small_spec
from tests.workers.extract.test_features import hungry, pictures, same
from workers.extract.features import extract
from workers.extract.gradients import gradient_sketches, random_probes
from workers.extract.part_size import PartSize
from workers.extract.precision import pin_arithmetic, wanted_precision
from workers.extract.precision_check import check_precision
from workers.zoo.network import Network, load_network
from workers.zoo.sources import cached_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = "cuda"


@pytest.fixture(scope="module", autouse=True)
def _pinned() -> None:
    pin_arithmetic()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Network]:
    """Return the same network on the CPU and on the GPU."""
    folder = tmp_path_factory.mktemp("weights")
    spec = small_spec(folder, side=64)
    weights = cached_weights(spec.source, folder / "cache")
    return load_network(spec, weights), load_network(spec, weights, GPU)


def test_float32_features_are_those_of_the_cpu(pair: tuple[Network, Network]) -> None:
    """TF32 would be off by a thousandth."""
    here, there = (extract(network, pictures(40), batch_size=16, decode_threads=4) for network in pair)
    assert same(there.features_ND, here.features_ND)
    assert here.logits_NZ is not None
    assert there.logits_NZ is not None
    assert same(there.logits_NZ, here.logits_NZ)


def test_gradients_are_those_of_the_cpu(pair: tuple[Network, Network]) -> None:
    directions_DP = random_probes(pair[0].feature_dim, 2)
    here, there = (gradient_sketches(network, pictures(6), directions_DP, batch_size=4) for network in pair)
    for one, other in zip(here.layers, there.layers, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())


def test_page_locked_batches_are_not_overwritten_while_they_are_copied(pair: tuple[Network, Network]) -> None:
    """Hundreds of small batches go through buffers that are used again and again; each image keeps its features."""
    images = pictures(13) * 60
    found = extract(pair[1], images, batch_size=8, decode_threads=4, part_size=PartSize(8))
    once = extract(pair[1], images[:13], batch_size=13).features_ND
    assert same(found.features_ND, np.concatenate([once] * 60))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_the_check_holds_on_the_gpu_what_it_holds_on_the_cpu(pair: tuple[Network, Network], precision: str) -> None:
    here, there = (check_precision(network, pictures(16), precision) for network in pair)
    assert there.relative_error == pytest.approx(here.relative_error, rel=0.5)
    assert there.used == here.used


def test_a_gpu_with_tensor_cores_computes_in_float16() -> None:
    capability = torch.cuda.get_device_capability()
    assert wanted_precision("auto", torch.device(GPU)) == ("float16" if capability >= (7, 0) else "float32")


def test_threads_other_than_the_first_compute(pair: tuple[Network, Network]) -> None:
    """Celery runs tasks in a thread that did not start CUDA, and another one after a while."""
    expected = extract(pair[1], pictures(9), batch_size=4).features_ND
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(extract, pair[1], pictures(9), batch_size=4).result()
        assert same(found.features_ND, expected)


def test_out_of_memory_halves_the_batch_and_leaves_room() -> None:
    """A process may take so little of the GPU that a batch does not fit; what it held is there again afterwards."""
    network = hungry(224).to(GPU)
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_allocated() + 500 * 2**20) / total))
    try:
        size = PartSize(32, seconds=1000)
        found = extract(network, pictures(40), batch_size=32, part_size=size)
        assert size.fitting < 32
        assert found.batch_size == size.fitting
        again = extract(network, pictures(40), batch_size=32, part_size=size)
        assert again.batch_size == found.batch_size, "the next data set begins with what fitted"
        torch.cuda.empty_cache()
        assert torch.cuda.memory_reserved() < 100 * 2**20
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert same(found.features_ND, extract(hungry(224), pictures(40), batch_size=4).features_ND)


SEEN = """
import torch
from workers.runtime import runtime
parts = runtime()
torch.zeros(1, device=parts.device)
print(torch.cuda.device_count(), parts.device, parts.settings.worker_slot, torch.cuda.get_device_properties(0).uuid)
"""


def test_each_launched_worker_sees_its_gpu_alone(tmp_path: Path) -> None:
    for slot in plan_slots(Settings(home=tmp_path), "all", 2):
        own = {"FORETUNE_HOME": str(tmp_path), "FORETUNE_WORKER_SLOT": slot.name, **slot.variables}
        command = [sys.executable, "-c", SEEN]
        done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=True)
        count, device, name, uuid = done.stdout.split()
        assert (count, device, name) == ("1", "cuda", slot.name)
        if slot.variables["CUDA_VISIBLE_DEVICES"].startswith("GPU-"):
            assert uuid in slot.variables["CUDA_VISIBLE_DEVICES"]


def test_a_whole_selection_on_the_gpu_says_its_precision(tmp_path: Path) -> None:
    environment = {"FORETUNE_ZOO_MANIFEST": str(tiny_zoo(tmp_path)), "FORETUNE_MAX_IMAGES": "200"}
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        results = finished(client, select(client, upload(client)))
        assert [row["status"] for row in results["data"]] == ["done"] * len(ARCHITECTURES)
        database = Database(f"sqlite:///{service.home / 'foretune.db'}")
        with database.read() as session:
            assert alive(session) == 1
        database.close()
        assert '"event": "features.precision_checked"' in service.log.read_text()
