"""Webhooks arrive at a real receiver: signed, in order, again after a failure, and nowhere that is not public."""

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from sqlalchemy import select, update

from app.client import verify_webhook
from app.config import Settings
from app.domain.webhooks import MOST_ATTEMPTS, secret_text
from app.storage.database import Database
from app.storage.repositories.outbox import tell_test
from app.storage.repositories.webhooks import Webhooks
from app.storage.tables import AuditEvent, now
from app.storage.webhook_tables import Webhook, WebhookDelivery
from tests.contract.racing import race
from tests.contract.test_outbox import let_time_pass, settle
from tests.fixtures import monitoring
from tests.fixtures.receiver import Receiver, answer, running_receiver
from tests.fixtures.rows import TENANT, add_selection
from workers.delivery import Delivery
from workers.metrics import WEBHOOK_ATTEMPTS, WEBHOOK_OUTCOMES


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", webhook_private_hosts="127.0.0.1", webhook_timeout_seconds=1)


def add(database: Database, settings: Settings, url: str, *events: str, tenant: str = TENANT) -> tuple[str, str]:
    """Add a webhook, and return its id and its secret."""
    with database.write() as session:
        webhooks = Webhooks(session, tenant, settings.secret_bytes)
        row, key = webhooks.create(name="hook", url=url, events=events or ["selection.completed"])
        return row.id, secret_text(key)


def complete(database: Database, name: str = "alpha") -> str:
    """Let a selection come to its end, which is an event."""
    selection_id, _ = add_selection(database, name)
    assert settle(database, selection_id, 1, ended=True)
    return selection_id


def deliver(*senders: Delivery) -> int:
    """Send what is due, and wait until it has arrived or failed."""
    begun = sum(race(*[one.send_due for one in senders]))
    for one in senders:
        one.wait(20)
    return begun


def rows(database: Database) -> list[WebhookDelivery]:
    with database.read() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at)))


def only(database: Database) -> WebhookDelivery:
    (row,) = rows(database)
    return row


def last_error(database: Database) -> str:
    attempt: Any = only(database).last_attempt
    return str(attempt["error"]["code"])


def attempts() -> dict[str, float]:
    """Return how many attempts this process has counted, by what came of them."""
    for outcome in WEBHOOK_OUTCOMES:
        WEBHOOK_ATTEMPTS.labels(outcome)
    told = monitoring.values(generate_latest().decode())
    return {name: told[f'foretune_webhook_attempts_total{{outcome="{name}"}}'] for name in WEBHOOK_OUTCOMES}


class TestArrival:
    def test_what_arrives_is_signed(self, database: Database, settings: Settings, receiver: Receiver) -> None:
        webhook_id, secret = add(database, settings, f"{receiver.url}/hook?key=1")
        selection_id = complete(database)
        assert deliver(Delivery(database, settings)) == 1
        (message,) = receiver.messages
        assert message.path == "/hook?key=1"
        event = verify_webhook(message.headers, message.body, secret)
        assert (event.id, event.type) == (only(database).id, "selection.completed")
        assert (event.data["id"], event.data["status"]) == (selection_id, "done")
        assert message.headers["content-type"] == "application/json"
        row = only(database)
        assert (row.state, row.attempts, row.webhook_id) == ("delivered", 1, webhook_id)
        assert row.last_attempt is not None
        assert row.last_attempt["status_code"] == 204
        assert deliver(Delivery(database, settings)) == 0

    def test_after_a_rotation_both_secrets_are_good(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        webhook_id, old = add(database, settings, receiver.url)
        with database.write() as session:
            webhooks = Webhooks(session, TENANT, settings.secret_bytes)
            new = secret_text(webhooks.rotate(webhook_id, grace_hours=1)[1])
        complete(database)
        deliver(Delivery(database, settings))
        (message,) = receiver.messages
        assert old != new
        for secret in (old, new):
            verify_webhook(message.headers, message.body, secret)

    def test_two_workers_send_each_event_once(self, database: Database, settings: Settings, receiver: Receiver) -> None:
        add(database, settings, receiver.url)
        add(database, settings, receiver.url)
        for name in "abcdef":
            complete(database, name)
        senders = [Delivery(database, settings) for _ in range(3)]
        while deliver(*senders):
            pass
        assert len(receiver.messages) == 12
        assert len({message.id for message in receiver.messages}) == 12
        assert {row.attempts for row in rows(database)} == {1}

    def test_a_worker_with_another_secret_leaves_it_to_others(
        self, database: Database, settings: Settings, receiver: Receiver, tmp_path: Path
    ) -> None:
        _, secret = add(database, settings, receiver.url)
        complete(database)
        stranger = Delivery(database, Settings(home=tmp_path / "other", webhook_private_hosts="127.0.0.1"))
        assert deliver(stranger) == 1
        assert (receiver.messages, only(database).attempts) == ([], 0)
        assert deliver(stranger) == 0, "it does not try again and again"
        deliver(Delivery(database, settings))
        verify_webhook(receiver.messages[0].headers, receiver.messages[0].body, secret)


class TestCounts:
    def test_every_attempt_is_counted_by_what_came_of_it(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        before = attempts()
        receiver.behaviours += [answer(500), answer(204), answer(410)]
        add(database, settings, receiver.url)
        complete(database, "alpha")
        deliver(Delivery(database, settings))
        let_time_pass(database)
        deliver(Delivery(database, settings))
        complete(database, "beta")
        deliver(Delivery(database, settings))
        more = {name: count - before[name] for name, count in attempts().items()}
        assert more == {"delivered": 1, "retried": 1, "failed": 1, "superseded": 0, "lost": 0}

    def test_what_another_worker_took_over_is_counted_as_lost(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        def take_over(handler: BaseHTTPRequestHandler) -> None:
            with database.write() as session:
                session.execute(update(WebhookDelivery).values(lease_token="another's"))
            answer(204)(handler)

        before = attempts()
        receiver.behaviours.append(take_over)
        add(database, settings, receiver.url)
        complete(database)
        deliver(Delivery(database, settings))
        assert attempts() == before | {"lost": before["lost"] + 1}
        assert only(database).state == "pending"


class TestFailure:
    def test_it_is_sent_again_after_an_error_and_a_hang(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        def hang(handler: BaseHTTPRequestHandler) -> None:
            receiver.released.wait(20)

        receiver.behaviours += [answer(500, "out of\x00 order"), hang]
        _, secret = add(database, settings, receiver.url)
        complete(database)
        deliver(Delivery(database, settings))
        row = only(database)
        assert (row.state, row.attempts) == ("pending", 1)
        assert row.last_attempt is not None
        assert (row.last_attempt["status_code"], row.last_attempt["answer"]) == (500, "out of  order")
        assert deliver(Delivery(database, settings)) == 0, "it pauses"
        let_time_pass(database)
        began = time.monotonic()
        deliver(Delivery(database, settings))
        assert time.monotonic() - began < 5
        assert last_error(database) == "receiver_too_slow"
        let_time_pass(database, 60)
        deliver(Delivery(database, settings))
        assert only(database).state == "delivered"
        assert len({(message.id, message.body) for message in receiver.messages}) == 1, "the same thing three times"
        assert len(receiver.messages) == 3
        for message in receiver.messages:
            verify_webhook(message.headers, message.body, secret)

    def test_an_answer_that_comes_byte_by_byte_is_too_slow(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        def drip(handler: BaseHTTPRequestHandler) -> None:
            for byte in b"HTTP/1.1 200 OK\r\n" * 100:
                handler.wfile.write(bytes([byte]))
                if receiver.released.wait(0.05):
                    return

        receiver.behaviours.append(drip)
        add(database, settings, receiver.url)
        complete(database)
        began = time.monotonic()
        deliver(Delivery(database, settings))
        assert time.monotonic() - began < 5
        assert last_error(database) == "receiver_too_slow"

    def test_of_an_endless_answer_only_the_beginning_is_read(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        receiver.behaviours.append(answer(200, "ok " * 1_000_000))
        add(database, settings, receiver.url)
        complete(database)
        deliver(Delivery(database, settings))
        row = only(database)
        assert row.state == "delivered"
        assert row.last_attempt is not None
        assert len(row.last_attempt["answer"]) <= 500

    def test_a_receiver_that_asks_for_a_pause_gets_it(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        receiver.behaviours.append(answer(429, Retry_After="3600"))
        add(database, settings, receiver.url)
        complete(database)
        deliver(Delivery(database, settings))
        let_time_pass(database, 3500)
        assert deliver(Delivery(database, settings)) == 0
        let_time_pass(database, 200)
        assert deliver(Delivery(database, settings)) == 1

    def test_after_a_day_of_attempts_it_is_given_up(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        receiver.behaviours += [answer(500)] * MOST_ATTEMPTS
        add(database, settings, receiver.url)
        complete(database)
        for _ in range(MOST_ATTEMPTS):
            assert only(database).state == "pending"
            assert deliver(Delivery(database, settings)) == 1
            let_time_pass(database, 8 * 3600)
        assert (only(database).state, only(database).attempts) == ("failed", MOST_ATTEMPTS)
        assert deliver(Delivery(database, settings)) == 0

    def test_a_webhook_at_which_nothing_arrives_for_days_is_disabled(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        receiver.behaviours += [answer(500)]
        webhook_id, _ = add(database, settings, receiver.url)
        complete(database, "alpha")
        complete(database, "beta")
        with database.write() as session:
            session.execute(update(Webhook).values(failing_since=now() - timedelta(days=6)))
        deliver(Delivery(database, settings))
        with database.read() as session:
            webhook = session.get_one(Webhook, webhook_id)
            assert (webhook.state, webhook.reason) == ("disabled", "Nothing arrived for 5 days.")
            assert session.scalars(select(AuditEvent.action)).all() == ["webhook_disabled"]
        assert [row.state for row in rows(database)] == ["failed", "failed"]
        complete(database, "gamma")
        assert len(rows(database)) == 2, "nothing more is written for it"

    def test_one_that_arrives_makes_failures_forgotten(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        receiver.behaviours += [answer(500)]
        webhook_id, _ = add(database, settings, receiver.url)
        complete(database)
        deliver(Delivery(database, settings))
        with database.read() as session:
            assert session.get_one(Webhook, webhook_id).failing_since is not None
        let_time_pass(database)
        deliver(Delivery(database, settings))
        with database.read() as session:
            assert session.get_one(Webhook, webhook_id).failing_since is None

    def test_a_receiver_that_is_gone_is_asked_no_more(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        receiver.behaviours += [answer(410)]
        webhook_id, _ = add(database, settings, receiver.url)
        complete(database)
        deliver(Delivery(database, settings))
        with database.read() as session:
            assert session.get_one(Webhook, webhook_id).state == "disabled"
        assert only(database).state == "failed"

    def test_what_a_dead_worker_was_sending_is_sent_by_another(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        add(database, settings, receiver.url)
        complete(database)
        with database.write() as session:
            session.execute(
                update(WebhookDelivery).values(
                    lease_token="of the dead", lease_expires_at=WebhookDelivery.next_attempt_at + 60
                )
            )
        assert deliver(Delivery(database, settings)) == 0
        let_time_pass(database, 120)
        assert deliver(Delivery(database, settings)) == 1
        assert only(database).state == "delivered"

    def test_a_slow_receiver_holds_up_nobody_else(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        slow_settings = settings.model_copy(update={"webhook_timeout_seconds": 30.0})

        def hang(handler: BaseHTTPRequestHandler) -> None:
            receiver.released.wait(30)

        with running_receiver() as quick:
            for _ in range(6):
                add(database, settings, receiver.url)
                receiver.behaviours.append(hang)
            complete(database)
            sender = Delivery(database, slow_settings)
            assert sender.send_due() == 4, "no more of one tenant at a time"
            other = "rival"
            add(database, settings, quick.url, "webhook.test", tenant=other)
            with database.write() as session:
                webhook = session.scalars(select(Webhook).where(Webhook.tenant == other)).one()
                tell_test(session, webhook)
            stopping = threading.Event()
            running = threading.Thread(target=sender.run, args=(stopping,))
            running.start()
            deadline = time.monotonic() + 10
            while not quick.messages and time.monotonic() < deadline:
                time.sleep(0.02)
            stopping.set()
            running.join(10)
            assert quick.types == ["webhook.test"]
            assert len(receiver.messages) == 4
            receiver.released.set()
            sender.wait(20)


class TestAddresses:
    def test_what_is_not_public_is_not_connected_to(
        self, database: Database, settings: Settings, receiver: Receiver
    ) -> None:
        """A name that has become one of this machine since the webhook was made."""
        add(database, settings, receiver.url.replace("127.0.0.1", "localhost"))
        complete(database)
        deliver(Delivery(database, settings))
        assert (last_error(database), only(database).state) == ("address_not_public", "pending")
        assert receiver.messages == []

    def test_a_redirect_leads_nowhere(self, database: Database, settings: Settings, receiver: Receiver) -> None:
        port = receiver.url.rpartition(":")[2]
        receiver.behaviours.append(answer(307, Location=f"http://localhost:{port}/secret"))
        add(database, settings, receiver.url)
        complete(database)
        deliver(Delivery(database, settings))
        row = only(database)
        assert row.last_attempt is not None
        assert (row.state, row.last_attempt["status_code"]) == ("pending", 307)
        assert len(receiver.messages) == 1

    def test_nothing_is_sent_where_nobody_listens(self, database: Database, settings: Settings) -> None:
        add(database, settings, "http://127.0.0.1:1/")
        complete(database)
        deliver(Delivery(database, settings))
        assert last_error(database) == "receiver_unreachable"

    def test_a_proxy_of_the_environment_is_not_asked(
        self, database: Database, settings: Settings, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with running_receiver() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
                monkeypatch.setenv(name, proxy.url)
            add(database, settings, receiver.url)
            complete(database)
            deliver(Delivery(database, settings))
            assert (len(receiver.messages), proxy.messages) == (1, [])
