"""A disk that is really full, in the middle of an upload and of an evaluation: both are told, and go on with room."""

import io
import json
import os
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.storage.objects import Objects
from tests.api.problem import assert_problem
from tests.fixtures import sabotage
from tests.fixtures.processes import running_service
from tests.fixtures.story import finished, select, upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import ARCHITECTURES, tiny_zoo

DISK_BYTES = 64 << 20
_AS_ROOT = [] if os.getuid() == 0 else ["sudo", "--non-interactive"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a small disk of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size={DISK_BYTES},uid={os.getuid()},mode=0700"
    mounted = subprocess.run([*_AS_ROOT, "mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("a disk can only be mounted by root")
    yield folder
    subprocess.run([*_AS_ROOT, "umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte; room is there again when the file that this returns is deleted."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return ballast


def large_archive() -> bytes:
    """Return an archive of which the disk holds one, and no second one."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("notes.bin", os.urandom(DISK_BYTES // 2))
    return archive.getvalue()


def current(client: httpx.Client, selection: str) -> list[str]:
    progress = client.get(f"/v1/selections/{selection}").json()["progress"]
    return [one["stage"] for one in progress["current"]]


def test_uploads_are_refused_and_jobs_wait_for_room(tmp_path: Path, disk: Path) -> None:
    slow = tmp_path / "slow"
    environment = {
        "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(tmp_path)),
        "FORETUNE_OBJECTS_URL": (disk / "objects").as_uri(),
        "FORETUNE_THREADS": "1",
        "FORETUNE_MAX_IMAGES": "40",
        "FORETUNE_BATCH_SIZE": "8",
        "FORETUNE_TEST_SLOW": str(slow),
        "PYTHONPATH": str(Path(sabotage.__path__[0])),
    }
    objects = Objects((disk / "objects").as_uri())
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        dataset = upload(client)
        slow.write_text("0.3")
        selection = select(client, dataset, models=list(ARCHITECTURES[:1]))
        wait_for(lambda: "extracting" in current(client, selection))
        ballast = fill(disk)
        before = objects.keys()
        assert_problem(client.post("/v1/datasets", content=large_archive()), 507, "storage_full")
        wait_for(lambda: current(client, selection) == ["waiting for room in the object store"], 60)
        assert objects.keys() == before, "nothing half-written is taken for an object"
        time.sleep(3)
        assert current(client, selection) == ["waiting for room in the object store"], "it waits as long as it takes"
        assert client.get("/readyz").json()["checks"]["objects"] != "ok"
        ballast.unlink()
        (row,) = finished(client, selection)["data"]
        assert row["status"] == "done"
        arrived = client.post("/v1/datasets", content=large_archive())
        assert arrived.status_code == 202, arrived.text
        wait_for(lambda: client.get(arrived.json()["links"]["self"]).json()["status"] == "rejected")
        assert not list((disk / "objects" / "drafts").iterdir())
        assert client.get("/readyz").json()["status"] == "ready"
        events = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
        assert [one["event"] for one in events].count("job.failed") == 0, "no failure was counted"
