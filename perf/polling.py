"""A thousand clients that poll two API processes while a worker evaluates: latencies, errors, memory, processor time.

The stack is the one of docker-compose.yml: PostgreSQL, Redis, an S3 server, 2 API processes and a worker. Each client
has an API key of its own, so that the shipped rate limit is counted for each of them in Redis and refuses none. Most
ask every few seconds with the ETag that they know; some hold their requests with ``wait``, as ``app.client`` does. The
load comes from this process, on the same cores.
"""

import argparse
import asyncio
import itertools
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.storage.database import Database
from app.storage.repositories.keys import Keys
from app.storage.repositories.tenants import Tenants
from perf.processes import Processes, own_seconds, print_processes
from perf.zoo import finish, start_selection, wait_for_zoo
from tests.fixtures.stack import Stack, running_stack
from tests.fixtures.story import shuffled_labels, upload
from tests.fixtures.tiny_zoo import tiny_zoo

TENANTS = 20
HOLD_SECONDS = 20
"""As long as ``app.client`` asks for."""


@dataclass
class Tenant:
    """Whose selections some clients follow: always the latest."""

    name: str
    keys: list[str]
    selection: str = ""


@dataclass
class Polls:
    """What the polls of one kind came to: seconds from the moment a poll was due, and the statuses of the answers."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def row(self, name: str, seconds: float) -> str:
        """Return a row of the table."""
        count, known = sum(self.statuses.values()), self.statuses[304]
        errors = count - known - self.statuses[200]
        ordered = sorted(self.seconds) or [float("nan")]
        marks = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 for share in (0.5, 0.95, 0.99, 1)]
        cells = [name, f"{count:,}", f"{count / seconds:.0f}", f"{known / max(count, 1):.0%}"]
        return "| " + " | ".join([*cells, *(f"{mark:.0f}" for mark in marks), str(errors)]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--held", type=int, default=200, help="how many of them hold their requests")
    parser.add_argument("--interval", type=float, default=2.0, help="seconds between two polls of one of the others")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        zoo = Path(folder, "zoo")
        zoo.mkdir()
        environment = {"FORETUNE_ZOO_MANIFEST": str(tiny_zoo(zoo)), "FORETUNE_THREADS": "1"}
        with running_stack(Path(folder), workers=1, environment=environment) as stack:
            tenants = add_tenants(stack, options.clients)
            with working(stack, tenants) as selections:
                measure(stack, tenants, options)
            print(f"\nThe worker evaluated {len(selections)} selections of three models meanwhile.")


def add_tenants(stack: Stack, clients: int) -> list[Tenant]:
    database = Database(stack.settings.database_url)
    tenants = []
    with database.write() as session:
        keys = Keys(session, stack.settings.secret_bytes)
        for number in range(TENANTS):
            name = f"tenant-{number}"
            Tenants(session, actor="perf").ensure(name, stack.settings.tenant_quotas)
            own = range(number, clients, TENANTS)
            made = [keys.create(tenant=name, name=f"client {one}", scopes=["read", "write"])[1] for one in own]
            tenants.append(Tenant(name, made))
    database.close()
    return tenants


@contextmanager
def working(stack: Stack, tenants: list[Tenant]) -> Iterator[list[str]]:
    """Keep the worker busy with one tenant's selection after the other's; yield those that have ended."""
    clients = [stack.clients()[0] for _ in tenants]
    for client, tenant in zip(clients, tenants, strict=True):
        client.headers["Authorization"] = f"Bearer {tenant.keys[0]}"
    wait_for_zoo(clients[0])
    sample = shuffled_labels(0)
    for client, tenant in zip(clients, tenants, strict=True):
        tenant.selection = start_selection(client, upload(client, sample))
    finish(clients[-1], tenants[-1].selection)
    ended: list[str] = []
    over = threading.Event()

    def work() -> None:
        for number, (client, tenant) in enumerate(itertools.cycle(zip(clients, tenants, strict=True))):
            if over.is_set():
                return
            tenant.selection = start_selection(client, upload(client, shuffled_labels(1 + number)))  # not cached
            finish(client, tenant.selection)
            ended.append(tenant.selection)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield ended
    finally:
        over.set()
        worker.join()
        for client in clients:
            client.close()


def measure(stack: Stack, tenants: list[Tenant], options: argparse.Namespace) -> None:
    processes = Processes({one.name: [one.pid] for one in stack.apis} | {"worker": stack.workers[0].worker_pids()})
    before, own, started = processes.look(), own_seconds(), time.monotonic()
    polls, held = asyncio.run(ask_all(stack, tenants, options))
    seconds = time.monotonic() - started
    print("| polls | answered | a second | 304 | p50 ms | p95 ms | p99 ms | max ms | errors |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    print(polls.row(f"{options.clients - options.held} clients, every {options.interval:g} s", seconds))
    print(Polls([], held.statuses).row(f"{options.held} clients, held", seconds).replace("nan", "-"))
    for status, count in sorted((polls.statuses + held.statuses).items()):
        print(f"\nAnswered {status}: {count:,}", end="")
    print("\n")
    print_processes(before, processes.look(), seconds)
    print(f"\nThe load generator took {(own_seconds() - own) / seconds:.0%} of a core of {os.cpu_count()}.")


async def ask_all(stack: Stack, tenants: list[Tenant], options: argparse.Namespace) -> tuple[Polls, Polls]:
    polls, held = Polls(), Polls()
    who = [(tenant, key) for tenant in tenants for key in tenant.keys]
    random.Random(0).shuffle(who)
    end = time.monotonic() + options.seconds
    clients = []
    for number, (tenant, key) in enumerate(who):
        url = stack.urls[number % len(stack.urls)].removeprefix("http://")
        kind = held if number < options.held else polls
        every = 0.0 if kind is held else options.interval
        clients.append(poll(Connection(url, key), tenant, kind, every, end, reads_results=number % 4 == 0))
    await asyncio.gather(*clients)
    return polls, held


async def poll(
    connection: "Connection", tenant: Tenant, polls: Polls, every: float, end: float, *, reads_results: bool
) -> None:
    """Follow a tenant's latest selection: its state or its results, every so many seconds; or hold, without pause."""
    wait = "" if every else f"?wait={HOLD_SECONDS}"
    known: dict[str, str] = {}
    due = time.monotonic() + random.random() * (every or 1)
    while due < end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        path = f"/v1/selections/{tenant.selection}"
        path += "/results" if every and reads_results else wait
        status, headers = await connection.get(path, known.get(path))
        polls.statuses[status] += 1
        polls.seconds.append(time.monotonic() - due)
        known = {path: headers["etag"]} if "etag" in headers else {}
        pause = float(headers["retry-after"]) if status in (429, 503) else every
        due = max(due + pause, time.monotonic()) if every else time.monotonic() + pause
    connection.close()


class Connection:
    """One kept connection that sends GET requests, at less cost than a library's, for a thousand share a core."""

    def __init__(self, address: str, key: str) -> None:
        """Connect with the first request."""
        self._address = address
        self._head = f"Host: {address}\r\nAuthorization: Bearer {key}\r\n"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, etag: str | None) -> tuple[int, dict[str, str]]:
        """Return an answer's status, 0 where there was none, and its headers."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._address.split(":"))
            reader, writer = self._streams
            known = f"If-None-Match: {etag}\r\n" if etag else ""
            writer.write(f"GET {path} HTTP/1.1\r\n{self._head}{known}\r\n".encode())
            status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if value}
            await reader.readexactly(int(headers.get("content-length", 0)))
            return int(status.split()[1]), headers
        except (OSError, asyncio.IncompleteReadError) as error:
            print(f"{path}: {error!r}")
            self.close()
            return 0, {}

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


if __name__ == "__main__":
    main()
