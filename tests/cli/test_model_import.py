"""``foretune models import``: a manifest, row by row."""

import json
from pathlib import Path

from tests.cli.conftest import Served
from tests.fixtures.rows import spec


def test_a_manifest_is_tried_and_registered(served: Served, tmp_path: Path) -> None:
    rows = [spec("imported").as_dict(), spec("faulty").as_dict() | {"architecture": "keras:x"}]
    file = tmp_path / "zoo.yaml"
    file.write_text(json.dumps({"models": rows}))
    tried = served.run("models", "import", str(file), "--dry-run")
    assert tried.code == 1
    assert "keras:x" in tried.out
    assert "Would be: 1 invalid, 1 new." in tried.err
    done = served.run("models", "import", str(file), "--json")
    assert done.code == 1
    assert [row["verdict"] for row in done.json["rows"]] == ["new", "invalid"]
    file.write_text(json.dumps({"models": rows[:1]}))
    again = served.run("models", "import", str(file))
    assert (again.code, "Done: 1 known." in again.err) == (0, True)


def test_what_cannot_be_read_is_told(served: Served, tmp_path: Path) -> None:
    missing = served.run("models", "import", str(tmp_path / "nothing.yaml"))
    assert missing.code == 1
    assert "nothing.yaml cannot be read" in missing.err
    (tmp_path / "list.yaml").write_text("- name: a")
    refused = served.run("models", "import", str(tmp_path / "list.yaml"))
    assert refused.code == 1
    assert "invalid_manifest" in refused.err
