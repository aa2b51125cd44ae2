"""The page that explains a model's place."""

from rich.console import Console

from app.cli.explanation import _page
from app.client import Explanation


def explanation(*, alone: bool = False) -> Explanation:
    rival = None if alone else {"model": "mdl_2", "name": "wide", "rank": 2}
    return Explanation.model_validate(
        {
            "selection": "sel_1",
            "revision": 7,
            "model": {"model": "mdl_1", "name": "narrow", "rank": 1},
            "against": rival,
            "summary": "narrow does best on bag (98%) and worst on coat (60%).",
            "classes": [
                {
                    "name": "bag",
                    "held_out": 40,
                    "accuracy": 0.98,
                    "against": None if alone else 0.5,
                    "beyond_chance": not alone,
                    "contribution": 0.21,
                },
                {
                    "name": "[red]coat",
                    "held_out": 0,
                    "accuracy": None,
                    "against": None,
                    "beyond_chance": False,
                    "contribution": -0.02,
                },
            ],
            "confusions": [{"name": "[red]coat", "predicted": "bag", "images": 12, "share": 0.3}],
            "correlation": {"score": "lfc_centered", "value": 0.19, "pairs": []},
        }
    )


def text(found: Explanation) -> str:
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(_page(found))
    return captured.get()


def test_both_models_side_by_side() -> None:
    page = text(explanation())
    lines = [line.split() for line in page.splitlines()]
    assert ["class", "images", "narrow", "wide", "lfc_centered"] in lines
    assert ["bag", "40", "98%", "*", "50%", "+0.210"] in lines
    assert ["[red]coat", "0", "-", "-", "-0.020"] in lines
    assert ["[red]coat", "bag", "12", "30%"] in lines
    assert "more than two standard errors" in page
    assert "0.190" in page


def test_a_model_without_another_one() -> None:
    page = text(explanation(alone=True))
    assert ["class", "images", "narrow", "lfc_centered"] in [line.split() for line in page.splitlines()]
    assert "standard errors" not in page
