"""Health, readiness, metrics: what load balancers and monitoring see."""

import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from sqlalchemy import text

from app.storage.database import Database
from app.storage.repositories.workers import announce
from tests.api.problem import assert_problem
from tests.fixtures.monitoring import values
from tests.fixtures.proxy import proxy
from tests.fixtures.servers import free_port
from tests.fixtures.service import RunningService, empty_zoo_settings, own_database, run_service
from tests.fixtures.story import wait_for


def test_a_service_without_a_worker_is_degraded(service: RunningService) -> None:
    anybody = service.client()
    assert anybody.get("/healthz").json() == {"status": "alive"}
    answer = anybody.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert answer.json()["checks"]["workers"] != "ok"
    assert answer.json()["checks"]["database"] == "ok"


def test_readiness_leaves_no_object(service: RunningService) -> None:
    before = service.objects.keys()
    service.client().get("/readyz")
    assert service.objects.keys() == before


def test_metrics_count_requests_by_route_and_jobs_by_state(service: RunningService, user: httpx.Client) -> None:
    user.post("/v1/datasets", content=b"metrics")
    user.get("/v1/datasets/ds_nothing")
    metrics = service.client().get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert 'foretune_requests_total{method="GET",route="/v1/datasets/{dataset_id}",status="404"}' in metrics.text
    assert 'foretune_jobs{kind="dataset",state="received"}' in metrics.text
    assert "ds_nothing" not in metrics.text


def test_every_answer_carries_a_request_id(service: RunningService) -> None:
    anybody = service.client()
    assert anybody.get("/healthz", headers={"X-Request-Id": "mine-1"}).headers["X-Request-Id"] == "mine-1"
    made = [anybody.get("/nowhere", headers={"X-Request-Id": asked}).headers["X-Request-Id"] for asked in ("", "a b")]
    assert len({*made, "", "a b"}) == 4


def test_a_seen_worker_makes_it_ready(tmp_path: Path) -> None:
    with run_service(empty_zoo_settings(tmp_path)) as service:
        with service.database.write() as session:
            announce(session, "host/0", "cpu")
        assert service.client().get("/readyz").json()["status"] == "ready"


def test_without_its_database_it_is_down_and_says_so(tmp_path: Path, postgres_url: str) -> None:
    with (
        own_database(postgres_url, "lost") as url,
        run_service(empty_zoo_settings(tmp_path, database_url=url)) as service,
    ):
        client = service.client(service.admin_key)
        assert client.get("/v1/datasets").status_code == 200
        _drop(postgres_url)
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["status"] == "down"
        assert answer.json()["checks"]["database"] != "ok"
        assert client.get("/healthz").status_code == 200
        refused = client.get("/v1/datasets")
        assert_problem(refused, 503, "database_unavailable")
        assert int(refused.headers["Retry-After"]) > 0
        metrics = client.get("/metrics").text
        assert 'foretune_check_ok{check="database"} 0.0' in metrics
        assert "foretune_jobs{" not in metrics


def test_without_its_objects_it_is_down(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file where the folder should be")
    with run_service(empty_zoo_settings(tmp_path)) as service:
        answer = service.client().get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["checks"]["objects"] != "ok"


def test_a_failure_nobody_foresaw_names_its_request(tmp_path: Path, postgres_url: str) -> None:
    with (
        own_database(postgres_url, "broken") as url,
        run_service(empty_zoo_settings(tmp_path, database_url=url)) as service,
    ):
        with service.database.write() as session:
            session.execute(text("ALTER TABLE datasets RENAME COLUMN bytes TO octets"))
        answer = service.client(service.admin_key).get("/v1/datasets", headers={"X-Request-Id": "lost-1"})
        assert_problem(answer, 500, "internal_error")
        assert answer.headers["X-Request-Id"] == "lost-1"


def _drop(postgres_url: str) -> None:
    database = Database(f"{postgres_url}/postgres")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE lost WITH (FORCE)"))
    database.close()


def test_a_database_that_falls_silent_hangs_nothing(tmp_path: Path, postgres_url: str) -> None:
    """It accepts connections and says nothing: the answers come within seconds, and it recovers."""
    server = urlsplit(postgres_url)
    assert server.port is not None
    with (
        own_database(postgres_url, "silent"),
        proxy(server.port) as wire,
        run_service(
            empty_zoo_settings(tmp_path, database_url=f"postgresql://{server.username}@127.0.0.1:{wire.port}/silent")
        ) as service,
    ):
        client = service.client(timeout=15)
        assert client.get("/readyz").json()["checks"]["database"] == "ok"
        time.sleep(1.1)  # an answer is good for a second
        wire.trouble = "silent"
        started = time.monotonic()
        answer, again = client.get("/readyz"), client.get("/readyz")
        metrics = client.get("/metrics")
        assert time.monotonic() - started < 10
        assert answer.status_code == again.status_code == 503
        assert answer.json()["checks"]["database"] == "no answer within 2 seconds"
        assert 'foretune_check_ok{check="database"} 0.0' in metrics.text
        assert client.get("/healthz").status_code == 200
        wire.trouble = "none"
        wait_for(lambda: client.get("/readyz").status_code == 200)


def test_a_silent_broker_degrades_and_a_missing_one_too(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connections wait in its backlog for ever
        for number, port in enumerate((silent.getsockname()[1], free_port())):
            settings = empty_zoo_settings(tmp_path / str(number), broker_url=f"redis://127.0.0.1:{port}/0")
            with run_service(settings) as service:
                started = time.monotonic()
                answer = service.client(timeout=15).get("/readyz")
                assert time.monotonic() - started < 5
            assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
            assert answer.json()["checks"]["broker"] != "ok"
            assert answer.json()["checks"]["database"] == "ok"


def test_metrics_tell_nobodys_secrets(service: RunningService, user: httpx.Client, tenant: str) -> None:
    dataset = user.post("/v1/datasets", content=b"secret", params={"name": "secret-project"}).json()["id"]
    user.request("BREW", f"/v1/datasets/{dataset}")
    told = service.client().get("/metrics").text
    for secret in (tenant, dataset, "secret-project", "BREW", service.admin_key):
        assert secret not in told
    depths = {text: value for text, value in values(told).items() if text.startswith("foretune_jobs{")}
    assert depths['foretune_jobs{kind="dataset",state="received"}'] >= 1
    assert "ready" not in " ".join(depths)
    assert values(told)['foretune_oldest_waiting_seconds{kind="dataset"}'] > 0
    assert values(told)['foretune_workers_alive{device="none"}'] == 0


def test_metrics_tell_what_webhooks_wait_for(service: RunningService, user: httpx.Client) -> None:
    hook = user.post("/v1/webhooks", json={"url": "https://example.com/"}).json()["links"]["self"]
    assert user.post(f"{hook}/test").status_code == 202
    time.sleep(1.1)  # an answer is good for a second
    before = values(service.client().get("/metrics").text)
    assert before["foretune_webhook_messages"] >= 1
    assert before["foretune_webhook_oldest_seconds"] > 0
    assert before["foretune_webhook_late_seconds"] > 0, "there is no worker"
    user.patch(hook, json={"status": "disabled"})
    time.sleep(1.1)
    after = values(service.client().get("/metrics").text)
    assert after["foretune_webhook_messages"] == before["foretune_webhook_messages"] - 1
    for state, more in {"active": -1, "disabled": 1, "failing": 0}.items():
        series = f'foretune_webhooks{{state="{state}"}}'
        assert after[series] == before[series] + more
