"""Rounds of faults on a stack in use, each until the stack has recovered; in between, everything is examined."""

import random
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.domain.states import EvaluationState
from app.storage.database import Database, database_now
from app.storage.tables import Worker
from tests.chaos.contents import CONTENTS, archive
from tests.chaos.faults import FAULTS, Deck, Fault, Keeper
from tests.chaos.requests import Answers
from tests.chaos.users import Asked, Memory, Ranking, User, ranking_of
from tests.chaos.verdict import Broken, Verdict, examine
from tests.fixtures.stack import Stack
from tests.fixtures.story import finished, prepared, wait_for_zoo
from tests.fixtures.story import select as ask

RECOVERY_SECONDS = 180
EXAMINE_EVERY = 10
_TWO_AT_ONCE = 0.2
_CALM_SECONDS = 3
"""In which workers notice that what they do was cancelled."""
_PATIENCE_SECONDS = 30
"""With the object store while it is examined: what is looked for is not how fast it lists everything."""


class Rounds:
    """One run: users, faults, and what was found."""

    def __init__(self, stack: Stack, console: Console, *, seed: int, users: int) -> None:
        """Nothing happens yet; everything is chosen by ``seed``."""
        self._stack = stack
        self._console = console
        self._chance = random.Random(seed)
        self._deck = Deck(self._chance)
        self._memory, self._answers, self._verdict = Memory(), Answers(), Verdict()
        self._users = [
            User(stack, self._memory, self._answers, f"user-{number}", f"{seed}-{number}") for number in range(users)
        ]
        self._keeper = Keeper(stack)
        self._faults: Counter[str] = Counter()
        self._cuts = 0
        self._recoveries: list[tuple[float, str]] = []

    def run(self, rounds: int) -> None:
        """Strike so often, and examine what is left."""
        self._console.print("Ranking every data set once, undisturbed ...")
        self._reference = self._rank_undisturbed()
        self._keeper.start()
        for user in self._users:
            user.start()
        try:
            for number in range(1, rounds + 1):
                is_well = self._round(f"{number:3}/{rounds}")
                is_last = number == rounds or not is_well or bool(self._memory.complaints)
                if is_last or number % EXAMINE_EVERY == 0:
                    self._examine()
                if is_last or self._verdict.broken:
                    break
                for user in self._users:
                    user.go_on()
        finally:
            self._keeper.stop()

    def broken(self) -> list[Broken]:
        """Return what must not be."""
        complaints = [Broken("lost", what) for what in self._memory.complaints]
        return [*self._verdict.broken, *complaints, *(Broken("error", what) for what in self._answers.errors)]

    def table(self) -> Table:
        """Return the counts of the whole run."""
        memory, verdict = self._memory, self._verdict
        broken = Counter(one.kind for one in self.broken())
        longest, after = max(self._recoveries, default=(0.0, "no fault"))
        table = Table("what", "count", title="Chaos")
        table.columns[1].justify = "right"
        rows: list[tuple[str, object]] = [
            ("rounds", len(self._recoveries)),
            ("faults", self._faults.total()),
            *((f"  {fault.name}", self._faults[fault.name]) for fault in FAULTS),
            ("processes started again by the restart policy", self._keeper.restarts),
            ("uploads accepted", len(memory.datasets)),
            ("  deleted by users", len(memory.deleted)),
            ("selections", len(memory.selections)),
            ("  cancelled by users", sum(one.is_cancelled for one in memory.selections.values())),
            ("evaluations done", verdict.evaluations[EvaluationState.DONE]),
            ("  cancelled", verdict.evaluations[EvaluationState.CANCELLED]),
            ("  given up: four workers were killed while they held it", verdict.given_up),
            ("rankings compared with those of an undisturbed run", len(memory.rankings)),
            ("requests sent again: no connection", self._answers.statuses[0]),
            ("requests sent again: 503", self._answers.statuses[503]),
            ("objects left by killed processes, collected", verdict.collected),
            ("lost", broken["lost"]),
            ("doubled", broken["doubled"]),
            ("orphan objects", broken["orphaned"]),
            ("rankings that differ", broken["different"]),
            ("failed because of a fault", broken["failed"]),
            ("stuck", broken["stuck"]),
            ("server errors other than 503 with a problem", broken["error"]),
            (f"longest recovery, seconds (after: {after})", f"{longest:.1f}"),
        ]
        for what, count in rows:
            table.add_row(what, str(count))
        return table

    def _rank_undisturbed(self) -> dict[int, Ranking]:
        reference = {}
        with self._stack.clients(180)[0] as client:
            wait_for_zoo(client)
            asked = {}
            for content in range(CONTENTS):
                dataset = prepared(client, archive(content, "reference"))["id"]
                selection = ask(client, dataset)
                asked[selection] = dataset, content
            for selection, (dataset, content) in asked.items():
                reference[content] = ranking_of(finished(client, selection))
                client.delete(f"/v1/datasets/{dataset}").raise_for_status()
                self._memory.datasets[dataset] = content
                self._memory.deleted.add(dataset)
                self._memory.selections[selection] = Asked(dataset, content)
                self._memory.rankings[selection] = reference[content]
        return reference

    def _round(self, number: str) -> bool:
        faults = [self._deck.deal()]
        if self._chance.random() < _TWO_AT_ONCE:
            faults.append(self._deck.deal(beside=faults[0]))
        started = time.monotonic()
        chances = [random.Random(self._chance.random()) for _ in faults]
        with ThreadPoolExecutor(len(faults)) as pool:
            list(pool.map(self._strike, faults, chances))
        name = " and ".join(fault.name for fault in faults)
        struck = time.monotonic() - started
        is_well = self._wait_until_recovered(name)
        recovery = time.monotonic() - started - struck
        self._recoveries.append((recovery, name))
        counts = (
            f"{len(self._memory.datasets)} uploads, {len(self._memory.rankings)} rankings, "
            f"{len(self._memory.deleted)} deleted"
        )
        self._console.print(f"{number}  {name:56} {struck:4.1f} s, well after {recovery:5.1f} s  {counts}")
        time.sleep(self._chance.uniform(0, 1))
        return is_well

    def _strike(self, fault: Fault, chance: random.Random) -> None:
        self._faults[fault.name] += 1
        self._cuts += fault.cuts
        try:
            fault.strike(self._stack, chance)
        except (subprocess.SubprocessError, psycopg.Error) as error:
            self._verdict.broken.append(Broken("stuck", f"{fault.name}: {error}"))

    def _wait_until_recovered(self, after: str) -> bool:
        """Wait until both workers were seen, each API process is ready, and one more story has come to its end."""
        until = time.monotonic() + RECOVERY_SECONDS
        began_at: float | None = None
        stories = self._memory.stories.total()
        database = Database(self._stack.settings.database_url)
        waiting = "PostgreSQL"
        try:
            while time.monotonic() < until:
                try:
                    with database.read() as session:
                        if began_at is None:
                            began_at = session.scalars(select(database_now())).one()
                        seen = len(session.scalars(select(Worker.name).where(Worker.seen_at > began_at)).all())
                except SQLAlchemyError:
                    time.sleep(0.2)
                    continue
                if seen < len(self._stack.workers):
                    waiting = f"{len(self._stack.workers) - seen} workers"
                elif not all(map(_is_ready, self._stack.urls)):
                    waiting = "an API process"
                elif self._memory.stories.total() == stories:
                    waiting = "any user's story to end"
                else:
                    return True
                time.sleep(0.2)
        finally:
            database.close()
        what = f"{RECOVERY_SECONDS} s after {after}, still waiting for {waiting}"
        self._verdict.broken.append(Broken("stuck", what))
        return False

    def _examine(self) -> None:
        started = time.monotonic()
        for user in self._users:
            user.rest()
        busy = [user.name for user in self._users if not user.wait_until_resting(RECOVERY_SECONDS)]
        if busy:
            what = f"{', '.join(busy)} waits for something that does not end"
            self._verdict.broken.append(Broken("stuck", what))
        time.sleep(_CALM_SECONDS)
        patient = self._stack.settings.model_copy(update={"objects_timeout_seconds": _PATIENCE_SECONDS})
        examine(replace(self._stack, settings=patient), self._memory, self._reference, self._verdict, cuts=self._cuts)
        state = "everything holds" if not self.broken() else "[red]something is broken[/red]"
        self._console.print(f"         examined in {time.monotonic() - started:.1f} s: {state}")


def _is_ready(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/readyz", timeout=10).json()["status"] == "ready")
    except httpx.TransportError:
        return False
