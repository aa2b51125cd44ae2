"""How long it takes to choose a job and claim it among 100,000 open evaluations, on PostgreSQL and on SQLite.

With the plans of what is asked for a claim, and the times of what workers, monitoring and admins ask of such a queue.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import event

from app.storage import doorbells, fair_order, leases
from app.storage.database import Database
from app.storage.leases import EVALUATION
from app.storage.migrate import upgrade
from app.storage.repositories import due_rankings, queue
from app.storage.repositories.evaluations import next_of_model
from app.storage.tables import Evaluation
from perf.open_evaluations import fill
from tests.fixtures.servers import postgres
from tests.fixtures.service import own_database

LIMIT = 16  # doorbells on their way, of four workers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--open", type=int, default=100_000)
    parser.add_argument("--ended", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--claims", type=int, default=2_000)
    parser.add_argument("--asked", type=int, default=50, help="how often the queue is looked at")
    parser.add_argument("--plans", action="store_true", help="print PostgreSQL's plans")
    options = parser.parse_args()
    print(f"{options.open} open evaluations beside {options.ended} that ended, {options.tenants} tenants.\n")
    print("| database | what | times | p50 ms | p99 ms | most ms |\n|---|---|--:|--:|--:|--:|")
    plans = []
    with (
        postgres() as server,
        own_database(server.url, "perf") as postgres_url,
        tempfile.TemporaryDirectory() as folder,
    ):
        for name, url in (("PostgreSQL", postgres_url), ("SQLite", f"sqlite:///{Path(folder, 'perf.db')}")):
            database = Database(url)
            upgrade(database)
            fill(
                database,
                tenants=options.tenants,
                models=options.models,
                open_evaluations=options.open,
                ended_evaluations=options.ended,
            )
            for what, seconds in measured(database, options):
                print(f"| {name} | {what} | {len(seconds)} | {in_ms(sorted(seconds))} |", flush=True)
            if not database.is_sqlite:
                plans = [plan for _, plan in plans_of(database, partial(claim, database))]
            database.close()
    if options.plans:
        print("\n" + "\n\n".join(plans))


def measured(database: Database, options: argparse.Namespace) -> Iterator[tuple[str, list[float]]]:
    """Yield what was asked of the database, and the seconds of each time."""
    with database.read() as session:
        model_id = session.query(Evaluation.model_id).limit(1).scalar()

    def reading(ask: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[[], None]:
        def once() -> None:
            with database.read() as session:
                ask(session, *arguments, **named)

        return once

    def ring() -> None:
        with database.write() as session:
            leases.free_expired(session, EVALUATION)
            doorbells.ring_due(session, EVALUATION, ring_again_seconds=20, limit=LIMIT)

    yield "choose and claim", timed(partial(claim, database), options.claims)
    yield "look for work", timed(reading(fair_order.waits, EVALUATION), options.asked)
    yield "next of a model", timed(reading(next_of_model, model_id), options.asked)
    yield (
        "sweep: is there anything to ring",
        timed(reading(doorbells.has_due, EVALUATION, ring_again_seconds=20, limit=LIMIT), options.asked),
    )
    yield "sweep: free and ring", timed(ring, options.asked)
    yield "sweep of one worker: what is to be ranked", timed(reading(due_rankings.unsettled), options.asked)
    yield "metrics: queue depth", timed(reading(queue.depths), options.asked)
    yield "admin queue: by tenant", timed(reading(queue.tenants), options.asked)
    yield "admin queue: what is held", timed(reading(queue.held), options.asked)


def claim(database: Database) -> None:
    """Choose the job whose turn it is and take it, as a worker does."""
    with database.write() as session:
        job_id = fair_order.take_turn(session, EVALUATION)
        assert job_id is not None
        assert leases.claim(session, EVALUATION, job_id, holder="host/0", seconds=60)


def timed(act: Callable[[], None], times: int) -> list[float]:
    """Return the seconds of each time, after a few that do not count."""
    for _ in range(10):
        act()
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - started)
    return seconds


def plans_of(database: Database, act: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """Yield every statement of ``act`` that reads or writes evaluations, and PostgreSQL's plan with what it did."""
    with statements_of(database) as statements:
        act()
    for statement, parameters in statements:
        if "evaluations" in statement:
            with database.writing_engine.connect() as connection:
                rows = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS) {statement}", parameters)
                yield statement, f"{statement}\n\n" + "\n".join(row[0] for row in rows)
                connection.rollback()


@contextmanager
def statements_of(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Yield a list that is filled with the statements that the block sends, and their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def in_ms(seconds: list[float]) -> str:
    p99 = seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]
    return " | ".join(f"{1000 * value:.2f}" for value in (statistics.median(seconds), p99, seconds[-1]))


if __name__ == "__main__":
    main()
