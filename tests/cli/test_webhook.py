"""``foretune webhook``, with a real receiver."""

import sys
import threading
from collections.abc import Iterator

import pytest
import structlog

from app.client import Foretune, verify_webhook
from app.config import Settings
from tests.cli.conftest import Served
from tests.fixtures.receiver import Receiver, answer, running_receiver
from workers.delivery import Delivery


@pytest.fixture
def receiver(served: Served) -> Iterator[Receiver]:
    """Yield a receiver, while webhooks are being sent as a worker does."""
    settings = Settings(home=served.home, webhook_private_hosts="127.0.0.1", webhook_timeout_seconds=2)
    logging = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(file=sys.__stderr__))  # not into commands' output
    stopping, delivery = threading.Event(), Delivery(served.database, settings)
    thread = threading.Thread(target=delivery.run, args=(stopping,))
    thread.start()
    try:
        with running_receiver() as running:
            yield running
    finally:
        stopping.set()
        thread.join(10)
        delivery.wait(10)
        structlog.configure(**logging)


def test_from_its_making_to_its_end(served: Served, receiver: Receiver) -> None:
    made = served.run("webhook", "add", receiver.url, "--event", "selection.completed", "--name", "lab")
    secret = made.out.strip()
    assert secret.startswith("whsec_")
    (row,) = served.run("webhook", "list", "--json").json
    assert (row["name"], row["url"], row["events"]) == ("lab", receiver.url, ["selection.completed"])
    assert row["id"] in made.err
    tried = served.run("webhook", "test", row["id"])
    assert (tried.code, tried.out[:26]) == (0, "The receiver answered 204 ")
    (message,) = receiver.messages
    assert verify_webhook(message.headers, message.body, secret).data["id"] == row["id"]
    assert "webhook.test" in served.run("webhook", "deliveries", row["id"]).out
    receiver.behaviours.append(answer(500))
    failed = served.run("webhook", "test", row["id"], "--json")
    assert (failed.code, failed.json["status"], failed.json["last_attempt"]["status_code"]) == (1, "pending", 500)
    rotated = served.run("webhook", "rotate", row["id"], "--grace-hours", "0").out.strip()
    assert rotated.startswith("whsec_")
    assert rotated != secret
    assert "is disabled" in served.run("webhook", "disable", row["id"]).out
    refused = served.run("webhook", "test", row["id"], "--json")
    assert (refused.code, "webhook_disabled" in refused.err) == (1, True)
    assert "is active" in served.run("webhook", "enable", row["id"]).out
    assert "Removed" in served.run("webhook", "remove", row["id"]).out
    assert served.run("webhook", "list", "--json").json == []


def test_a_url_that_is_refused(served: Served) -> None:
    refused = served.run("webhook", "add", "https://10.0.0.1/", "--json")
    assert refused.code == 1
    assert "address_not_public" in refused.err


def test_the_client_changes_what_is_given(served: Served, client: Foretune) -> None:
    made = client.webhooks.create("https://example.com/")
    assert len(made.events) == 5
    changed = client.webhooks.change(made.id, url="https://example.org/", name="other")
    assert (changed.url, changed.name, changed.events) == ("https://example.org/", "other", made.events)
    assert client.webhooks.get(made.id) == changed
    client.webhooks.delete(made.id)
