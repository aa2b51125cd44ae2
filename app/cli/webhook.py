"""``foretune webhook``: being told of events."""

import time
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import AsJson
from app.cli.session import session

if TYPE_CHECKING:
    from app.client import Foretune
    from app.client.webhooks import Delivery

commands = typer.Typer(help="Have events posted to a URL of yours.", no_args_is_help=True)

WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="Id of a webhook, wh_...")]

_EVENT_HELP = (
    "dataset.ready, dataset.rejected, selection.revision, selection.completed or finetune.completed; "
    "again for more. By default all."
)
_TEST_SECONDS = 20.0


@commands.command()
def add(
    url: Annotated[str, typer.Argument(help="Where events are posted to.")],
    event: Annotated[list[str] | None, typer.Option(help=_EVENT_HELP)] = None,
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a webhook and print its secret. It cannot be read again."""
    with session(as_json=as_json) as (terminal, client):
        made = client.webhooks.create(url, events=event, name=name)
        terminal.note(f"{made.id} hears of {', '.join(made.events)}. Its secret is shown once:")
        terminal.answer(made, made.secret)


@commands.command("list")
def list_webhooks(as_json: AsJson = False) -> None:
    """List webhooks, newest first."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(client.webhooks.list()),
            ("id", "name", "url", "events", "status", "reason"),
            lambda one: (one.id, one.name, one.url, ", ".join(one.events), one.status, one.reason or ""),
        )


@commands.command("test")
def send_test(webhook: WebhookId, as_json: AsJson = False) -> None:
    """Send a webhook something, and tell what came of it. Ends with 1 if it did not arrive."""
    with session(as_json=as_json) as (terminal, client):
        sent = _tried(client, webhook, client.webhooks.test(webhook))
        attempt = sent.last_attempt
        if attempt is None:
            what = (
                f"Nothing was sent within {_TEST_SECONDS:g} seconds: see foretune status for whether a worker is alive."
            )
        elif attempt.error is not None:
            what = attempt.error.message
        else:
            what = f"The receiver answered {attempt.status_code} after {attempt.seconds:.2f} s."
        terminal.answer(sent, what)
        if sent.status != "delivered":
            raise typer.Exit(1)


@commands.command()
def deliveries(
    webhook: WebhookId,
    last: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List what was and is to be sent to a webhook, newest first."""
    with session(as_json=as_json) as (terminal, client):
        terminal.list(
            list(islice(client.webhooks.deliveries(webhook), last)),
            ("id", "event", "about", "revision", "status", "attempts", "answer"),
            lambda one: (one.id, one.type, one.subject, one.revision, one.status, one.attempts, _answer(one)),
        )


@commands.command()
def rotate(
    webhook: WebhookId,
    grace_hours: Annotated[float, typer.Option(min=0, help="How long the secret before signs, too.")] = 24,
    as_json: AsJson = False,
) -> None:
    """Give a webhook another secret and print it. It cannot be read again."""
    with session(as_json=as_json) as (terminal, client):
        made = client.webhooks.rotate(webhook, grace_hours=grace_hours)
        terminal.note(f"For {grace_hours:g} hours, what is sent to {made.id} is signed with the secret before, too.")
        terminal.answer(made, made.secret)


@commands.command()
def enable(webhook: WebhookId, as_json: AsJson = False) -> None:
    """Send events to a webhook again."""
    with session(as_json=as_json) as (terminal, client):
        changed = client.webhooks.change(webhook, status="active")
        terminal.answer(changed, f"{changed.id} is {changed.status}.")


@commands.command()
def disable(webhook: WebhookId, as_json: AsJson = False) -> None:
    """Send nothing to a webhook, and give up what was to be sent."""
    with session(as_json=as_json) as (terminal, client):
        changed = client.webhooks.change(webhook, status="disabled")
        terminal.answer(changed, f"{changed.id} is {changed.status}.")


@commands.command()
def remove(webhook: WebhookId, as_json: AsJson = False) -> None:
    """Remove a webhook."""
    with session(as_json=as_json) as (terminal, client):
        client.webhooks.delete(webhook)
        terminal.answer({"id": webhook, "deleted": True}, f"Removed {webhook}.")


def _tried(client: "Foretune", webhook: str, sent: "Delivery") -> "Delivery":
    """Return a delivery once it was tried, or after a while."""
    deadline = time.monotonic() + _TEST_SECONDS
    while sent.last_attempt is None and time.monotonic() < deadline:
        time.sleep(0.3)
        sent = next((one for one in islice(client.webhooks.deliveries(webhook), 200) if one.id == sent.id), sent)
    return sent


def _answer(delivery: "Delivery") -> str:
    attempt = delivery.last_attempt
    if attempt is None:
        return ""
    return attempt.error.code if attempt.error else str(attempt.status_code)
