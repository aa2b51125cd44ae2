"""Scores of gradients of chosen scalars, with respect to chosen parameters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.config import Settings
from app.scoring import Panel, find, measure
from tests.fixtures.subjects import make_subject
from tests.fixtures.weights import one_thread
from workers.extract.gradients import gradient_sketches, random_probes
from workers.extract.reuse import features_of
from workers.extract.ridge_head import ridge_head_DP
from workers.feature_cache import CacheKey
from workers.gradient_scores import gradient_scores

__all__ = ["one_thread"]

LGC = find("lgc_centered")


@pytest.mark.parametrize(
    "change", [{"gradient_images": 30}, {"gradient_scalars": "ridge_head"}, {"gradient_scope": "last_convolution"}]
)
def test_scores_of_other_gradients_are_kept_apart_and_features_are_not(tmp_path: Path, change: dict[str, Any]) -> None:
    settings = Settings(home=tmp_path)
    key, other = (
        CacheKey("data", "model", 1000, one.gradients) for one in (settings, settings.model_copy(update=change))
    )
    for name in ("kernels", "scores", "explanation"):
        assert getattr(key, name) != getattr(other, name)
    assert (key.extraction, key.units) == (other.extraction, other.units)
    assert key.linearisation(100) == other.linearisation(100)


@pytest.mark.parametrize("scalars", ["random", "ridge_head"])
@pytest.mark.parametrize("scope", ["all", "last_convolution"])
def test_the_settings_say_whose_gradients_are_scored(tmp_path: Path, scalars: str, scope: str) -> None:
    with make_subject(tmp_path, gradient_images=24, gradient_scalars=scalars, gradient_scope=scope) as subject:
        features_ED = features_of(subject, ()).features_ND
        units_E = np.arange(len(features_ED))
        found = gradient_scores(subject, [LGC], features_ED, units_E)["lgc_centered"]
        chosen = subject.chosen(24)
        features_GD = features_ED[np.searchsorted(subject.evaluated.rows_E, chosen.rows_E)]
        directions_DP = (
            random_probes(features_GD.shape[1], 4)
            if scalars == "random"
            else ridge_head_DP(features_GD, chosen.labels_E, 4)
        )
        sketches = gradient_sketches(
            subject.network,
            subject.decoded(chosen.rows_E.tolist()),
            directions_DP,
            batch_size=16,
            scope=scope,  # type: ignore[arg-type]
        )
        expected = measure(LGC.name, Panel(features_GD, chosen.labels_E, gradients=sketches.kernels())).value
        [kernels] = [key for key in subject.runtime.objects.keys("extractions") if "gradients" in key]
        again = gradient_scores(subject, [LGC], features_ED, units_E)["lgc_centered"]
    assert found["value"] == pytest.approx(expected, abs=1e-9)
    assert again == found
    assert kernels == subject.key.kernels
    assert f"{scalars}-{scope}-24" in kernels
    assert found["stderr"] > 0
