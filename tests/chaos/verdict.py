"""What must hold once everything has ended: the database, the store and the logs against what users were told."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from app.domain.states import (
    DATASET_GONE,
    EVALUATION_TERMINAL,
    RETRY_BUDGET,
    DatasetState,
    EvaluationState,
    SelectionState,
)
from app.storage.database import Database
from app.storage.tables import Dataset, Evaluation, Selection
from tests.chaos.contents import BAD
from tests.chaos.users import Memory, Ranking
from tests.fixtures.invariants import PATIENCE_SECONDS, Doubled, Lost, Orphaned, Stuck, assert_nothing_lost
from tests.fixtures.stack import Stack

_LOST = "worker_lost"
_ROUNDING = 1e-5
"""Features are float32, and a network's pass adds up in another order where memory lies otherwise."""


@dataclass(frozen=True)
class Broken:
    """Something that must not be: what kind of it, and which.

    ``kind`` is lost, doubled, orphaned, different (from an undisturbed run), failed, or stuck.
    """

    kind: str
    what: str


@dataclass
class Verdict:
    """What was found, over all looks at the stack.

    Attributes:
        broken: whatever does not hold.
        evaluations: rows by state, deleted data sets' included.
        given_up: jobs that ended because their workers were killed more often than their budget allows.
        collected: objects that killed processes had left, and that the collection of orphans removed.
    """

    broken: list[Broken] = field(default_factory=list)
    evaluations: Counter[str] = field(default_factory=Counter)
    given_up: int = 0
    collected: int = 0


def examine(
    stack: Stack,
    memory: Memory,
    reference: dict[int, Ranking],
    verdict: Verdict,
    *,
    cuts: int = 0,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Look at a stack that nobody uses at the moment, and add what was found.

    Args:
        stack: whose servers and processes all run again.
        memory: what users were told.
        reference: for each content, the ranking of a run in which nothing broke.
        verdict: what was found before; it is added to.
        cuts: how many workers may have been cut off between the end of a job and the log line about it.
        patience_seconds: how long it may take until everything has ended.
    """
    found = []
    try:
        verdict.collected += assert_nothing_lost(stack, cuts=cuts, patience_seconds=patience_seconds).collected
    except (Stuck, Lost, Doubled, Orphaned) as error:
        found.append(Broken(type(error).__name__.lower(), str(error)))
    database = Database(stack.settings.database_url)
    try:
        with database.read() as session:
            datasets = {row.id: row for row in session.scalars(select(Dataset))}
            selections = {row.id: row for row in session.scalars(select(Selection))}
            evaluations = list(session.scalars(select(Evaluation)))
    finally:
        database.close()
    jobs: list[Dataset | Evaluation] = [*datasets.values(), *evaluations]
    given_up = {job.id for job in jobs if _is_given_up(job)}
    verdict.given_up = len(given_up)
    verdict.evaluations = Counter(row.state for row in evaluations)
    found += _of_datasets(datasets, memory, given_up)
    found += _of_selections(selections, evaluations, memory, given_up)
    found += _of_rankings(memory, reference)
    verdict.broken += [one for one in found if one not in verdict.broken]


def _of_datasets(datasets: dict[str, Dataset], memory: Memory, given_up: set[str]) -> list[Broken]:
    there = {
        id_ for id_, row in datasets.items() if row.state not in DATASET_GONE and row.state != DatasetState.RECEIVING
    }
    expected = memory.datasets.keys() - memory.deleted
    broken = [Broken("lost", f"data set {id_} was accepted and is not there") for id_ in sorted(expected - there)]
    broken += [
        Broken("doubled", f"nobody was told of data set {id_}, or it was deleted") for id_ in sorted(there - expected)
    ]
    for id_ in sorted((expected & there) - given_up):
        row, content = datasets[id_], memory.datasets[id_]
        state = DatasetState.REJECTED if content == BAD else DatasetState.READY
        if row.state != state:
            broken.append(Broken("lost", f"data set {id_} is {row.state}, not {state}: {row.error}"))
    return broken


def _of_selections(
    selections: dict[str, Selection], evaluations: list[Evaluation], memory: Memory, given_up: set[str]
) -> list[Broken]:
    expected, there = memory.selections.keys(), selections.keys()
    broken = [Broken("lost", f"selection {id_} was accepted and is not there") for id_ in sorted(expected - there)]
    broken += [Broken("doubled", f"nobody was told of selection {id_}") for id_ in sorted(there - expected)]
    states: dict[str, list[str]] = {id_: [] for id_ in there}
    for row in evaluations:
        states[row.selection_id].append(row.state)
        if row.state not in EVALUATION_TERMINAL:
            broken.append(Broken("lost", f"evaluation {row.id} is still {row.state}"))
        if row.state == EvaluationState.FAILED and row.id not in given_up:
            broken.append(Broken("failed", f"evaluation {row.id}: {row.error}, after {row.failures}"))
        over = {code: count for code, count in row.failures.items() if count > RETRY_BUDGET.get(code, 0)}
        if over and row.state != EvaluationState.FAILED:
            broken.append(Broken("failed", f"evaluation {row.id} is {row.state} beyond its retry budget: {over}"))
    for id_ in sorted(expected & there):
        selection = selections[id_]
        ends = {SelectionState.DONE, SelectionState.CANCELLED} if memory.selections[id_].is_cancelled else {"done"}
        if selection.state not in ends:
            broken.append(Broken("lost", f"selection {id_} is {selection.state}: {selection.error}"))
        if len(states[id_]) != selection.evaluations:
            broken.append(
                Broken("lost", f"selection {id_} has {len(states[id_])} of {selection.evaluations} evaluations")
            )
    return broken


def _of_rankings(memory: Memory, reference: dict[int, Ranking]) -> list[Broken]:
    broken = []
    for id_, ranking in memory.rankings.items():
        expected = reference[memory.selections[id_].content]
        if any(row["status"] == EvaluationState.FAILED for row in ranking.values()):
            continue  # told of with its evaluation
        different = [name for name in expected if not _are_equal(ranking.get(name, {}), expected[name])]
        if different or ranking.keys() != expected.keys():
            ours = {name: ranking.get(name) for name in different}
            theirs = {name: expected[name] for name in different}
            broken.append(Broken("different", f"selection {id_} says {ours}, an undisturbed run says {theirs}"))
    return broken


def _are_equal(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_are_equal(found[name], expected[name]) for name in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(_are_equal, found, expected))
    if isinstance(expected, float) and isinstance(found, float):
        return math.isclose(found, expected, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return bool(found == expected)


def _is_given_up(row: Dataset | Evaluation) -> bool:
    """Tell whether a job has ended because its workers were killed too often."""
    ended = row.state in (DatasetState.REJECTED, EvaluationState.FAILED)
    return ended and (row.error or {}).get("code") == _LOST and row.failures.get(_LOST, 0) > RETRY_BUDGET[_LOST]
