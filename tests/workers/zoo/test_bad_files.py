"""Weights files that were damaged, mixed up or made to do harm, through the whole of admission."""

import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from app.domain.model_spec import ModelSpec
from tests.fixtures.weights import file_source, small_spec
from workers.zoo.admission import AdmissionRefused, Check, admit


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.canary, "executed")


def file_of(spec: ModelSpec) -> Path:
    return Path(spec.source.uri.removeprefix("file://"))  # type: ignore[union-attr]


def refused(spec: ModelSpec, folder: Path) -> tuple[str, Check]:
    """Return the error's code and the failed check, and make sure that nothing is left in the cache."""
    with pytest.raises(AdmissionRefused) as caught:
        admit(spec, folder / "cache")
    failed = caught.value.checks[-1]
    assert failed["outcome"] == "fail"
    assert failed["hint"]
    assert failed["code"] == caught.value.code
    return caught.value.code, failed


def cached(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").iterdir() if path.suffix == ".safetensors")


def rewritten(spec: ModelSpec, content: bytes) -> ModelSpec:
    """Return a specification of another file, which states its true hash."""
    path = file_of(spec).with_name("other.safetensors")
    path.write_bytes(content)
    return dataclasses.replace(spec, source=file_source(path))


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_bomb_does_not_go_off(tmp_path: Path, as_zip: bool) -> None:
    spec, bomb, canary = small_spec(tmp_path), tmp_path / "bomb.pt", tmp_path / "canary"
    state = load_file(file_of(spec)) | {"bomb": Bomb(canary)}
    if as_zip:
        torch.save(state, bomb)
    else:
        bomb.write_bytes(pickle.dumps({"bomb": Bomb(canary)}))
    code, failed = refused(rewritten(spec, bomb.read_bytes()), tmp_path)
    assert (code, failed["name"]) == ("unsafe_weights", "safe_container")
    assert not canary.exists()
    assert cached(tmp_path) == []
    with pytest.MonkeyPatch.context() as patch:  # the bomb is a live one
        patch.chdir(tmp_path)
        pickle.loads(pickle.dumps(Bomb(canary)))
    assert canary.read_text() == "executed"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="half of it"),
        pytest.param(lambda content: content[:-1], id="all but a byte"),
        pytest.param(lambda content: content[:6], id="half of the header's length"),
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda content: (1 << 40).to_bytes(8, "little") + content[8:], id="a header beyond the file"),
        pytest.param(lambda content: content[:20] + b"\xff\xfe" + content[22:], id="a header that is no text"),
        pytest.param(lambda content: content.replace(b'"dtype":"F32"', b'"dtype":"F99"', 1), id="a type nobody knows"),
        pytest.param(lambda content: content.replace(b'"data_offsets":[0,', b'"data_offsets":[8,', 1), id="a gap"),
    ],
)
def test_a_damaged_container_is_refused(tmp_path: Path, damage: object) -> None:
    spec = small_spec(tmp_path)
    code, failed = refused(rewritten(spec, damage(file_of(spec).read_bytes())), tmp_path)  # type: ignore[operator]
    assert (code, failed["name"]) == ("unsafe_weights", "safe_container")
    assert cached(tmp_path) == []


def test_one_flipped_bit_is_another_file(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    content = bytearray(file_of(spec).read_bytes())
    content[-1] ^= 1 << 2
    file_of(spec).write_bytes(bytes(content))
    code, failed = refused(spec, tmp_path)
    assert (code, failed["name"]) == ("weights_hash_mismatch", "weights")
    assert cached(tmp_path) == []
    # Who states the hash of the flipped file means that file: it is another model's weights, and sound.
    assert admit(rewritten(spec, bytes(content)), tmp_path / "cache").checks[0]["outcome"] == "pass"


def test_keys_that_are_missing_or_too_many_are_named(tmp_path: Path) -> None:
    spec = small_spec(tmp_path)
    state = load_file(file_of(spec))
    state["extra.weight"] = torch.zeros(3)
    del state["conv1.0.weight"]
    save_file(state, file_of(spec))
    code, failed = refused(dataclasses.replace(spec, source=file_source(file_of(spec))), tmp_path)
    assert (code, failed["name"]) == ("weights_mismatch", "tensors")
    assert "1 missing: conv1.0.weight" in failed["detail"]
    assert "1 unexpected: extra.weight" in failed["detail"]


@pytest.mark.parametrize(
    ("change", "outcome", "code", "said"),
    [
        (lambda name, tensor: (f"module.{name}", tensor), "pass", None, "once 'module.' is taken off"),
        (lambda name, tensor: (name, _eight_bits(tensor)), "warn", "low_precision_weights", "become float32"),
    ],
)
def test_weights_that_fit_once_changed_are_admitted_and_it_is_told(
    tmp_path: Path, change: Callable[..., tuple[str, torch.Tensor]], outcome: str, code: str | None, said: str
) -> None:
    spec = small_spec(tmp_path)
    state = dict(change(name, tensor) for name, tensor in load_file(file_of(spec)).items())
    checks: list[Check] = []
    with pytest.raises(_EnoughError):
        admit(
            rewritten(spec, save(state)), tmp_path / "cache", on_check=checks.append, on_start=_until("finite_weights")
        )
    found = checks[-1]
    assert (found["name"], found["outcome"], found["code"]) == ("tensors", outcome, code)
    assert said in found["detail"]


class _EnoughError(BaseException):
    """Ends the checks where a test has seen what it wanted."""


def _until(name: str) -> Callable[[str], None]:
    def stop(started: str) -> None:
        if started == name:
            raise _EnoughError

    return stop


def _eight_bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float8_e4m3fn) if tensor.is_floating_point() else tensor


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vit").mkdir()
    vit = small_spec(tmp_path / "vit", "test_vit", side=160)
    code, failed = refused(dataclasses.replace(small_spec(tmp_path), source=vit.source), tmp_path)
    assert (code, failed["name"]) == ("weights_mismatch", "tensors")
    assert "missing" in failed["detail"]
    assert "unexpected" in failed["detail"]
