"""Weights that are in use, in a folder where others make room."""

import os
from pathlib import Path

from tests.fixtures.weights import small_spec
from workers.zoo.admission import admit
from workers.zoo.sources import cached_weights, held_weights
from workers.zoo.weights_cache import WeightsCache


def crowding(folder: Path, name: str) -> None:
    """Add a file to a cache that has room for nothing."""
    folder.mkdir(exist_ok=True)
    draft = folder / f"draft-{name}"
    draft.write_bytes(b"x")
    path = WeightsCache(folder, 1).keep(name, draft)
    os.utime(path, (1, 1))


class Forgetful(WeightsCache):
    """Finds what another process deletes before it can be held."""

    deleted = 0

    def find(self, sha256: str) -> Path | None:
        found = super().find(sha256)
        if found is not None and self.deleted == 0:
            self.deleted += 1
            found.unlink()
        return found


def test_weights_that_were_just_deleted_are_fetched_again(tmp_path: Path) -> None:
    source = small_spec(tmp_path).source
    cached_weights(source, tmp_path / "cache")
    cache = Forgetful(tmp_path / "cache")
    with held_weights(source, cache) as weights:
        assert weights.exists()
    assert cache.deleted == 1


def test_a_model_under_check_stays_in_a_cache_that_is_too_small(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path / "cache", 1)
    seen: list[bool] = []

    def crowd(check: str) -> None:
        """Come as another process with weights of its own, while the model's were not used for long."""
        for path in cache.folder.glob("*.safetensors"):
            os.utime(path, (1, 1))
        crowding(cache.folder, f"other-{len(seen)}")
        seen.append(True)

    admission = admit(small_spec(tmp_path), cache, on_start=crowd)
    assert len(seen) == len(admission.checks)
    assert admission.weights.exists()
    os.utime(admission.weights, (1, 1))
    crowding(cache.folder, "last")
    assert [path.stem for path in cache.folder.glob("*.safetensors")] == ["last"]
