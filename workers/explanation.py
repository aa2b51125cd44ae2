"""Why a model stands where it stands: the classes it tells apart, those it confuses, and what each adds to its LFC.

Legend: C classes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.scoring import Panel, Result
from app.scoring.confusions import confusions
from app.scoring.contributions import contributions

CORRELATION = "lfc_centered"
"""The label-feature correlation that is split: it is free of what all images have in common."""
_MOST_PAIRS = 100


def explanation(panel: Panel, probe: Result, labels_E: NDArray[np.int64]) -> dict[str, Any]:
    """Return held-out answers by class and the parts of a label-feature correlation, JSON-ready.

    Args:
        panel: the model's features.
        probe: its linear probe.
        labels_E: the data set's own labels of the evaluated images; a class none of them belongs to is left out.
    """
    label_C = np.unique(labels_E).tolist()
    assert probe.predicted_N is not None
    assert probe.held_out_N is not None
    answers = confusions(panel.labels_N, probe.predicted_N, probe.held_out_N, panel.num_classes)
    parts = contributions(CORRELATION, panel)
    first_P, second_P = np.triu_indices(panel.num_classes)
    shares_P = parts.pairs_CC[first_P, second_P] * np.where(first_P == second_P, 1, 2)
    order_P = np.argsort(-np.abs(shares_P), kind="stable")[:_MOST_PAIRS]
    return {
        "classes": [
            {"label": label_C[label], "held_out": held_out, "right": right, "contribution": float(contribution)}
            for label, (held_out, right, contribution) in enumerate(
                zip(answers.held_out, answers.right, parts.by_class, strict=True)
            )
        ],
        "confusions": [
            {"label": label_C[pair.label], "predicted": label_C[pair.predicted], "images": pair.images}
            for pair in answers.pairs[:_MOST_PAIRS]
        ],
        "correlation": {
            "score": CORRELATION,
            "value": float(parts.pairs_CC.sum()),
            "pairs": [
                {"labels": [label_C[first_P[p]], label_C[second_P[p]]], "contribution": float(shares_P[p])}
                for p in order_P
            ],
        },
    }
