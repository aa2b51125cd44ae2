"""200 polls a second, as they come due, while a selection runs on the other core: latency from the due moment on."""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

from perf.sample import fashion_mnist_zip
from perf.zoo import finish, start_selection, upload, wait_for_zoo
from tests.fixtures.processes import RunningService, running_service

CONNECTIONS = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--weights", type=Path, default=Path(".cache/weights").absolute())
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"FORETUNE_WEIGHTS_CACHE": str(options.weights), "FORETUNE_THREADS": "1"}
        settings["FORETUNE_REQUESTS_PER_MINUTE"] = "0"
        with running_service(Path(folder, "home"), **settings) as service:
            measure(options, Path(folder), service)


def measure(options: argparse.Namespace, folder: Path, service: RunningService) -> None:
    cores = sorted(os.sched_getaffinity(0))
    for pid, core in [(service.process.pid, cores[0]), *((pid, cores[-1]) for pid in service.worker_pids())]:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})
    with service.client() as client:
        wait_for_zoo(client)
        dataset = upload(client, fashion_mnist_zip(folder / "600.zip", per_class=60))
        print("| polls | p50 ms | p99 ms | max ms | errors |\n|---|---|---|---|---|")
        selection = start_selection(client, dataset)
        for name in ("plain", "with ETag"):
            tag = client.get(f"/v1/selections/{selection}").headers["ETag"] if name == "with ETag" else None
            latencies, errors = asyncio.run(poll(options, service, f"/v1/selections/{selection}", tag))
            status = client.get(f"/v1/selections/{selection}").json()["status"]
            latencies.sort()
            p50, p99 = (latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99))
            print(f"| {len(latencies)} {name} | {p50:.1f} | {p99:.1f} | {latencies[-1] * 1000:.1f} | {errors} |")
            print(f"\nThe selection was {status} when the {name} polls ended.\n")
        finish(client, selection)


async def poll(
    options: argparse.Namespace, service: RunningService, path: str, tag: str | None
) -> tuple[list[float], int]:
    """Send a GET whenever one is due, on whichever connection is free."""
    host = service.url.removeprefix("http://")
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {service.key}"]
    lines += [f"If-None-Match: {tag}"] if tag else []
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()
    due: asyncio.Queue[float | None] = asyncio.Queue()
    latencies: list[float] = []
    errors = 0

    async def connection() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(*host.split(":"))
        while (moment := await due.get()) is not None:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            latencies.append(time.perf_counter() - moment)
            errors += head.split()[1] not in (b"200", b"304")
        writer.close()

    connections = [asyncio.create_task(connection()) for _ in range(CONNECTIONS)]
    started = time.perf_counter()
    for number in range(options.rate * options.seconds):
        moment = started + number / options.rate
        await asyncio.sleep(max(0.0, moment - time.perf_counter()))
        due.put_nowait(moment)
    for _ in connections:
        due.put_nowait(None)
    await asyncio.gather(*connections)
    return latencies, errors


if __name__ == "__main__":
    main()
