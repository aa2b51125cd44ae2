"""What a plan foretells against what the selection then takes, on the packaged zoo.

First with nothing known but the speeds that admission measured, then with the selections before it. Every data set is
another one, so that every selection really runs the networks.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from perf.sample import fashion_mnist_zip
from perf.zoo import finish, start_selection, upload, wait_for_zoo
from tests.fixtures.processes import running_service


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--per-class", type=int, nargs="+", default=[30, 20, 45])
    parser.add_argument("--weights", type=Path, default=Path(".cache/weights").absolute())
    options = parser.parse_args()
    print("| images | past evaluations | planned s (80 %) | took s | took over planned |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        with running_service(home, FORETUNE_WEIGHTS_CACHE=str(options.weights)) as service, service.client() as client:
            names = wait_for_zoo(client)
            print(f"{len(names)} models", file=sys.stderr)
            for number, per_class in enumerate(options.per_class):
                archive = fashion_mnist_zip(Path(folder, f"{number}.zip"), per_class=per_class)
                dataset = upload(client, archive)
                plan = client.get("/v1/plan", params={"images": 10 * per_class}).json()
                started = time.perf_counter()
                results = finish(client, start_selection(client, dataset))
                took = time.perf_counter() - started
                assert all(row["status"] == "done" for row in results["data"]), results
                interval = "" if plan["interval"] is None else " ({:.0f}-{:.0f})".format(*plan["interval"])
                planned = plan["seconds"]
                row = [10 * per_class, plan["evaluations"], f"{planned:.0f}{interval}", f"{took:.0f}"]
                print("| " + " | ".join(map(str, [*row, f"{took / planned:.2f}"])) + " |", flush=True)


if __name__ == "__main__":
    main()
