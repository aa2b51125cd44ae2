"""What an S3 store makes of writes that do not end, and what is told when it refuses or stays silent."""

import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from app.domain.errors import Unavailable
from app.s3_access import BLOCK_BYTES, S3Access
from app.storage.objects import Objects
from tests.fixtures.proxy import Proxy, proxy

PATIENCE = 0.5


class Broken(Exception):
    """Something goes wrong while an object is written."""


@pytest.fixture(scope="module")
def wire(s3_url: str) -> Iterator[Proxy]:
    with proxy(int(s3_url.rpartition(":")[2])) as running:
        yield running


@pytest.fixture(scope="module")
def bucket(wire: Proxy) -> Objects:
    access = S3Access(f"http://127.0.0.1:{wire.port}", "key", "secret", PATIENCE)
    store = Objects(f"s3://bucket-{uuid.uuid4().hex}", access)
    store.prepare()
    store.prepare()
    return store


@pytest.fixture
def store(bucket: Objects, wire: Proxy) -> Iterator[Objects]:
    yield bucket
    wire.trouble = "none"
    for key in bucket.keys():  # noqa: SIM118  (a store is no dictionary)
        bucket.delete(key)


def write(store: Objects, key: str, content: bytes = b"content") -> None:
    with store.create(key) as file:
        file.write(content)


def break_off(store: Objects, content: bytes) -> None:
    with store.create("one") as file:
        file.write(content)
        raise Broken


def fall_silent_midway(store: Objects, wire: Proxy) -> None:
    with store.create("one") as file:
        file.write(b"x" * (BLOCK_BYTES + 1))
        wire.trouble = "silent"
        file.write(b"x" * (BLOCK_BYTES + 1))


def uploads(store: Objects) -> int:
    return len(store._files.call_s3("list_multipart_uploads", Bucket=store._root).get("Uploads", []))


class TestUnfinished:
    @pytest.mark.parametrize("size", [4, 2 * BLOCK_BYTES + 4])
    def test_an_error_leaves_what_was_there_and_no_part(self, store: Objects, size: int) -> None:
        write(store, "one", b"before")
        with pytest.raises(Broken):
            break_off(store, b"x" * size)
        with store.open("one") as before:
            assert before.read() == b"before"
        assert uploads(store) == 0

    def test_nothing_is_to_be_seen_before_the_end(self, store: Objects) -> None:
        content = bytes(range(256)) * (BLOCK_BYTES // 256 * 2) + b"end"
        with store.create("folder/one") as file:
            for start in range(0, len(content), 1 << 20):
                file.write(content[start : start + (1 << 20)])
            assert file.tell() == len(content)
            assert not store.exists("folder/one")
            assert store.keys() == []
        with store.open("folder/one") as whole, store.as_file("folder/one") as copy:
            assert whole.read() == copy.read_bytes() == content
            assert whole.seek(-3, 2) == len(content) - 3
            assert whole.read() == b"end"

    def test_uploads_of_killed_processes_are_aborted_when_they_are_old(self, store: Objects) -> None:
        draft = store._files.open(f"{store._root}/one", "wb", autocommit=False)
        draft.write(b"x" * (BLOCK_BYTES + 1))
        draft.closed = True  # whoever wrote it was killed
        assert uploads(store) == 1
        store.discard_drafts(older_than_seconds=3600)
        assert uploads(store) == 1
        store.discard_drafts(older_than_seconds=-3600)
        assert uploads(store) == 0


USES: dict[str, Callable[[Objects], object]] = {
    "check": lambda store: store.check(),
    "create": lambda store: write(store, "new"),
    "delete": lambda store: store.delete("one"),
    "exists": lambda store: store.exists("one"),
    "keys": lambda store: store.keys(),
    "move": lambda store: store.move("one", "two"),
    "open": lambda store: store.open("one"),
    "written_at": lambda store: store.written_at("one"),
}


class TestTrouble:
    @pytest.mark.parametrize("use", USES)
    @pytest.mark.parametrize("trouble", ["refuse", "silent"])
    def test_it_is_told_soon(self, store: Objects, wire: Proxy, trouble: str, use: str) -> None:
        write(store, "one")
        wire.trouble = trouble
        started = time.monotonic()
        with pytest.raises(Unavailable) as told:
            USES[use](store)
        assert time.monotonic() - started < 20 * PATIENCE
        assert told.value.code == "storage_unavailable"
        assert "127.0.0.1" not in told.value.message, "its address is nobody's business"
        wire.trouble = "none"
        store.check()
        assert store.exists("one")

    def test_it_falls_silent_while_an_object_is_read(self, store: Objects, wire: Proxy) -> None:
        write(store, "one", b"x" * (4 * BLOCK_BYTES))
        with store.open("one") as file:
            assert file.read(1) == b"x"
            wire.trouble = "silent"
            with pytest.raises(Unavailable):
                file.read()
        wire.trouble = "none"

    def test_it_falls_silent_while_an_object_is_written(self, store: Objects, wire: Proxy) -> None:
        with pytest.raises(Unavailable):
            fall_silent_midway(store, wire)
        wire.trouble = "none"
        assert store.keys() == []
        store.discard_drafts(older_than_seconds=-3600)
        assert uploads(store) == 0

    def test_a_slow_store_is_no_trouble(self, store: Objects, wire: Proxy) -> None:
        write(store, "one", b"x" * 1000)
        wire.trouble = "slow"
        with store.open("one") as file:
            assert len(file.read()) == 1000

    def test_without_its_bucket(self, s3_url: str) -> None:
        elsewhere = Objects(f"s3://bucket-{uuid.uuid4().hex}", S3Access(s3_url, "key", "secret"))
        for use in ("check", "create"):
            with pytest.raises(Unavailable):
                USES[use](elsewhere)
