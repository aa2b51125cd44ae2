"""POST /v1/datasets: what a client may send, and what is left when it goes wrong."""

import hashlib
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import func, select

from app.storage.tables import Dataset
from tests.api.problem import assert_problem
from tests.contract.racing import race
from tests.fixtures.service import MAX_UPLOAD_BYTES, RunningService

ARCHIVE = bytes(range(256)) * 1000
BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def post_form(client: httpx.Client, body: bytes, content_type: str = FORM) -> httpx.Response:
    return client.post("/v1/datasets", content=body, headers={"Content-Type": content_type})


@pytest.fixture
def leaves_nothing(service: RunningService, tenant: str) -> Iterator[None]:
    """Assert that what the test does leaves neither a row nor an object."""
    before = service.objects.keys()
    yield
    assert service.objects.keys() == before
    assert count(service, tenant) == 0


def count(service: RunningService, tenant: str) -> int:
    with service.database.read() as session:
        return session.scalar(select(func.count()).select_from(Dataset).where(Dataset.tenant == tenant)) or 0


class TestReceiving:
    def test_a_raw_body(self, service: RunningService, user: httpx.Client) -> None:
        answer = user.post("/v1/datasets", params={"name": "shoes"}, content=ARCHIVE)
        assert answer.status_code == 202
        body = answer.json()
        assert answer.headers["Location"] == f"/v1/datasets/{body['id']}" == body["links"]["self"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert body["sha256"] == hashlib.sha256(ARCHIVE).hexdigest()
        assert (body["bytes"], body["name"], body["status"], body["object"]) == (
            len(ARCHIVE),
            "shoes",
            "received",
            "dataset",
        )
        with service.objects.open(f"uploads/{body['id']}") as file:
            assert file.read() == ARCHIVE
        assert user.get(answer.headers["Location"]).json() == body

    def test_a_form_with_a_name(self, service: RunningService, user: httpx.Client) -> None:
        answer = user.post("/v1/datasets", files={"file": ("a.zip", ARCHIVE)}, data={"name": "Schuhe 👟"})
        assert answer.status_code == 202
        assert answer.json()["name"] == "Schuhe 👟"
        assert answer.json()["sha256"] == hashlib.sha256(ARCHIVE).hexdigest()
        with service.objects.open(f"uploads/{answer.json()['id']}") as file:
            assert file.read() == ARCHIVE

    def test_the_name_may_follow_the_file_or_be_empty(self, user: httpx.Client) -> None:
        after = post_form(user, form(part("file", b"one", "a.zip"), part("name", b"after")))
        assert after.json()["name"] == "after"
        empty = post_form(user, form(part("file", b"two", "a.zip"), part("name", b"")))
        assert empty.json()["name"] == "a.zip"  # as people know the file

    def test_a_stream_of_unknown_length(self, user: httpx.Client) -> None:
        pieces = [ARCHIVE[start : start + 7000] for start in range(0, len(ARCHIVE), 7000)]
        body = user.post("/v1/datasets", content=iter(pieces)).json()
        assert (body["sha256"], body["bytes"]) == (hashlib.sha256(ARCHIVE).hexdigest(), len(ARCHIVE))

    @pytest.mark.parametrize("step", [1, 3, 17])
    def test_a_form_that_arrives_in_pieces(self, user: httpx.Client, step: int) -> None:
        content = f"\r\n--{BOUNDARY[:-1]}\r\n--x".encode() * 3  # almost a boundary
        body = form(part("name", b"pieces"), part("file", content, "a.zip"))
        pieces = (body[start : start + step] for start in range(0, len(body), step))
        answer = user.post("/v1/datasets", content=pieces, headers={"Content-Type": FORM})
        assert (answer.status_code, answer.json()["name"]) == (202, "pieces")
        assert answer.json()["sha256"] == hashlib.sha256(content).hexdigest()

    def test_an_upload_of_just_the_limit(self, user: httpx.Client) -> None:
        content = b"x" * MAX_UPLOAD_BYTES
        assert user.post("/v1/datasets", files={"file": ("a.zip", content)}).status_code == 202
        assert user.post("/v1/datasets", content=content).status_code == 200

    def test_the_same_bytes_again(self, service: RunningService, user: httpx.Client, tenant: str) -> None:
        first = user.post("/v1/datasets", content=ARCHIVE, params={"name": "first"})
        objects = service.objects.keys()
        again = user.post("/v1/datasets", files={"file": ("b.zip", ARCHIVE)}, data={"name": "second"})
        assert again.status_code == 200
        assert again.json() == first.json()
        assert again.headers["Location"] == first.headers["Location"]
        assert service.objects.keys() == objects
        assert count(service, tenant) == 1

    def test_the_same_bytes_from_many_at_once(self, service: RunningService, user: httpx.Client, tenant: str) -> None:
        before = service.objects.keys()
        answers = race(*[lambda: user.post("/v1/datasets", content=ARCHIVE)] * 8)
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert count(service, tenant) == 1
        assert len(service.objects.keys()) == len(before) + 1


class TestIdempotency:
    def test_a_replay_gets_the_first_answer(self, service: RunningService, user: httpx.Client, tenant: str) -> None:
        headers = {"Idempotency-Key": "upload-1"}
        first = user.post("/v1/datasets", content=ARCHIVE, headers=headers)
        objects = service.objects.keys()
        again = user.post("/v1/datasets", content=ARCHIVE, headers=headers)
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["Location"] == first.headers["Location"]
        assert service.objects.keys() == objects
        assert count(service, tenant) == 1

    def test_many_at_once_are_one(self, service: RunningService, user: httpx.Client, tenant: str) -> None:
        headers = {"Idempotency-Key": "upload-2"}
        answers = race(*[lambda: user.post("/v1/datasets", content=ARCHIVE, headers=headers)] * 6)
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.text for answer in answers}) == 1
        assert count(service, tenant) == 1

    def test_another_upload_with_the_key_is_refused(
        self, service: RunningService, user: httpx.Client, tenant: str
    ) -> None:
        headers = {"Idempotency-Key": "upload-3"}
        user.post("/v1/datasets", content=b"one", headers=headers)
        objects = service.objects.keys()
        for other in (
            user.post("/v1/datasets", content=b"two", headers=headers),
            user.post("/v1/datasets", content=b"one", params={"name": "other"}, headers=headers),
        ):
            assert_problem(other, 422, "idempotency_key_reused", param="Idempotency-Key")
        assert service.objects.keys() == objects
        assert count(service, tenant) == 1

    def test_a_key_has_a_length(self, user: httpx.Client) -> None:
        for key in ("", "k" * 256):
            answer = user.post("/v1/datasets", content=b"one", headers={"Idempotency-Key": key})
            assert_problem(answer, 422, "invalid_request", param="Idempotency-Key")
        assert user.post("/v1/datasets", content=b"one", headers={"Idempotency-Key": "k" * 255}).status_code == 202


@pytest.mark.usefixtures("leaves_nothing")
class TestRefusing:
    def test_too_large_and_announced(self, user: httpx.Client) -> None:
        answer = user.post("/v1/datasets", content=b"x" * (MAX_UPLOAD_BYTES + 1))
        assert_problem(answer, 413, "upload_too_large", param="file")

    def test_too_large_in_a_form(self, user: httpx.Client) -> None:
        answer = user.post("/v1/datasets", files={"file": ("a.zip", b"x" * (MAX_UPLOAD_BYTES + 1))})
        assert_problem(answer, 413, "upload_too_large", param="file")

    @pytest.mark.parametrize("times", [1, 40])
    def test_too_large_in_chunks(self, user: httpx.Client, times: int) -> None:
        pieces = (b"x" * (1 << 16) for _ in range(16 * times + 1))
        assert_problem(user.post("/v1/datasets", content=pieces), 413, "upload_too_large", param="file")

    def test_a_form_whose_file_is_small_and_whose_rest_is_large(self, user: httpx.Client) -> None:
        tail = (b"after the end " * 1000 for _ in range(2 * MAX_UPLOAD_BYTES // 14_000))

        def pieces() -> Iterator[bytes]:
            yield form(part("file", b"x", "a.zip"))
            yield from tail

        answer = user.post("/v1/datasets", content=pieces(), headers={"Content-Type": FORM})
        assert_problem(answer, 413, "upload_too_large")

    @pytest.mark.parametrize("body", [b"", iter([])], ids=["announced", "chunked"])
    def test_empty(self, user: httpx.Client, body: bytes | Iterator[bytes]) -> None:
        assert_problem(user.post("/v1/datasets", content=body), 422, "empty_upload", param="file")

    def test_an_empty_file_in_a_form(self, user: httpx.Client) -> None:
        assert_problem(post_form(user, form(part("file", b"", "a.zip"))), 422, "empty_upload", param="file")

    @pytest.mark.parametrize(
        ("body", "content_type", "code"),
        [
            (form(part("name", b"shoes")), FORM, "missing_file"),
            (form(), FORM, "missing_file"),
            (form(part("file", b"1", "a.zip"), part("file", b"2", "b.zip")), FORM, "malformed_multipart"),
            (form(part("file", b"1", "a.zip"), part("files", b"2", "b.zip")), FORM, "unknown_field"),
            (form(part("fiel", b"1", "a.zip")), FORM, "unknown_field"),
            (part("file", b"breaks off", "a.zip"), FORM, "malformed_multipart"),
            (part("file", b"breaks off", "a.zip")[:40], FORM, "malformed_multipart"),
            (b"", FORM, "malformed_multipart"),
            (b"this is no form", FORM, "malformed_multipart"),
            (b"PK\x03\x04" + bytes(300), FORM, "malformed_multipart"),
            (form(part("file", b"1", "a.zip")), "multipart/form-data", "malformed_multipart"),
            (form(part("file", b"1", "a.zip")), "multipart/form-data; boundary=other", "malformed_multipart"),
            (form(part("file", b"1", "a.zip")), f"multipart/form-data; boundary={'x' * 500}", "malformed_multipart"),
            (form(part("file", b"1", "a.zip"), part("name", b"x" * 201)), FORM, "invalid_request"),
            (form(part("name", b"x" * 100_000), part("file", b"1", "a.zip")), FORM, "invalid_request"),
            (form(part("name", b"a\x00b"), part("file", b"1", "a.zip")), FORM, "invalid_request"),
            (form(part("file" + "x" * 100_000, b"1")), FORM, "malformed_multipart"),
        ],
    )
    def test_a_form_that_is_none(self, user: httpx.Client, body: bytes, content_type: str, code: str) -> None:
        assert_problem(post_form(user, body, content_type), 422, code)

    @pytest.mark.parametrize("name", ["", "x" * 201, "a\x00b"])
    def test_an_impossible_name(self, user: httpx.Client, name: str) -> None:
        answer = user.post("/v1/datasets", content=b"one", params={"name": name})
        assert_problem(answer, 422, "invalid_request", param="url" if "\x00" in name else "name")

    @pytest.mark.parametrize("sent", [0, 100, 500_000])
    @pytest.mark.parametrize("framing", ["Content-Length: 900000", "Transfer-Encoding: chunked"])
    def test_a_client_that_goes_away(
        self, service: RunningService, user: httpx.Client, tenant: str, sent: int, framing: str
    ) -> None:
        address = urlsplit(service.url)
        chunk = b"x" * sent
        if "chunked" in framing and sent:
            chunk = f"{sent:x}\r\n".encode() + chunk + b"\r\n"
        with socket.create_connection((address.hostname, address.port)) as connection:
            head = f"POST /v1/datasets HTTP/1.1\r\nHost: x\r\n{framing}\r\nAuthorization: "
            connection.sendall(head.encode() + user.headers["Authorization"].encode() + b"\r\n\r\n" + chunk)
            wait_until(lambda: count(service, tenant) == 1)
        wait_until(lambda: count(service, tenant) == 0)


def test_an_upload_that_is_deleted_while_it_goes_on(service: RunningService, user: httpx.Client, tenant: str) -> None:
    before = service.objects.keys()

    def pieces() -> Iterator[bytes]:
        yield b"one"
        wait_until(lambda: count(service, tenant) == 1)
        [arriving] = user.get("/v1/datasets").json()["data"]
        assert arriving["status"] == "receiving"
        assert service.client(user.headers["Authorization"].split()[1]).delete(
            f"/v1/datasets/{arriving['id']}"
        ).status_code == 204  # fmt: skip
        yield b"two"

    assert_problem(user.post("/v1/datasets", content=pieces()), 404, "dataset_not_found")
    assert service.objects.keys() == before


def wait_until(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
