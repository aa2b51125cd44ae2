import io
from typing import Any

import pytest
from rich.console import Console

from app.cli.ranking_table import ranking_table
from app.client import Results


def row(rank: int | None, name: str, group: int | None, **more: Any) -> dict[str, Any]:
    accuracy = {"mean": 0.9, "interval": [0.85, 0.95], "level": 0.9, "origin": "probe"}
    scores = {name: {"value": 0.5, "stderr": None} for name in ("lfc", "lfc_centered", "logme", "knn", "linear_probe")}
    return {
        "rank": rank,
        "rank_interval": [1, 2] if rank else None,
        "tie_group": group,
        "model": f"mdl_{name}",
        "name": name,
        "version": 1,
        "parameters": 5_416_680,
        "license": "MIT",
        "pretraining": ["imagenet-1k", "stanford-dogs"],
        "probability_of_best": 0.5 if rank else None,
        "probability_of_top_k": 0.5 if rank else None,
        "probe_accuracy": accuracy if rank else None,
        "scores": scores if rank else {},
        "seconds": None,
        "cached": None,
        "status": "done" if rank else "queued",
        "error": None,
    } | more


def ranking(*rows: dict[str, Any], **more: Any) -> Results:
    values = {
        "selection": "sel_1",
        "revision": 3,
        "final": True,
        "status": "done",
        "ranked_by": "linear_probe",
        "verdict": "2 models are statistically tied at the top; b is the smallest of them.",
        "evidence": {"level": 0.9, "images": {"evaluated": 400, "in_dataset": 500, "split": "train"}},
        "data": rows,
    }
    return Results.model_validate(values | more)


def lines(results: Results, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), markup=False, highlight=False)
    console.print(ranking_table(results, console))
    return console.file.getvalue().splitlines()


RANKED = (row(1, "efficientnet-lite1", 1), row(2, "mobilenetv2-imagenet", 1), row(3, "vgg16-hed-edges", 2))


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_names_and_accuracies_are_whole_at_every_width(width: int) -> None:
    shown = lines(ranking(*RANKED), width)
    assert max(len(line) for line in shown) <= width
    for name in ("efficientnet-lite1", "mobilenetv2-imagenet", "vgg16-hed-edges"):
        assert sum(name in line and "90.0% (85.0-95.0)" in line for line in shown) == 1


def test_wider_terminals_show_more_scores() -> None:
    headers = [next(line for line in lines(ranking(*RANKED), width) if "#" in line) for width in (60, 86, 100, 160)]
    assert [sum(name in header for name in ("k-NN", "LogME", "LFC-c", "LFC")) for header in headers] == [0, 2, 4, 4]
    assert "5.4 M" in "".join(lines(ranking(*RANKED), 100))


def test_a_line_stands_between_tie_groups_only() -> None:
    shown = lines(ranking(*RANKED), 100)
    rules = [number for number, line in enumerate(shown) if line.startswith("──")]
    first, second, third = (
        next(n for n, line in enumerate(shown) if name in line) for name in ("lite1", "v2-i", "vgg")
    )
    assert [sum(start < rule < end for rule in rules) for start, end in ((first, second), (second, third))] == [0, 1]


def test_what_is_not_ranked_is_told_below() -> None:
    error = {"code": "out_of_memory", "message": "It does not fit.", "hint": "Use a smaller model."}
    failed = row(None, "huge", None, status="failed", error=error)
    text = "\n".join(lines(ranking(*RANKED, row(None, "later", None), failed, final=False, status="running"), 100))
    assert "This ranking is not final; still open: later." in text
    assert "huge failed: It does not fit. (out_of_memory)\n  Use a smaller model." in text
    assert "Measured on 400 of the 500 images (split train)." in text


def test_a_name_cannot_control_the_terminal() -> None:
    text = "\n".join(lines(ranking(row(1, "evil\x1b[2J[red]", 1), verdict="\x1b[31mwell"), 100))
    assert "\x1b" not in text
    assert "evil\N{REPLACEMENT CHARACTER}[2J[red]" in text


def test_nothing_is_ranked_yet() -> None:
    text = lines(ranking(row(None, "a", None), verdict=None, final=False, status="running", evidence={}), 100)
    assert text == ["Nothing is ranked yet.", "This ranking is not final; still open: a."]


def test_a_race_shows_on_how_many_images_each_place_rests() -> None:
    dropped = row(3, "vgg16-hed-edges", 2, images=128, status="eliminated")
    evidence = {"level": 0.9, "race": {"keep": 3, "error_probability": 0.05, "looks": [64, 128, 400]}}
    results = ranking(row(1, "a", 1, images=400), row(2, "b", 1, images=400), dropped, evidence=evidence)
    shown = lines(results, 100)
    assert any("images" in line for line in shown)
    assert any("vgg16-hed-edges" in line and "128" in line for line in shown)
    assert "at most 5%" in " ".join(" ".join(shown).split())
    assert not any("images " in line for line in lines(ranking(*RANKED), 100) if "range" in line)


def test_a_spent_budget_is_named() -> None:
    results = ranking(row(1, "a", 1), row(None, "b", None, status="over_budget"))
    assert "Not evaluated, for the budget was spent: b." in "\n".join(lines(results, 100))


def test_what_was_not_computed_in_float32_is_named() -> None:
    reduced = {"used": "float16", "wanted": "float16", "images": 16, "relative_error": 0.004, "same_neighbours": 1.0}
    refused = reduced | {"used": "float32", "reason": "features err by 9 %"}
    rows = (row(1, "narrow", 1, precision=reduced), row(2, "wide", 1, precision=refused), row(3, "old", 1))
    told = [line for line in lines(ranking(*rows), 160) if "float" in line]
    assert told == ["Features computed in float16, after a check against float32: narrow."]
    assert "float" not in " ".join(lines(ranking(*RANKED), 160))
