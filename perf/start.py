"""How long a fresh interpreter takes to import the service, against its frameworks alone."""

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
    nothing, frameworks, service = [], [], []
    for _ in range(RUNS):
        nothing.append(seconds("pass"))
        frameworks.append(seconds("import fastapi, sqlalchemy.orm, pydantic_settings, structlog"))
        service.append(seconds("import app.api.main, sys; assert not {'torch', 'numpy'} & set(sys.modules)"))
    print("| a fresh interpreter that imports | median s | min s | max s |\n|---|---|---|---|")
    for name, values in (
        ("nothing", nothing),
        ("fastapi, sqlalchemy.orm, pydantic_settings, structlog", frameworks),
        ("app.api.main", service),
    ):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
