"""How long a fresh interpreter takes to import the service, against one that imports nothing."""

import statistics
import subprocess
import sys
import time

RUNS = 9


def seconds(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    nothing, service = [], []
    for _ in range(RUNS):
        nothing.append(seconds("pass"))
        service.append(seconds("import app.api.main, sys; assert 'torch' not in sys.modules"))
    print("| a fresh interpreter that imports | median s | min s | max s |\n|---|---|---|---|")
    for name, values in (("nothing", nothing), ("app.api.main", service)):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
