"""Scores: how well a model's features fit a user's labels, one pure function a file.

    compute("lfc", features_ND, labels_N)                one score on one feature matrix
    measure("lfc", Panel(features_ND, labels_N))         the same, for several scores on the same features

``registry.SCORES`` lists every score. Importing this package loads numpy alone: a score's own module, and scipy or
scikit-learn with it, is loaded when the score is first computed.
"""

from app.scoring.contract import Result, Score
from app.scoring.measurement import compute, measure
from app.scoring.panel import Panel
from app.scoring.registry import SCORES, find

__all__ = ["SCORES", "Panel", "Result", "Score", "compute", "find", "measure"]
