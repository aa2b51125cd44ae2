from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.errors import DatasetRejected
from app.ingest.prepare import Prepared, prepare


@pytest.fixture
def prepare_bytes(tmp_path: Path) -> Callable[..., Prepared]:
    """Prepare an archive given as bytes, and see that a refusal leaves nothing behind."""

    def run(packed: bytes, **options) -> Prepared:
        archive = tmp_path / "upload"
        archive.write_bytes(packed)
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        before = sorted(workspace.iterdir())
        try:
            prepared = prepare(archive, workspace, **options)
        except BaseException:
            assert sorted(workspace.iterdir()) == before
            raise
        assert sorted(workspace.iterdir()) == [prepared.shard]
        return prepared

    return run


@pytest.fixture
def rejection(prepare_bytes) -> Callable[..., DatasetRejected]:
    """The rejection of an archive that must be refused."""

    def run(packed: bytes, **options) -> DatasetRejected:
        with pytest.raises(DatasetRejected) as caught:
            prepare_bytes(packed, **options)
        assert caught.value.hint
        return caught.value

    return run


@pytest.fixture
def read_back() -> Callable[[dict], dict]:
    """The parts of a report that most tests look at, in short forms."""

    def run(report: dict) -> dict:
        return {
            "layout": report["layout"],
            "root": report["root"],
            "classes": {entry["name"]: entry["count"] for entry in report["classes"]},
            "splits": report["splits"],
            "warnings": {entry["code"]: entry["count"] for entry in report["warnings"]},
        }

    return run
