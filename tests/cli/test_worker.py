"""``foretune worker``: which workers a machine gets, what each of them sees, and how they end."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from app.cli.gpus import Gpu, choose_gpus, find_gpus, listed
from app.cli.worker_slots import plan_slots
from app.client import Failure
from app.config import Settings
from app.slot_lock import SlotTaken, held_slot, slots_in_use
from tests.cli.conftest import ROOT, processes_of, run, start, wait_until

# As nvidia-smi's own documentation and drivers 535 to 580 print it.
TWO = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
"""
DIVIDED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 3g.20gb     Device  1: (UUID: MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
"""
TOOL = """#!{python}
import os, sys, time
assert sys.argv[1:] == ["-L"], sys.argv
print(open({told!r}).read(), end="")
sys.exit({status})
"""


def install_nvidia_smi(folder: Path, told: str, status: int = 0) -> None:
    """Put a program into ``folder`` that says what nvidia-smi would."""
    (folder / "told").write_text(told)
    tool = folder / "nvidia-smi"
    tool.write_text(TOOL.format(python=sys.executable, told=str(folder / "told"), status=status))
    tool.chmod(0o755)


@pytest.fixture
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_those_that_nvidia_smi_lists() -> None:
    assert [(gpu.number, gpu.name) for gpu in listed(TWO)] == [
        ("0", "NVIDIA A100-SXM4-40GB"),
        ("1", "NVIDIA H100 80GB HBM3"),
    ]
    assert listed(TWO)[1].id == "GPU-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
    assert [(gpu.number, gpu.id[:7], gpu.name) for gpu in listed(DIVIDED)] == [
        ("0:0", "MIG-c73", "MIG 3g.20gb"),
        ("0:1", "MIG-a28", "MIG 3g.20gb"),
        ("1", "GPU-c6d", "NVIDIA A100-SXM4-40GB"),
    ]


@pytest.mark.usefixtures("no_variable")
def test_gpus_are_chosen_by_number_or_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    install_nvidia_smi(tmp_path, DIVIDED)
    assert [gpu.number for gpu in choose_gpus("all")] == ["0:0", "0:1", "1"]
    assert [gpu.number for gpu in choose_gpus("1, 0:1,1")] == ["1", "0:1"]
    assert [gpu.number for gpu in choose_gpus("0")] == ["0:0", "0:1"]
    assert [gpu.number for gpu in choose_gpus("MIG-c7384736-a75d-5afc-978f-d2f1294409fd")] == ["0:0"]
    assert choose_gpus("none") == []
    with pytest.raises(Failure) as caught:
        choose_gpus("0,7")
    assert caught.value.code == "unknown_gpu"
    assert "0:0 (MIG 3g.20gb)" in str(caught.value.hint)


def test_the_variable_says_which_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-c6d4f1ef,MIG-a28ad590,-1,3")
    assert find_gpus() == [Gpu(word, word, "GPU") for word in ("2", "GPU-c6d4f1ef", "MIG-a28ad590")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus() == []
    with pytest.raises(Failure, match="that CUDA_VISIBLE_DEVICES= lets it use") as caught:
        choose_gpus("all")
    assert caught.value.code == "no_gpu"


@pytest.mark.usefixtures("no_variable")
def test_a_broken_driver_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    install_nvidia_smi(tmp_path, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9)
    with pytest.raises(Failure, match="couldn't communicate") as caught:
        find_gpus()
    assert caught.value.code == "gpus_not_listed"
    install_nvidia_smi(tmp_path, "No devices were found\n", 6)
    assert find_gpus() == []


@pytest.mark.usefixtures("no_variable")
def test_each_gpu_gets_a_worker_that_sees_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    install_nvidia_smi(tmp_path, TWO)
    settings = Settings(home=tmp_path)
    slots = plan_slots(settings, None, None)
    assert [slot.name for slot in slots] == ["gpu0", "gpu1"]
    assert slots[1].variables == {
        "CUDA_VISIBLE_DEVICES": "GPU-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f",
        "FORETUNE_DEVICE": "cuda",
        "FORETUNE_THREADS": "6",
        "FORETUNE_DECODE_THREADS": "6",
    }
    assert [slot.name for slot in plan_slots(settings, "1", 2)] == ["gpu1.0", "gpu1.1"]
    named = Settings(home=tmp_path, worker_slot="b", threads=3, decode_threads=2)
    slots = plan_slots(named, "all", None)
    assert [slot.name for slot in slots] == ["b-gpu0", "b-gpu1"]
    assert set(slots[0].variables) == {"CUDA_VISIBLE_DEVICES", "FORETUNE_DEVICE"}, "what is set stays"


@pytest.mark.usefixtures("no_variable")
def test_workers_on_the_cpu_share_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    settings = Settings(home=tmp_path)
    assert [(slot.name, slot.variables) for slot in plan_slots(settings, None, None)] == [("0", {})]
    slots = plan_slots(settings, None, 3)
    assert [(slot.name, slot.variables) for slot in slots] == [
        (f"0.{place}", {"FORETUNE_THREADS": "4"}) for place in range(3)
    ]
    install_nvidia_smi(tmp_path, TWO)
    (slot,) = plan_slots(settings, "none", None)
    assert slot.variables == {"FORETUNE_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    (slot,) = plan_slots(Settings(home=tmp_path, device="cuda:1"), None, None)
    assert (slot.name, slot.variables) == ("0", {}), "who names a device has chosen"


def test_a_slot_is_held_by_one(tmp_path: Path) -> None:
    with held_slot(tmp_path, "gpu0.1"), held_slot(tmp_path, "b"):
        assert slots_in_use(tmp_path) == ["b", "gpu0.1"]
        with pytest.raises(SlotTaken, match=str(os.getpid())), held_slot(tmp_path, "b"):
            pass
    assert slots_in_use(tmp_path) == []


def test_workers_are_started_replaced_and_ended_together(tmp_path: Path) -> None:
    """Two real workers. One is killed and replaced while the other does not notice; SIGTERM ends both."""
    home = tmp_path / "home"
    launcher = start("worker", "--workers", "2", "--json", home=str(home), threads="1")
    try:
        assert launcher.stdout is not None
        told = json.loads("".join(iter(launcher.stdout.readline, "}\n")) + "}")["workers"]
        assert [one["worker"] for one in told] == ["0.0", "0.1"]
        wait_until(lambda: len(workers(home)) == 2)
        healthy = [sys.executable, "-P", "-m", "workers.health"]
        wait_until(lambda: os.spawnve(os.P_WAIT, sys.executable, healthy, health_environment(home)) == 0)
        slots = {variable(pid, "FORETUNE_WORKER_SLOT"): pid for pid in workers(home)}
        assert set(slots) == {"0.0", "0.1"}
        os.kill(slots["0.0"], signal.SIGKILL)
        wait_until(lambda: len(workers(home) - set(slots.values())) == 1)
        assert slots["0.1"] in workers(home), "it did not notice"
        os.kill(told[1]["pid"], signal.SIGKILL)
        wait_until(lambda: len(workers(home) - set(slots.values())) == 2)
        second = run("worker", "--workers", "2", home=str(home))
        assert (second.code, f"Process {launcher.pid} keeps the worker '0.0'" in second.err) == (1, True)
        stopping = time.monotonic()
    finally:
        launcher.send_signal(signal.SIGTERM)
        _, err = launcher.communicate(timeout=40)
    assert launcher.returncode == 0, err
    assert time.monotonic() - stopping < 15
    assert "Traceback" not in err
    wait_until(lambda: not processes_of(home), seconds=15)


def test_gpus_that_are_not_there_start_nothing(tmp_path: Path) -> None:
    done = run("worker", "--gpus", "all", home=str(tmp_path / "home"))
    assert (done.code, done.out) == (1, "")
    assert "no_gpu" in done.err or "gpus_not_listed" in done.err
    assert not (tmp_path / "home").exists()


def workers(home: Path) -> set[int]:
    return {pid for pid, command in processes_of(home).items() if "celery" in command}


def variable(pid: int, name: str) -> str:
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(one.partition("=")[2] for one in variables if one.startswith(f"{name}="))


def health_environment(home: Path) -> dict[str, str]:
    return {"FORETUNE_HOME": str(home), "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
