"""What a row takes on PostgreSQL, table by table, with indexes and TOAST, after a service's own life of a row.

Rows have contents of realistic size; evaluations are claimed, renewed and finished as by workers, so that dead versions
and index entries that updates leave behind count. The sizes are those after autovacuum has come by.
"""

import argparse
import json
import random
from collections.abc import Callable
from typing import Any

from sqlalchemy import insert, text, update

from app.domain.ids import new_id
from app.domain.states import FinetuneState
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import EVALUATION
from app.storage.migrate import upgrade
from app.storage.tables import AuditEvent, Evaluation, Finetune, IdempotencyKey, Model, ModelEvent, Selection, now
from app.storage.webhook_tables import Webhook, WebhookDelivery
from perf.open_evaluations import analyze, fill, result
from tests.fixtures.servers import postgres
from tests.fixtures.service import own_database

MODELS = 50
TOGETHER = 100
SIZES = """
SELECT relname, n_live_tup, pg_relation_size(relid) AS heap, pg_indexes_size(relid) AS indexes,
       pg_total_relation_size(relid) - pg_relation_size(relid) - pg_indexes_size(relid) AS toast
FROM pg_stat_user_tables WHERE n_live_tup > 0 ORDER BY relname
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=2_000, help="of each other table")
    options = parser.parse_args()
    with postgres() as server, own_database(server.url, "perf") as url:
        database = Database(url)
        upgrade(database)
        fill(database, tenants=20, models=MODELS, open_evaluations=options.evaluations, ended_evaluations=0)
        live(database)
        rank(database)
        for add in (add_finetunes, add_audit, add_model_events, add_idempotency_keys, add_deliveries):
            add(database, options.rows)
        analyze(database)
        print("| table | rows | bytes a row | heap | indexes | TOAST |\n|---|--:|--:|--:|--:|--:|")
        with database.read() as session:
            for table, rows, *parts in session.execute(text(SIZES)):
                if rows >= MODELS:
                    each = " | ".join(f"{part / rows:,.0f}" for part in (sum(parts), *parts))
                    print(f"| `{table}` | {rows:,} | {each} |")
        database.close()


def live(database: Database) -> None:
    """Let every evaluation be claimed, renewed twice with its progress and finished, in transactions of their own."""
    with database.read() as session:
        ids = [one for (one,) in session.query(Evaluation.id).order_by(Evaluation.created_at)]
    for start in range(0, len(ids), TOGETHER):
        held = []
        with database.write() as session:
            for one in ids[start : start + TOGETHER]:
                lease = leases.claim(session, EVALUATION, one, holder="gpu-machine-17/3", seconds=60)
                assert lease is not None
                held.append(lease)
        for done in (320, 960):
            with database.write() as session:
                for lease in held:
                    told = {"stage": "features", "done": done, "total": 1000}
                    leases.renew(session, lease, seconds=60, progress=told)
        with database.write() as session:
            for lease in held:
                progress = {"stage": "done", "done": 1000, "total": 1000}
                leases.finish(session, lease, result=result(), progress=progress, ran_on="NVIDIA A10")
        if start % 5_000 == 0:
            analyze(database)  # as autovacuum comes by


def rank(database: Database) -> None:
    """Give every selection a ranking of all its models, stored ten times as more was known."""
    with database.read() as session:
        ids = [one for (one,) in session.query(Selection.id)]
        model_ids = [one for (one,) in session.query(Model.id)]
    for _ in range(10):
        for selection_id in ids:
            with database.write() as session:
                session.execute(
                    update(Selection).where(Selection.id == selection_id).values(ranking=ranking(model_ids))
                )
        analyze(database)


def ranking(model_ids: list[str]) -> dict[str, Any]:
    def place(model_id: str, rank: int) -> dict[str, Any]:
        accuracy = random.random()
        probe = {"mean": accuracy, "interval": [accuracy - 0.031234567, accuracy + 0.031234567], "level": 0.9}
        probe["origin"] = "cross-validated linear probe on frozen features"
        told = {
            "id": model_id,
            "name": "efficientnet-lite1",
            "rank": rank,
            "accuracy": accuracy,
            "stderr": 0.0123456789,
        }
        told |= {"rank_interval": [1, 7], "tie_group": 1, "probability_of_best": random.random(), "look": 1}
        return told | {"probability_of_top_k": random.random(), "images": 1000, "probe_accuracy": probe}

    return {
        "verdict": "6 models are statistically tied at the top; mobilenetv2-deepsort is the smallest of them.",
        "stability": {"top1_probability": 0.31, "tie_group_size": 6},
        "models": {one: place(one, number + 1) | {"relative_scores": {}} for number, one in enumerate(model_ids)},
        "evidence": {"ranked_by": "linear_probe", "signal": True, "method": "1000 bootstrap resamples. " * 6},
    }


def add_finetunes(database: Database, number: int) -> None:
    """Add fine-tunes of three models with the curves of 40 epochs."""

    def row(dataset_id: str) -> dict[str, Any]:
        curve = [[step * 25, random.random(), random.random()] for step in range(120)]
        entry = {"model": "mdl_01k8zq3v9x", "status": "done", "test_accuracy": 0.9123, "object": "finetunes/d/f/m.zip"}
        told = {"models": [entry | {"curve": curve, "seconds": 312.5} for _ in range(3)]}
        row: dict[str, Any] = {"id": new_id("ft"), "tenant": "tenant-0", "name": "photos", "dataset_id": dataset_id}
        row |= {"recipe": {"epochs": 40, "batch_size": 32, "lr": None, "optimizer": "sgd", "patience": 5}}
        row |= {
            "state": FinetuneState.DONE,
            "model_ids": ["mdl_01k8zq3v9x"] * 3,
            "result": told,
            "spent_seconds": 912.3,
        }
        row |= {"created_at": now(), "updated_at": now(), "finished_at": now(), "revision": 9}
        return row | {"warnings": [], "failures": {}}

    with database.write() as session:
        dataset_id = session.query(Selection.dataset_id).limit(1).scalar()
        session.execute(insert(Finetune), [row(dataset_id) for _ in range(number)])


def add_audit(database: Database, number: int) -> None:
    about = {"actor": "anna@lab.example", "tenant": "lab", "action": "key.created", "target": new_id("key")}
    add_rows(
        database, AuditEvent, number, lambda: about | {"id": new_id("aud"), "details": {"scopes": ["read", "write"]}}
    )


def add_model_events(database: Database, number: int) -> None:
    with database.read() as session:
        model_id = session.query(Model.id).limit(1).scalar()
    about = {"model_id": model_id, "actor": "admin", "action": "disabled", "reason": "licence", "details": {}}
    add_rows(database, ModelEvent, number, lambda: about | {"id": new_id("mev")})


def add_idempotency_keys(database: Database, number: int) -> None:
    body = {
        "id": new_id("sel"),
        "status": "queued",
        "progress": {"models": dict.fromkeys("abcdefgh", 0)},
        "links": "x" * 400,
    }
    about = {"tenant": "tenant-0", "fingerprint": "f" * 64, "status": 202, "body": body}
    add_rows(database, IdempotencyKey, number, lambda: about | {"key": new_id("ik")})


def add_deliveries(database: Database, number: int) -> None:
    """Add webhooks' messages that arrived."""
    with database.write() as session:
        webhook = {
            "tenant": "tenant-0",
            "name": "ci",
            "url": "https://example.org/hook",
            "events": [],
            "state": "active",
        }
        session.execute(insert(Webhook), [webhook | {"id": "wh_1", "salt": "s", "key_check": "k"}])
    told = {"type": "selection.completed", "data": {"id": new_id("sel"), "verdict": "x" * 120, "links": "y" * 200}}
    about = {"webhook_id": "wh_1", "type": told["type"], "revision": 31, "body": json.dumps(told), "state": "delivered"}
    about |= {
        "attempts": 1,
        "next_attempt_at": 0.0,
        "attempted_at": 0.0,
        "last_attempt": {"status": 204, "seconds": 0.12},
    }
    add_rows(database, WebhookDelivery, number, lambda: about | {"id": new_id("msg"), "subject": new_id("sel")})


def add_rows(database: Database, table: type[Any], number: int, row: Callable[[], dict[str, Any]]) -> None:
    with database.write() as session:
        session.execute(insert(table), [row() for _ in range(number)])


if __name__ == "__main__":
    main()
