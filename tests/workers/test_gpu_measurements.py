"""``perf.gpu`` runs on a CPU too, if only to know that it will on a GPU."""

import sys

import pytest

from perf import gpu

TINY = "--device cpu --models timm:test_resnet --images 6 --side 32 --seconds 0.01 --batches 2 --threads 1 2"


def test_every_table_but_the_slow_one_is_filled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [name for name in gpu.TABLES if name != "compile"]
    monkeypatch.setattr(sys, "argv", ["gpu", *TINY.split(), "--parts", *parts])
    gpu.main()
    tables = capsys.readouterr().out.split("\n\n")
    assert [line.partition(":")[0] for line in tables[1::2]] == parts
    for table in tables[2::2]:
        rows = [line.split(" | ") for line in table.strip().splitlines()]
        assert len(rows) >= 3
        assert {len(row) for row in rows if "---" not in row[0]} == {len(rows[0])}
