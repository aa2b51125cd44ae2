"""Nothing is sent to an address that is not public, however it is written."""

import pytest

from app.domain.errors import DeliveryFailed
from tests.fixtures.receiver import Receiver, running_receiver
from workers.webhook_request import Sender


def send(url: str, *private_hosts: str) -> str | int:
    """Return the status of the answer, or the code of the failure."""
    try:
        return Sender(private_hosts=private_hosts, timeout_seconds=2).post(url, {"webhook-id": "msg_1"}, b"{}").status
    except DeliveryFailed as failure:
        return failure.code


def port(receiver: Receiver) -> str:
    return receiver.url.rpartition(":")[2]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{port}/",
        "http://LOCALHOST:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f000001:{port}/",
        "http://0177.0.0.1:{port}/",
        "http://127.1:{port}/",
        "http://127.0.0.2:{port}/",
        "http://0.0.0.0:{port}/",
        "http://[::1]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::ffff:7f00:1]:{port}/",
        "http://[::]:{port}/",
        "http://[fe80::1]:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
    ],
)
def test_addresses_that_are_not_public_are_not_connected_to(url: str) -> None:
    with running_receiver() as receiver:
        assert send(url.format(port=port(receiver)), "127.0.0.1") == "address_not_public"
        assert receiver.messages == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "2130706433", "[::ffff:127.0.0.1]"])
def test_a_host_that_is_allowed_is_connected_to(host: str) -> None:
    with running_receiver() as receiver:
        allowed = host.lower().strip("[]")
        assert send(f"http://{host}:{port(receiver)}/", allowed) == 204
        assert [message.headers["webhook-id"] for message in receiver.messages] == ["msg_1"]


@pytest.mark.parametrize("url", ["https://nobody.invalid/", "http://a..b/", "https://" + "x" * 70 + ".com/"])
def test_a_name_that_means_nothing(url: str) -> None:
    assert send(url) == "receiver_unreachable"


def test_what_answers_is_not_tls_or_not_http() -> None:
    with running_receiver() as receiver:
        assert send(f"https://127.0.0.1:{port(receiver)}/", "127.0.0.1") == "receiver_unreachable"
        receiver.behaviours.append(lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"))
        assert send(receiver.url, "127.0.0.1") == "receiver_unreachable"
