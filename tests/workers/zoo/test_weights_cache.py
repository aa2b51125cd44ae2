"""The bounded folder of weights, used by several processes."""

import multiprocessing
import os
import time
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

from workers.zoo.weights_cache import WeightsCache

SIZE = 1000


def add(cache: WeightsCache, name: str, *, used_seconds_ago: float = 0) -> Path:
    cache.folder.mkdir(exist_ok=True)
    draft = cache.folder / f"draft-{name}-{os.getpid()}"
    draft.write_bytes(name.encode()[:1] * SIZE)
    path = cache.keep(name, draft)
    moment = time.time() - used_seconds_ago
    with suppress(FileNotFoundError):  # it has made room for another process's file already
        os.utime(path, (moment, moment))
    return path


def kept(cache: WeightsCache) -> set[str]:
    return {path.stem for path in cache.folder.glob("*.safetensors")}


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path, 3 * SIZE)
    for name, age in (("a", 400), ("b", 300), ("c", 200)):
        add(cache, name, used_seconds_ago=age)
    assert cache.find("a") == tmp_path / "a.safetensors", "which is now the one used last"
    add(cache, "d")
    assert kept(cache) == {"a", "c", "d"}
    assert cache.find("b") is None


def test_what_may_be_about_to_be_opened_stays(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path, SIZE)
    add(cache, "old", used_seconds_ago=500)
    add(cache, "a", used_seconds_ago=5)
    add(cache, "b")
    assert kept(cache) == {"a", "b"}


def test_a_file_larger_than_the_bound_is_kept_alone(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path, SIZE // 2)
    add(cache, "a", used_seconds_ago=500)
    add(cache, "b")
    assert kept(cache) == {"b"}


def test_an_open_file_can_be_read_after_it_made_room(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path, SIZE)
    with add(cache, "a", used_seconds_ago=500).open("rb") as file:
        add(cache, "b")
        assert kept(cache) == {"b"}
        assert file.read() == b"a" * SIZE


def _hold(folder: Path, name: str, held: Event, end: Event) -> None:
    with WeightsCache(folder).hold(folder / f"{name}.safetensors") as there:
        assert there
        held.set()
        end.wait(30)


def test_what_another_process_holds_stays_until_it_lets_go(tmp_path: Path) -> None:
    cache, spawn = WeightsCache(tmp_path, SIZE), multiprocessing.get_context("spawn")
    add(cache, "held", used_seconds_ago=500)
    held, end = spawn.Event(), spawn.Event()
    process = spawn.Process(target=_hold, args=(tmp_path, "held", held, end))
    process.start()
    assert held.wait(30)
    add(cache, "b", used_seconds_ago=500)
    assert kept(cache) == {"held", "b"}, "nothing else could make room, and what is new stays"
    add(cache, "c")
    assert kept(cache) == {"held", "c"}
    end.set()
    process.join(30)
    assert process.exitcode == 0
    add(cache, "d")
    assert "held" not in kept(cache)


def test_an_equal_file_does_not_take_the_place_of_one_that_is_held(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path, SIZE)
    path = add(cache, "a")
    with cache.hold(path) as there:
        assert there
        add(cache, "a", used_seconds_ago=500)
        add(cache, "b")
        assert path.exists()
    assert sorted(one.name for one in tmp_path.iterdir()) == [".lock", "a.safetensors", "b.safetensors"]


def test_what_made_room_before_it_was_held_is_not_there(tmp_path: Path) -> None:
    cache = WeightsCache(tmp_path)
    path = add(cache, "a")
    path.unlink()
    with cache.hold(path) as there:
        assert not there


def test_what_a_killed_process_had_begun_to_fetch_is_removed_after_a_while(tmp_path: Path) -> None:
    cache, old, new = WeightsCache(tmp_path), tmp_path / "incoming-old", tmp_path / "incoming-new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "part").write_bytes(b"x")
    kept_file = add(cache, "a", used_seconds_ago=5000)
    os.utime(old, (time.time() - 5000, time.time() - 5000))
    cache.discard_drafts(older_than_seconds=1000)
    assert (old.exists(), new.exists(), kept_file.exists()) == (False, True, True)


def _add_many(folder: Path, first: int) -> None:
    cache = WeightsCache(folder, 5 * SIZE)
    for number in range(first, first + 40):
        add(cache, f"{number % 20}", used_seconds_ago=500)
        cache.find(f"{(number * 7) % 20}")


def test_several_processes_share_the_folder(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=_add_many, args=(tmp_path, n)) for n in (0, 7, 13)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    for path in tmp_path.glob("*.safetensors"):
        os.utime(path, (1, 1))
    add(WeightsCache(tmp_path, 5 * SIZE), "last")
    assert len(kept(WeightsCache(tmp_path))) == 5
    assert all(path.stat().st_size == SIZE for path in tmp_path.glob("*.safetensors"))
