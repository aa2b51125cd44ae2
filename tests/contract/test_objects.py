"""What the object store promises: an object appears whole or not at all."""

import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.s3_access import S3Access
from app.storage.objects import Objects
from tests.contract.racing import race


class Broken(Exception):
    """Something goes wrong while an object is written."""


@pytest.fixture(scope="module")
def bucket(s3_url: str) -> Objects:
    """Return a part of a bucket."""
    store = Objects(f"s3://bucket-{uuid.uuid4().hex}/below", S3Access(s3_url, "key", "secret"))
    store.prepare()
    return store


@pytest.fixture(params=["file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    """Return an empty store: the local folder, one that is reached through fsspec only, and a part of a bucket."""
    root = tmp_path / "objects"
    if request.param == "s3":
        bucket: Objects = request.getfixturevalue("bucket")
        for key in bucket.keys():  # noqa: SIM118  (a store is no dictionary)
            bucket.delete(key)
        return bucket
    return Objects(root.as_uri() if request.param == "file" else f"memory:/{root}")


def write(store: Objects, key: str, content: bytes = b"content") -> None:
    with store.create(key) as file:
        file.write(content)


def break_off(store: Objects, key: str) -> None:
    with store.create(key) as file:
        file.write(b"half")
        raise Broken


def read(store: Objects, key: str) -> bytes:
    with store.open(key) as file:
        content: bytes = file.read()
        return content


class TestObjects:
    def test_what_is_written_is_read_back(self, store: Objects) -> None:
        assert store.keys() == []
        write(store, "folder/one", b"1")
        write(store, "folder/two", b"2")
        write(store, "three", b"3")
        assert store.keys() == ["folder/one", "folder/two", "three"]
        assert [read(store, key) for key in ("folder/one", "folder/two", "three")] == [b"1", b"2", b"3"]

    def test_the_keys_of_a_folder_are_listed(self, store: Objects) -> None:
        assert store.keys("folder") == []
        for key in ("folder/one", "folder/below/two", "folders/three", "four"):
            write(store, key)
        assert store.keys("folder") == ["folder/below/two", "folder/one"]

    def test_an_object_that_is_moved_takes_the_place_of_another(self, store: Objects) -> None:
        write(store, "folder/one", b"1")
        write(store, "two", b"2")
        before = datetime.now(UTC)
        for target in ("two", "new/below"):
            write(store, "folder/one", target.encode())
            store.move("folder/one", target)
            assert read(store, target) == target.encode()
            assert not store.exists("folder/one")
            assert before - timedelta(seconds=2) < store.written_at(target) < datetime.now(UTC) + timedelta(seconds=2)
        with pytest.raises(FileNotFoundError):
            store.written_at("folder/one")

    def test_writing_again_replaces_the_object(self, store: Objects) -> None:
        write(store, "one", b"long content")
        write(store, "one", b"short")
        assert read(store, "one") == b"short"

    def test_a_local_file_can_be_put(self, store: Objects, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"x" * (3 << 20))
        store.put("copy", source)
        assert read(store, "copy") == source.read_bytes()

    def test_an_object_can_be_had_as_a_file(self, store: Objects) -> None:
        write(store, "folder/one", b"whole")
        with store.as_file("folder/one") as path:
            assert path.read_bytes() == b"whole"
        assert store.keys() == ["folder/one"]

    def test_what_is_missing_is_not_found(self, store: Objects) -> None:
        assert not store.exists("missing")
        with pytest.raises(FileNotFoundError):
            store.open("missing")
        with pytest.raises(FileNotFoundError), store.as_file("missing"):
            pass

    def test_deleting_takes_one_object_or_all_below_a_key(self, store: Objects) -> None:
        for key in ("a/1", "a/2/3", "ab", "b"):
            write(store, key)
        store.delete("a")
        assert store.keys() == ["ab", "b"]
        store.delete("b")
        store.delete("b")
        assert store.keys() == ["ab"]

    def test_a_check_leaves_nothing(self, store: Objects) -> None:
        store.check()
        assert store.keys() == []


class TestLocalObjects:
    def test_an_error_leaves_nothing(self, objects: Objects, tmp_path: Path) -> None:
        with pytest.raises(Broken):
            break_off(objects, "folder/one")
        assert objects.keys() == []
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_an_error_leaves_the_object_that_was_there(self, objects: Objects) -> None:
        write(objects, "one", b"before")
        with pytest.raises(Broken):
            break_off(objects, "one")
        assert read(objects, "one") == b"before"

    def test_nothing_is_to_be_seen_before_the_end(self, objects: Objects) -> None:
        with objects.create("folder/one") as file:
            file.write(b"all")
            file.flush()
            assert not objects.exists("folder/one")
            assert objects.keys() == []
        assert objects.keys() == ["folder/one"]

    def test_readers_see_one_content_or_the_other(self, objects: Objects) -> None:
        contents = [bytes([letter]) * 300_000 for letter in b"abcd"]
        write(objects, "one", contents[0])

        def rewrite(content: bytes) -> set[bytes]:
            seen = set()
            for _ in range(20):
                write(objects, "one", content)
                seen.add(read(objects, "one"))
            return seen

        seen = set[bytes]().union(*race(*[lambda content=content: rewrite(content) for content in contents]))
        assert seen <= set(contents)
        assert objects.keys() == ["one"]

    def test_deleting_the_same_at_once(self, objects: Objects) -> None:
        for _ in range(5):
            for number in range(60):
                write(objects, f"folder/{number % 7}/{number}")
            race(*[lambda: objects.delete("folder")] * 6)
            assert objects.keys() == []

    def test_a_folder_is_no_object(self, objects: Objects) -> None:
        write(objects, "folder/one")
        with pytest.raises(FileNotFoundError), objects.as_file("folder"):
            pass

    def test_an_object_is_its_own_file(self, objects: Objects, tmp_path: Path) -> None:
        write(objects, "one")
        with objects.as_file("one") as path:
            assert path.is_relative_to(tmp_path / "objects")

    def test_what_a_killed_process_left_is_discarded_when_it_is_old(self, objects: Objects, tmp_path: Path) -> None:
        with objects.create("one") as fresh, objects.create("two") as old:
            fresh.write(b"fresh")
            old.write(b"old")
            hour_ago = time.time() - 3600
            os.utime(old.name, (hour_ago, hour_ago))
            objects.discard_drafts(older_than_seconds=600)
            assert Path(fresh.name).exists()
            assert not Path(old.name).exists()
            write(objects, "two", b"again")
            os.link(tmp_path / "objects" / "two", old.name)  # for the block to end well
        assert objects.keys() == ["one", "two"]
