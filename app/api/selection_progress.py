"""How far a selection has come: its evaluations, and the fine-tune that proves it."""

from collections import Counter

from pydantic import BaseModel, Field

from app.api.envelopes import Progress
from app.domain.states import EVALUATION_TERMINAL, FINETUNE_TERMINAL, SELECTION_TERMINAL, EvaluationState
from app.scoring.registry import find
from app.storage.repositories.evaluation_progress import EvaluationProgress
from app.storage.repositories.finetunes import ProofProgress
from app.storage.tables import Selection

_Stages = dict[str, tuple[float, float]]
_STAGES: _Stages = {"loading": (0.0, 0.0), "extracting": (0.0, 1.0), "scoring": (1.0, 0.0)}
_STAGES_WITH_GRADIENTS: _Stages = {
    "loading": (0.0, 0.0),
    "extracting": (0.0, 0.2),
    "gradients": (0.2, 0.3),
    "scoring": (0.5, 0.0),
    "linearising": (0.5, 0.4),
    "timing": (0.9, 0.1),
}
"""Share of an evaluation's work that lies behind a stage, and that is done in it, about."""

_SHARE_OF_PROOF = 0.5
"""Of the work of a selection that is to be proven. What training costs is not known before it has begun."""


class Counts(BaseModel):
    """How many models stand where."""

    total: int
    queued: int = 0
    running: int = 0
    waiting: int = Field(default=0, description="In a race: seen on a subset; the others are to see it, too.")
    done: int = 0
    eliminated: int = Field(default=0, description="Dropped from a race.")
    over_budget: int = Field(default=0, description="Stopped because the budget was spent.")
    failed: int = 0
    cancelled: int = 0
    cached: int = 0


class Current(BaseModel):
    """A model that is being evaluated."""

    model: str
    name: str
    stage: str
    done: int
    total: int


class SelectionProgress(BaseModel):
    """How far a selection has come."""

    models: Counts
    fraction: float = Field(
        description="Of the evaluations' work; with `verify` they are one half, and the fine-tune is the other."
    )
    current: list[Current]


class Proof(BaseModel):
    """The fine-tune of the first models, from when it was begun on."""

    finetune: str
    status: str
    progress: Progress | None = Field(description="What is being trained just now.")


def proof_view(proof: ProofProgress | None) -> Proof | None:
    """Return the proof of a selection as users see it."""
    if proof is None:
        return None
    return Proof(finetune=proof.id, status=proof.state, progress=Progress(**proof.progress) if proof.progress else None)


def progress_view(
    selection: Selection, evaluations: list[EvaluationProgress], proof: ProofProgress | None
) -> SelectionProgress:
    """Return how far a selection has come.

    With ``verify``, evaluations are the first half of the work and the proof is the second, of which every model that
    ended is a part; the last part is done when the proof has ended, and never before.
    """
    counts = Counter(evaluation.state for evaluation in evaluations)
    running = [evaluation for evaluation in evaluations if evaluation.state == EvaluationState.RUNNING]
    current = [Current(model=e.model_id, name=e.name, **e.progress) for e in running if e.progress]
    cached = sum(bool(e.progress and e.progress.get("stage") == "cached") for e in evaluations)
    looks, stages = selection.looks or [], _stages(selection)
    fraction = sum(_share_done(e, looks, stages) for e in evaluations) / max(len(evaluations), 1)
    if selection.verify and selection.state not in SELECTION_TERMINAL:
        fraction = (1 - _SHARE_OF_PROOF) * fraction + _SHARE_OF_PROOF * _share_proven(proof)
    return SelectionProgress(
        models=Counts(total=len(evaluations), cached=cached, **counts), fraction=round(fraction, 4), current=current
    )


def _stages(selection: Selection) -> _Stages:
    has_gradients = selection.target is not None or any(find(name).needs_gradients for name in selection.scores)
    return _STAGES_WITH_GRADIENTS if has_gradients else _STAGES


def _share_done(evaluation: EvaluationProgress, looks: list[int], stages: _Stages) -> float:
    """Return how much of its work an evaluation has behind it; that of a look is the images it adds."""
    if evaluation.state in EVALUATION_TERMINAL:
        return 1.0
    behind = looks[evaluation.look - 1] / looks[-1] if evaluation.look else 0.0
    after = looks[evaluation.look] / looks[-1] if looks else 1.0
    if evaluation.state == EvaluationState.RUNNING and evaluation.progress:
        progress = evaluation.progress
        before, in_stage = stages.get(progress["stage"], (0.0, 1.0))
        seen: float = before + in_stage * progress["done"] / max(progress["total"], 1)
        return max(behind, seen * after)
    return behind


def _share_proven(proof: ProofProgress | None) -> float:
    if proof is None:
        return 0.0
    return 1.0 if proof.state in FINETUNE_TERMINAL else proof.ended / (proof.asked + 1)
