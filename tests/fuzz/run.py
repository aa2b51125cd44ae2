"""One run of schemathesis against a throwaway service, with one key."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.fixtures.service import RunningService
from tests.fuzz.rows import Rows, add_rows

ROOT = Path(__file__).parents[2]
TENANT = "fuzzed"
PHASES = "examples,coverage,fuzzing,stateful"
Who = Literal["admin", "user"]
SCOPES: Mapping[Who, tuple[str, ...]] = {"admin": ("admin",), "user": ("read", "write")}

_CONFIGURATION = """
hooks = "tests.fuzz.checks"
continue-on-failure = true
request-timeout = 60
max-stream-events = 1
[cache]
enabled = false
[generation]
database = "none"
allow-x00 = false
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "410", "422"]
"""
# No schema can say it, but no text of the interface may have a NUL in it: tests/api/test_abuse.py sends them. Whether
# a 422 is one of a request that the document allows is judged by checks.py.


@dataclass
class Outcome:
    """What came of a run."""

    requests: int
    failures: int
    text: str
    """As schemathesis prints it, with the way to send each failed request again."""


def fuzz(
    service: RunningService, who: Who, folder: Path, *, examples: int, phases: str = PHASES, seed: int = 1
) -> Outcome:
    """Ask a service that nobody else uses whatever its OpenAPI document allows, and what it does not.

    Args:
        service: its rows are changed and deleted.
        who: with an admin's key, or with one that reads and writes.
        folder: takes schemathesis' configuration and its report.
        examples: requests for each operation and phase at most.
        phases: those of schemathesis, with commas between them.
        seed: the same gives the same requests.
    """
    rows = add_rows(service, TENANT)
    key = service.key(*SCOPES[who], tenant=TENANT)
    with service.client(key) as client:
        key_id = client.get("/v1/keys/me").json()["id"]
        client.get("/openapi.json")  # written once; on a busy machine schemathesis does not wait for that
    configuration, report = folder / f"{who}.toml", folder / f"{who}.json"
    configuration.write_text(_CONFIGURATION + _values(rows))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)]
    command += ["run", f"{service.url}/openapi.json", "--header", f"Authorization: Bearer {key}", "--no-color"]
    command += ["--phases", phases, "--max-examples", str(examples), "--seed", str(seed)]
    command += ["--report", "json", "--report-json-path", str(report)]
    told = {"FUZZING_KEY_ID": key_id, "FUZZING_TENANT": TENANT}
    run = subprocess.run(
        command, env=os.environ | told, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
    )
    with service.client(key) as client:
        assert client.get("/v1/keys/me").is_success, "the key that asked was lost on the way"
    service.close_clients()
    assert report.exists(), run.stdout + run.stderr
    found = json.loads(report.read_text())
    cases = found["test_cases"]
    assert found["complete"], run.stdout + run.stderr
    return Outcome(cases["generated"], cases["unique_failures"] + cases["errored"], run.stdout)


def _values(rows: Rows) -> str:
    """Return the part of a configuration that names values which are there, so that not everything is not found."""
    text = ""
    for name, values in {**vars(rows), "etag": ['"r1"', '"r2"', '"r5"', "*"]}.items():
        text += f"[dictionaries.{name}]\nvalues = {json.dumps(values)}\n"
    often = {f"path.{name}": name for name in vars(rows) if name != "zoo"}
    often |= {"path.name": "zoo", "query.zoo": "zoo", "query.tenant": "tenant", "query.against": "model"}
    often |= {"query.model": "model", "header.if-none-match": "etag"}
    often |= {"body.dataset": "dataset_id", "body.models[*]": "model", "body.zoo": "zoo", "body.tenant": "tenant"}
    text += "[parameters]\n"
    return text + "".join(
        f'{json.dumps(place)} = {{dictionary = "{name}", probability = 0.7}}\n' for place, name in often.items()
    )
