"""How long the import of the service takes in a fresh interpreter, against that of its frameworks alone."""

import statistics
import subprocess
import sys

RUNS = 9


def seconds(imports: str, check: str = "pass") -> float:
    code = f"import time; t = time.perf_counter()\n{imports}\nprint(time.perf_counter() - t)\n{check}"
    return float(subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    frameworks, service = [], []
    for _ in range(RUNS):
        frameworks.append(seconds("import fastapi, sqlalchemy.orm, pydantic_settings, structlog"))
        service.append(seconds("import app.api.main", "import sys; assert not {'torch', 'numpy'} & set(sys.modules)"))
    print("| import | median s | min s | max s |\n|---|---|---|---|")
    for name, values in (
        ("fastapi, sqlalchemy.orm, pydantic_settings, structlog", frameworks),
        ("app.api.main", service),
    ):
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
