"""Writes ``release-VERSION.sql.gz``: a database as a release leaves it, which every later release has to upgrade.

Run it once, when the schema of a release is final: ``python -m tests.data.make_release_database``. A real service with
a zoo of three small models fills it: an upload, a rejected one, rankings, done and cancelled, a fine-tune, keys.
"""

import gzip
import json
import sqlite3
import tempfile
from importlib.metadata import version
from pathlib import Path

from tests.fixtures.processes import running_service
from tests.fixtures.story import finished, prepared, select, upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import tiny_zoo

FOLDER = Path(__file__).parent


def make(folder: Path) -> None:
    """Fill a database and write it, with the answers that it gave."""
    environment = {"FORETUNE_ZOO_MANIFEST": str(tiny_zoo(folder))}
    with running_service(folder / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        dataset = upload(client)
        prepared(client, b"this is no archive")
        selection = select(client, dataset, scores=["knn", "logme"])
        finished(client, selection)
        cancelled = select(client, dataset, scores=["nleep"])
        client.post(f"/v1/selections/{cancelled}/cancel").raise_for_status()
        recipe = {"epochs": 1, "learning_rates": [0.01]}
        body = {"dataset": dataset, "models": ["test_efficientnet"], "recipe": recipe}
        finetune = client.post("/v1/finetunes", json=body).json()["id"]
        wait_for(lambda: client.get(f"/v1/finetunes/{finetune}").json()["status"] == "done", 180)
        client.post("/v1/keys", json={"name": "reader", "tenant": "team", "scopes": ["read"]}).raise_for_status()
        paths = [f"/v1/datasets/{dataset}", f"/v1/selections/{selection}/results", f"/v1/finetunes/{finetune}"]
        answers = {path: client.get(path).json() for path in paths}
        key = service.key
        secret = (service.home / "secret.key").read_text().strip()
    database = sqlite3.connect(folder / "home" / "foretune.db")
    dump = "\n".join(database.iterdump())
    database.close()
    name = f"release-{version('foretune')}"
    with gzip.GzipFile(FOLDER / f"{name}.sql.gz", "wb", mtime=0) as file:
        file.write(dump.encode())
    told = {"secret": secret, "key": key, "answers": answers}
    (FOLDER / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary))
