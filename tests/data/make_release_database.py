"""Writes ``release-VERSION.*``: a database as a release leaves it, which every later release has to upgrade.

Run it once, when the schema of a release is final: ``python -m tests.data.make_release_database``. A real service with
a zoo of two small models fills an SQLite file: uploads, one rejected and one deleted; rankings, done, forecast and
cancelled; a fine-tune; a webhook and what it was sent; keys, a tenant with quotas. The same rows go into PostgreSQL,
and both are written as SQL. Nothing in them expires or is still to be done, and no path of the machine is in them.
"""

import gzip
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psycopg
import yaml
from psycopg import sql

from app.storage.database import Database
from app.storage.migrate import upgrade
from app.storage.tables import Base
from tests.data.releases import FOLDER
from tests.fixtures.archives import class_folders, zip_of
from tests.fixtures.processes import running_service
from tests.fixtures.receiver import running_receiver
from tests.fixtures.servers import postgres, postgres_binary
from tests.fixtures.service import own_database
from tests.fixtures.story import finished, prepared, select, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import tiny_zoo

SETTINGS = {
    "FORETUNE_THREADS": "1",  # threads of a busy machine wait for each other
    "FORETUNE_GRADIENT_IMAGES": "10",
    "FORETUNE_FORECAST_IMAGES": "12",
    "FORETUNE_WEBHOOK_PRIVATE_HOSTS": "127.0.0.1",
}
MODELS = 2
RECEIVER = "https://example.com/foretune"
PATIENCE_SECONDS = 600.0


def make(folder: Path, *, target: Path = FOLDER) -> None:
    """Fill a database in one folder, and write it to another one, with the answers that it gave."""
    empty = folder / "empty.yaml"
    empty.write_text("models: []\n")
    with (
        running_receiver() as receiver,
        running_service(folder / "home", FORETUNE_ZOO_MANIFEST=str(empty), **SETTINGS) as service,
        service.client() as client,
    ):
        answers = tell(client, folder, receiver.url)
        told = {"secret": (service.home / "secret.key").read_text().strip(), "key": service.key, "answers": answers}
    name = f"release-{version('foretune')}"
    file = folder / "home" / "foretune.db"
    _write(target / f"{name}.sqlite.sql.gz", dump_sqlite(file))
    _write(target / f"{name}.postgresql.sql.gz", dump_postgresql(file))
    (target / f"{name}.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def tell(client: httpx.Client, folder: Path, receiver: str) -> dict[str, Any]:
    """Do what users and admins do, wait until all of it has ended, and return what the service says of it, by path."""
    quotas = {"bytes": 10**10, "open_selections": 5, "worker_seconds_per_day": 3600}
    _post(client, "/v1/tenants", name="team", quotas=quotas)
    _post(client, "/v1/keys", name="reader", tenant="team", user="anna@example.com", scopes=["read"])
    webhook = _post(client, "/v1/webhooks", url=receiver, name="lab")["links"]["self"]
    _register(client, folder)
    client.put("/v1/zoos/small", json={"description": "To try", "models": ["test_resnet"]}).raise_for_status()

    classes = ("bag", "coat", "dress")
    dataset = prepared(client, zip_of(class_folders(classes, per_class=16)))["id"]
    rejected = prepared(client, b"this is no archive")["id"]
    deleted = prepared(client, zip_of(class_folders(classes, first=20)))["id"]
    client.delete(f"/v1/datasets/{deleted}").raise_for_status()

    selection = select(client, dataset, scores=["knn", "logme"], name="which one?")
    finished(client, selection)
    forecast = select(client, dataset, models=["test_resnet"], scores=["knn"], target={"value": 0.5})
    finished(client, forecast)
    cancelled = select(client, dataset, scores=["nleep"])
    client.post(f"/v1/selections/{cancelled}/cancel").raise_for_status()
    recipe = {"epochs": 1, "learning_rates": [0.01]}
    finetune = _post(client, "/v1/finetunes", dataset=dataset, models=["test_resnet"], recipe=recipe)["links"]["self"]
    wait_for(lambda: client.get(finetune).json()["status"] == "done", PATIENCE_SECONDS)

    wait_for(lambda: all(one["status"] != "pending" for one in _read(client, f"{webhook}/deliveries")["data"]))
    client.patch(webhook, json={"url": RECEIVER, "status": "disabled"}).raise_for_status()
    paths = [
        *(f"/v1/datasets/{one}" for one in (dataset, rejected)),
        f"/v1/datasets/{dataset}/files",
        *(f"/v1/selections/{one}" for one in (selection, forecast, cancelled)),
        *(f"/v1/selections/{one}/results" for one in (selection, forecast)),
        finetune,
        webhook,
        f"{webhook}/deliveries",
        *("/v1/models", "/v1/zoos", "/v1/tenants", "/v1/audit"),
    ]
    return {path: _read(client, path) for path in paths}


def dump_sqlite(file: Path) -> str:
    """Return the SQL that makes an SQLite file again."""
    database = sqlite3.connect(file)
    dump = "\n".join(database.iterdump()) + "\n"
    database.close()
    return dump


def dump_postgresql(file: Path) -> str:
    """Return the SQL of a PostgreSQL database that has the rows of an SQLite file."""
    with postgres() as server, own_database(server.url, "release") as url:
        database = Database(url)
        upgrade(database)
        database.close()
        _copy(file, url)
        options = ["--no-owner", "--no-privileges", "--column-inserts"]
        dumped = subprocess.run([postgres_binary("pg_dump"), *options, url], check=True, capture_output=True, text=True)
    lines = dumped.stdout.splitlines(keepends=True)
    # What begins so is for psql alone, and different in every dump.
    return "".join(line for line in lines if not line.startswith("\\"))


def _copy(file: Path, url: str) -> None:
    """Copy every row; values go as text, which PostgreSQL reads as what its column holds."""
    with sqlite3.connect(file) as source, psycopg.connect(url) as target:
        target.execute("SET TIME ZONE 'UTC'")
        for table in Base.metadata.sorted_tables:
            found = source.execute(f'SELECT * FROM "{table.name}" ORDER BY rowid')
            columns = [sql.Identifier(column[0]) for column in found.description]
            insert = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table.name),
                sql.SQL(", ").join(columns),
                sql.SQL(", ").join([sql.Placeholder()] * len(columns)),
            )
            for row in found:
                target.execute(insert, [None if value is None else str(value) for value in row])
    source.close()


def _register(client: httpx.Client, folder: Path) -> None:
    """Register the small models with uploaded weights, whose specifications name no file."""
    entries = yaml.safe_load(tiny_zoo(folder).read_text())["models"][:MODELS]
    for entry in entries:
        weights = client.post("/v1/weights", content=(folder / f"{entry['name']}.safetensors").read_bytes())
        source = {"type": "upload", "sha256": weights.raise_for_status().json()["sha256"]}
        _post(client, "/v1/models", **entry | {"source": source})
    wait_for_zoo(client, len(entries))


def _post(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.is_success, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _read(client: httpx.Client, path: str) -> Mapping[str, Any]:
    found: dict[str, Any] = client.get(path).raise_for_status().json()
    return found


def _write(path: Path, text: str) -> None:
    with gzip.GzipFile(filename="", mode="wb", fileobj=path.open("wb"), mtime=0) as file:
        file.write(text.encode())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary), target=Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
