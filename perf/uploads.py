"""Fifty uploads at once to two API processes, slow clients and a small quota among them: memory, losses, waiting.

The stack is the one of docker-compose.yml: PostgreSQL, Redis, an S3 server, 2 API processes and a worker. Some clients
send a few bytes a second all the while and never end; a tenant whose quota takes half of what it sends sends it at
once. Meanwhile /readyz and a poll are timed on both processes. The clients share the cores with everything else.
"""

import argparse
import asyncio
import io
import os
import random
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from PIL import Image
from sqlalchemy import func, select

from app.domain.quotas import Quotas
from app.storage.database import Database
from app.storage.repositories.keys import Keys
from app.storage.repositories.tenants import Tenants
from app.storage.tables import Dataset
from perf.processes import Processes, print_processes
from tests.fixtures.stack import Stack, running_stack

CLASSES, PER_CLASS = 4, 10
LOOK_EVERY_SECONDS = 0.1
OPEN, SMALL, SLOW = "open", "small", "slow"
"""Tenants: without quotas, with one of bytes, and of those who never end."""


@dataclass
class Times:
    """How long answers to one question took while the uploads came in."""

    question: str
    seconds: list[float]
    failed: int = 0

    @property
    def row(self) -> str:
        """A row of the table."""
        ordered = sorted(self.seconds)
        marks = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 for share in (0.5, 0.99, 1)]
        cells = [self.question, str(len(ordered)), *(f"{mark:.0f}" for mark in marks), str(self.failed)]
        return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--uploads", type=int, default=50)
    parser.add_argument("--mib", type=float, default=20, help="of each archive, about")
    parser.add_argument("--slow", type=int, default=10, help="clients that drip bytes and never end")
    parser.add_argument("--over-quota", type=int, default=10, help="uploads to a tenant with room for half of them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "zoo.yaml")
        manifest.write_text("models: []\n")
        archives = [*make_archives(Path(folder), options.uploads + options.over_quota, options.mib)]
        environment = {"FORETUNE_ZOO_MANIFEST": str(manifest)}
        with running_stack(Path(folder), workers=1, environment=environment) as stack:
            measure(stack, archives, options)


def make_archives(folder: Path, count: int, mib: float) -> Iterator[Path]:
    """Write zips of photos that no compression shrinks; each has one that no other has."""
    rng = random.Random(0)
    side = max(64, int((mib * 2**20 / (CLASSES * PER_CLASS) / 3) ** 0.5))

    def photo() -> bytes:
        file = io.BytesIO()
        Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side)).save(file, "PNG", compress_level=1)
        return file.getvalue()

    shared = [photo() for _ in range(CLASSES * PER_CLASS - 1)]
    for number in range(count):
        path = folder / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for place, content in enumerate([photo(), *shared]):
                archive.writestr(f"photos/class-{place % CLASSES}/{place}.png", content)
        yield path


def measure(stack: Stack, archives: list[Path], options: argparse.Namespace) -> None:
    size = max(path.stat().st_size for path in archives)
    room = options.over_quota // 2 * size
    keys = add_tenants(stack, room)
    processes = Processes({one.name: [one.pid] for one in stack.apis})
    before, started = processes.look(), time.monotonic()
    answers, refused, times, received = asyncio.run(send_all(stack, keys, archives, options))
    took = time.monotonic() - started
    after = processes.look()
    total = sum(path.stat().st_size for path in archives[: options.uploads]) / 2**20
    print(f"{options.uploads} uploads of {size / 2**20:.0f} MiB at once: {dict(answers)} after {received:.1f} s,")
    print(f"{total / received:.0f} MiB/s; {options.slow} slow clients; {refused} refused of {options.over_quota}.\n")
    print_processes(before, after, took)
    grown = sum(after[name].peak_mib - before[name].resident_mib for name in after)
    print(f"\nMemory grew by {grown / options.uploads:.1f} MiB for each upload at the peak.\n")
    print("| asked meanwhile | answers | p50 ms | p99 ms | max ms | failed |\n|---|--:|--:|--:|--:|--:|")
    for one in times:
        print(one.row)
    print(f"\nLater: {wait_for_all(stack)} by tenant and state, {uploads_kept(stack)} uploads in the store.")


def add_tenants(stack: Stack, room: int) -> dict[str, str]:
    with opened(stack) as database, database.write() as session:
        keys = Keys(session, stack.settings.secret_bytes)
        made = {}
        for name, quotas in ((OPEN, Quotas()), (SMALL, Quotas(bytes=room)), (SLOW, Quotas())):
            Tenants(session, actor="perf").create(name, quotas)
            made[name] = keys.create(tenant=name, name="perf", scopes=["read", "write"])[1]
        return made


@contextmanager
def opened(stack: Stack) -> Iterator[Database]:
    database = Database(stack.settings.database_url)
    try:
        yield database
    finally:
        database.close()


async def send_all(
    stack: Stack, keys: dict[str, str], archives: list[Path], options: argparse.Namespace
) -> tuple[Counter[int], int, list[Times], float]:
    """Return the statuses of the uploads, how many the quota refused, what was asked meanwhile, and the seconds."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits, verify=False) as client:

        def send(number: int, tenant: str) -> Awaitable[httpx.Response]:
            url = f"{stack.urls[number % len(stack.urls)]}/v1/datasets"
            return client.post(url, content=chunks(archives[number]), headers=authorization(keys[tenant]))

        times = [Times(f"/readyz of {one.name}", []) for one in stack.apis]
        times += [Times(f"/v1/usage of {one.name}", []) for one in stack.apis]
        paths = [f"{url}/readyz" for url in stack.urls] + [f"{url}/v1/usage" for url in stack.urls]
        others = [asyncio.create_task(ask(client, url, keys[OPEN], one)) for url, one in zip(paths, times, strict=True)]
        others += [asyncio.create_task(drip(stack.urls[n % 2], keys[SLOW])) for n in range(options.slow)]
        await asyncio.sleep(2)
        started = time.monotonic()
        over = asyncio.gather(*(send(options.uploads + n, SMALL) for n in range(options.over_quota)))
        answers = await asyncio.gather(*(send(number, OPEN) for number in range(options.uploads)))
        received = time.monotonic() - started
        beyond = await over
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
    codes = Counter(answer.json().get("code", "taken") for answer in beyond)
    assert set(codes) <= {"taken", "quota_exceeded"}, codes
    return Counter(answer.status_code for answer in answers), codes["quota_exceeded"], times, received


def authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 18):
            yield chunk


async def ask(client: httpx.AsyncClient, url: str, key: str, times: Times) -> None:
    """Ask the same again and again."""
    while True:
        started = time.monotonic()
        answer = await client.get(url, headers=authorization(key))
        times.seconds.append(time.monotonic() - started)
        times.failed += answer.status_code != 200
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def drip(url: str, key: str) -> None:
    """Announce a large upload and send a few bytes of it a second."""
    host = url.removeprefix("http://")
    _, writer = await asyncio.open_connection(*host.split(":"))
    head = f"POST /v1/datasets HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Length: {1 << 30}\r\n"
    try:
        writer.write(f"{head}\r\n".encode())
        while True:
            writer.write(os.urandom(100))
            await asyncio.sleep(0.2)
    finally:
        writer.close()


def wait_for_all(stack: Stack, seconds: float = 1800) -> dict[str, int]:
    """Wait until nothing is being received or prepared; return how many data sets of each tenant are in which state."""
    deadline = time.monotonic() + seconds
    with opened(stack) as database:
        while True:
            with database.read() as session:
                query = select(Dataset.tenant, Dataset.state, func.count()).group_by(Dataset.tenant, Dataset.state)
                found = {f"{tenant} {state}": count for tenant, state, count in session.execute(query)}
            if all(state.endswith((" ready", " rejected")) for state in found) or time.monotonic() > deadline:
                return found
            time.sleep(0.5)


def uploads_kept(stack: Stack) -> int:
    return sum(key.startswith("uploads/") for key in stack.objects.keys())  # noqa: SIM118


if __name__ == "__main__":
    main()
