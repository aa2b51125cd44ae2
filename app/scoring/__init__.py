"""Scores: how well a model's features fit a user's labels, one pure function a file.

    compute("lfc", features_ND, labels_N)                one score on one feature matrix
    measure("lfc", Panel(features_ND, labels_N))         the same, for several scores on the same features

``registry.SCORES`` lists every score. Importing this package, or the list, loads no numpy: the service that only reads
statements starts sooner. A score's own module is loaded when the score is first computed.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.scoring.contract import Result, Score
    from app.scoring.inputs import SourceClasses
    from app.scoring.measurement import compute, measure
    from app.scoring.panel import Panel
    from app.scoring.registry import SCORES, find
    from app.scoring.zoo_relative import compare

_HOMES = {
    "Result": "contract",
    "Score": "contract",
    "compare": "zoo_relative",
    "compute": "measurement",
    "measure": "measurement",
    "Panel": "panel",
    "SourceClasses": "inputs",
    "SCORES": "registry",
    "find": "registry",
}

__all__ = ["SCORES", "Panel", "Result", "Score", "SourceClasses", "compare", "compute", "find", "measure"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
