"""A selection over the packaged zoo against a bare loop of decode, preprocess and forward; then the same again.

The loop runs in a process of its own with the networks loaded beforehand; its time is decoding, preprocessing and
forward passes alone. The selection's time is what its user waits: from the POST until the ranking is final. Between two
pairs the features are thrown away with the data set, so that every first selection really runs the networks.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perf.sample import fashion_mnist_zip
from perf.zoo import finish, start_selection, upload, wait_for_zoo
from tests.fixtures.processes import running_service


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--weights", type=Path, default=Path(".cache/weights").absolute())
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        archive = fashion_mnist_zip(Path(folder, "images.zip"), per_class=options.per_class)
        home = Path(folder, "home")
        with running_service(home, FORETUNE_WEIGHTS_CACHE=str(options.weights)) as service, service.client() as client:
            names = wait_for_zoo(client)
            for _ in range(options.runs):
                loop = bare_loop(archive, options.weights)
                dataset = upload(client, archive)
                first, results = timed_selection(client, dataset)
                second, again = timed_selection(client, dataset)
                assert [row["name"] for row in results["data"]] == [row["name"] for row in again["data"]]
                client.delete(f"/v1/datasets/{dataset}").raise_for_status()
                rows.append((loop, first, second))
                print(f"loop {loop:.1f} s, selection {first:.1f} s, again {second:.2f} s", file=sys.stderr)
    print(f"{options.per_class * 10} images x {len(names)} models, {options.runs} pairs in turn.\n")
    print("| | median s | over the loop |\n|---|---|---|")
    loops, firsts, seconds = zip(*rows, strict=True)
    print(f"| bare loop | {statistics.median(loops):.1f} | 1 |")
    ratio = statistics.median(first / loop for loop, first, _ in rows)
    print(f"| selection, nothing cached | {statistics.median(firsts):.1f} | {ratio:.3f} |")
    ratio = statistics.median(second / first for _, first, second in rows)
    print(f"| the same again | {statistics.median(seconds):.2f} | {ratio:.4f} of the first selection |")


def timed_selection(client, dataset):  # type: ignore[no-untyped-def]
    started = time.perf_counter()
    results = finish(client, start_selection(client, dataset))
    elapsed = time.perf_counter() - started
    assert all(row["status"] == "done" for row in results["data"]), results
    return elapsed, results


def bare_loop(archive: Path, weights: Path) -> float:
    command = [sys.executable, "-m", "perf.bare_loop", str(archive), str(weights)]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["seconds"])


if __name__ == "__main__":
    main()
