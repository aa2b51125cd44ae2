"""A 1 GiB upload to the service against an endpoint that only writes a file: throughput and memory of the process."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from app.config import Settings
from app.first_start import prepare_home
from perf.processes import resident_mib
from tests.fixtures.servers import free_port, wait_for_port

BARE = """
import sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    with open(sys.argv[2], "wb") as file:
        while True:
            message = await receive()
            file.write(message.get("body", b""))
            if not message.get("more_body"):
                break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", lifespan="off")
"""


def curl(url: str, file: Path, key: str, *, form: bool) -> float:
    body = ["-F", f"file=@{file}"] if form else ["-X", "POST", "-H", "Expect:", "-T", str(file)]
    started = time.perf_counter()
    done = subprocess.run(
        ["curl", "-sS", "-H", f"Authorization: Bearer {key}", *body, url], check=True, capture_output=True
    )
    elapsed = time.perf_counter() - started
    json.loads(done.stdout)
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        settings = Settings(home=home)
        prepare_home(settings)
        key = settings.admin_key_file.read_text().strip()
        port, bare_port = free_port(), free_port()
        command = [sys.executable, "-m", "app.cli", "serve", "--api-only", "--port", str(port)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        service = subprocess.Popen(command, env={**os.environ, "FORETUNE_HOME": str(home)}, **quiet)
        bare = subprocess.Popen([sys.executable, "-c", BARE, str(bare_port), str(Path(folder, "bare.bin"))], **quiet)
        try:
            wait_for_port(port)
            wait_for_port(bare_port)
            measure(options, Path(folder), f"http://127.0.0.1:{port}", f"http://127.0.0.1:{bare_port}/", key, service)
        finally:
            for process in (service, bare):
                process.terminate()
                process.wait(20)


def measure(
    options: argparse.Namespace, folder: Path, url: str, bare: str, key: str, service: "subprocess.Popen[bytes]"
) -> None:
    small = folder / "small.bin"
    small.write_bytes(b"warm up")
    httpx.post(f"{url}/v1/datasets", content=b"warm up", headers={"Authorization": f"Bearer {key}"})
    curl(bare, small, key, form=False)
    before = resident_mib(service.pid, "VmRSS")
    times: dict[str, list[float]] = {"bare endpoint": [], "service, raw body": [], "service, multipart": []}
    for _ in range(options.runs):
        for name, target, form in (
            ("bare endpoint", bare, False),
            ("service, raw body", f"{url}/v1/datasets", False),
            ("service, multipart", f"{url}/v1/datasets", True),
        ):
            file = folder / "upload.bin"
            with file.open("wb") as writing:  # fresh bytes each time: the same ones would be recognised
                for _ in range(options.mib):
                    writing.write(os.urandom(1 << 20))
            times[name].append(curl(target, file, key, form=form))
    grown = resident_mib(service.pid, "VmHWM") - before
    print(f"{options.mib} MiB, {options.runs} runs each, in turn.\n")
    print("| to | median s | MiB/s | throughput over the bare endpoint |\n|---|---|---|---|")
    reference = statistics.median(times["bare endpoint"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.2f} | {options.mib / median:.0f} | {reference / median:.2f} |")
    print(f"\nThe service's memory grew by {grown:.0f} MiB at its peak.")


if __name__ == "__main__":
    main()
