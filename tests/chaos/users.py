"""Users who upload, ask for rankings, cancel, read and delete all the time, and remember what they were told."""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.contents import BAD, CONTENTS, archive
from tests.chaos.requests import Answers, GivenUp, Requests
from tests.fixtures.stack import Stack

PATIENCE_SECONDS = 300
ENDED = frozenset({"ready", "rejected", "done", "failed", "cancelled"})

Ranking = dict[str, dict[str, Any]]
"""What a ranking says of each model, by the model's name."""


@dataclass
class Asked:
    """A selection that was answered with 202."""

    dataset: str
    content: int
    is_cancelled: bool = False


@dataclass
class Memory:
    """What all users together were told.

    Attributes:
        datasets: content of each upload that was answered with 202 or 200, by id.
        deleted: of these, those whose deletion was answered.
        selections: each that was answered with 202, by id.
        rankings: what they ended with, as it was read at their end.
        complaints: whatever differs from what it should have been.
        stories: how many users' stories have come to their end.
    """

    datasets: dict[str, int] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    selections: dict[str, Asked] = field(default_factory=dict)
    rankings: dict[str, Ranking] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    stories: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


def ranking_of(results: dict[str, Any]) -> Ranking:
    """Return what has to be equal whenever the same models are ranked on the same images: places and all scores."""
    said = "rank", "rank_interval", "tie_group", "score", "probability_of_best", "images", "status"
    return {
        row["name"]: {name: row[name] for name in said}
        | {name: (score["value"], score["stderr"]) for name, score in row["scores"].items()}
        for row in results["data"]
    }


class User(threading.Thread):
    """One of them; ``rest`` lets the story end that has begun."""

    def __init__(self, stack: Stack, memory: Memory, answers: Answers, name: str, seed: str) -> None:
        """Choose everything by ``seed``; the order in which the service answers is what is left to chance."""
        super().__init__(name=name, daemon=True)
        self._chance = random.Random(seed)
        self._requests = Requests(stack, answers, self._chance, patience_seconds=PATIENCE_SECONDS)
        self._memory = memory
        self._number = 0
        self._may_go_on = threading.Event()
        self._rests = threading.Event()
        self._is_to_end = False
        self._may_go_on.set()

    def rest(self) -> None:
        """Begin no other story."""
        self._may_go_on.clear()

    def wait_until_resting(self, seconds: float) -> bool:
        """Tell whether the last story came to its end in time."""
        return self._rests.wait(seconds) or not self.is_alive()

    def go_on(self) -> None:
        """Begin the next story."""
        self._rests.clear()
        self._may_go_on.set()

    def stop(self) -> None:
        """End for good; it must be resting."""
        self._is_to_end = True
        self._may_go_on.set()
        self.join(10)
        self._requests.close()

    def run(self) -> None:
        """Live one story after the other."""
        while True:
            if not self._may_go_on.is_set():
                self._rests.set()
                self._may_go_on.wait()
            if self._is_to_end:
                return
            try:
                self._live()
            except GivenUp as error:
                self._complain(str(error))
            except Exception as error:  # noqa: BLE001  (an answer of no known shape is what this looks for)
                self._complain(f"{type(error).__name__}: {error}")

    def _live(self) -> None:
        self._number += 1
        content = BAD if self._chance.random() < 0.08 else self._chance.randrange(CONTENTS)
        dataset = self._upload(content)
        if content != BAD:
            selection = self._select(dataset, content)
            if self._chance.random() < 0.2:
                time.sleep(self._chance.random())
                self._cancel(selection)
            self._read_at_end(selection)
        if self._chance.random() < 0.7:
            self._delete(dataset)
        with self._memory.lock:
            self._memory.stories[self.name] += 1

    def _upload(self, content: int) -> str:
        packed = archive(content, f"{self.name}-{self._number}")
        answer = self._requests.post("/v1/datasets", content=packed)
        if answer.status_code not in (200, 202):
            raise AssertionError(f"an upload was answered with {answer.status_code}: {answer.text}")
        dataset = str(answer.json()["id"])
        with self._memory.lock:
            self._memory.datasets[dataset] = content
        ended = self._wait(f"/v1/datasets/{dataset}")
        expected = ("rejected", "too_few_classes") if content == BAD else ("ready", None)
        found = ended["status"], (ended["error"] or {}).get("code")
        if found != expected:
            raise AssertionError(f"data set {dataset} is {found}, not {expected}: {ended['error']}")
        return dataset

    def _select(self, dataset: str, content: int) -> str:
        answer = self._requests.post("/v1/selections", json={"dataset": dataset})
        if answer.status_code != 202:
            raise AssertionError(f"a selection on {dataset} was answered with {answer.status_code}: {answer.text}")
        selection = str(answer.json()["id"])
        with self._memory.lock:
            self._memory.selections[selection] = Asked(dataset, content)
        return selection

    def _cancel(self, selection: str) -> None:
        answer = self._requests.post(f"/v1/selections/{selection}/cancel")
        if answer.status_code != 202:
            raise AssertionError(f"cancelling {selection} was answered with {answer.status_code}: {answer.text}")
        self._memory.selections[selection].is_cancelled = True

    def _read_at_end(self, selection: str) -> None:
        ended = self._wait(f"/v1/selections/{selection}")
        results = self._requests.get(f"/v1/selections/{selection}/results").json()
        if results["final"] is not True:
            raise AssertionError(f"selection {selection} is {ended['status']}, and its ranking is not final")
        if ended["status"] == "done":
            with self._memory.lock:
                self._memory.rankings[selection] = ranking_of(results)

    def _delete(self, dataset: str) -> None:
        answer = self._requests.send("DELETE", f"/v1/datasets/{dataset}")
        if answer.status_code not in (204, 404):  # 404: it was carried out, and the answer did not arrive
            raise AssertionError(f"deleting {dataset} was answered with {answer.status_code}: {answer.text}")
        self._memory.deleted.add(dataset)

    def _wait(self, path: str) -> dict[str, Any]:
        """Poll until something has ended; its revision must never fall, whichever process answers."""
        until, revision = time.monotonic() + PATIENCE_SECONDS, 0
        while time.monotonic() < until:
            state: dict[str, Any] = self._requests.get(path, wait=self._chance.choice([0, 1, 5])).json()
            if state["revision"] < revision:
                raise AssertionError(f"{path} fell from revision {revision} to {state['revision']}")
            revision = state["revision"]
            if state["status"] in ENDED:
                return state
            time.sleep(0.1)
        raise GivenUp(f"{path} has not ended in {PATIENCE_SECONDS} s")

    def _complain(self, what: str) -> None:
        with self._memory.lock:
            self._memory.complaints.append(f"{self.name}: {what}")
