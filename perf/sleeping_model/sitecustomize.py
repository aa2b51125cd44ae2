"""Makes the measuring of a model take FORETUNE_PERF_SLEEP_SECONDS: the worker sleeps, and keeps made-up scores.

Python imports this by itself in every process that has this folder on its path. All that is left of an evaluation is
what is not the model's: claiming, holding and ending the job, looking for kept scores, ranking.
"""

import os
import time
from pathlib import Path

_IMAGES, _CLASSES = 200, 10

if b"celery" in Path("/proc/self/cmdline").read_bytes():
    import numpy as np

    from workers import evaluate
    from workers.feature_cache import ScoredModel, store_scores

    def _sleep(subject: "evaluate.Subject", task: "evaluate.Task", _known: ScoredModel | None) -> ScoredModel:
        until = time.monotonic() + float(os.environ["FORETUNE_PERF_SLEEP_SECONDS"])
        random = np.random.default_rng(int(task.spec.digest[:12], 16))
        correct_E = random.random(_IMAGES) < random.uniform(0.3, 0.9)
        told = {"value": float(correct_E.mean()), "stderr": 0.03, "null_value": 0.1, "warnings": []}
        scored = ScoredModel(
            scores=dict.fromkeys(task.scores, told),
            labels_E=np.arange(_IMAGES) % _CLASSES,
            correct_E=correct_E,
            held_out_E=np.ones(_IMAGES, dtype=bool),
            units_E=np.arange(_IMAGES),
            images={"evaluated": _IMAGES, "in_dataset": _IMAGES, "split": None, "near_duplicates": 0},
            seconds={"features": 0.1, "score": 0.0},
            precision={"used": "float32"},
        )
        store_scores(subject.runtime.objects, subject.key, scored)
        time.sleep(max(0.0, until - time.monotonic()))
        return scored

    evaluate._measure = _sleep
