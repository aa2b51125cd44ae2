"""Whatever is sent, the answer is a proper one: never a 500, and every refusal is a problem that says what to do."""

import base64
import json
import random
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.api.body_limit import MAX_JSON_BYTES
from tests.api.problem import FIELDS, assert_problem
from tests.api.test_access import ROUTES
from tests.fixtures.rows import spec
from tests.fixtures.service import RunningService

ODD_TEXTS = [
    "\x00",
    "a\x00b",
    "\x1b[31m",
    "ё" * 300,
    "👟\u202e",
    "../../etc/passwd",
    "%",
    "' OR 1=1 --",
    "{}",
    "null",
    "x" * 5000,
    "\ud800",
]
JSON_ROUTES = [
    *(("POST", "/v1/selections"), ("POST", "/v1/models"), ("POST", "/v1/keys")),
    *(("PATCH", "/v1/models/mdl_x"), ("PUT", "/v1/zoos/fuzzed")),
]
fuzzing = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_proper(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert set(problem) == FIELDS
        assert problem["hint"]
        assert problem["status"] == answer.status_code


def odd_ids() -> Iterator[str]:
    for text in ODD_TEXTS:
        if text != "\ud800":
            yield quote(text, safe="")
    yield "%ff%fe"
    yield "%ED%A0%80"  # half a surrogate pair, as UTF-8 would have it
    yield "ds_" + "0" * 26
    yield "%2F"


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{" in route[1]])
def test_odd_ids(admin: httpx.Client, method: str, path: str) -> None:
    for odd in odd_ids():
        filled = "/".join(odd if part.startswith("{") else part for part in path.split("/"))
        answer = admin.request(method, filled, json={"status": "active"} if method == "PATCH" else None)
        assert_proper(answer)
        assert answer.status_code >= 400


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "GET" and "{" not in path])
def test_odd_queries(admin: httpx.Client, path: str) -> None:
    rng = random.Random(0)
    odd = [text for text in ODD_TEXTS if text != "\ud800"]
    odd += [base64.urlsafe_b64encode(rng.randbytes(length)).decode() for length in range(1, 30, 4)]
    cursors = ["2024-01-01T00:00:00+00:00|x\x00", "0001-01-01T00:00:00+23:59|ds_0", "9999-12-31T23:59:59-23:59|ds_0"]
    odd += [base64.urlsafe_b64encode(text.encode()).decode() for text in (*cursors, "|", "||")]
    for text in odd:
        assert_proper(admin.get(path, params={"after": text}))
        assert_proper(admin.get(path, params={"limit": text}))
        assert_proper(admin.get(path, params={"status": text, "format": text, "wait": text, text: text}))


def matches(template: str, path: str) -> bool:
    """Tell whether a route's path takes another's: /v1/models/{model_id} takes /v1/models/import."""
    pairs = list(zip(template.split("/"), path.split("/"), strict=False))
    return template.count("/") == path.count("/") and all(part == own or part[:1] == "{" for part, own in pairs)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_other_methods(admin: httpx.Client, method: str, path: str) -> None:
    allowed = {one for one, other in ROUTES if matches(other, path)}
    for other in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
        answer = admin.request(other, path)
        assert_problem(answer, 405, "method_not_allowed")
        assert set(answer.headers["Allow"].split(", ")) == {one for one, own in ROUTES if own == path}


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/datasets", "/v1/datasets/", "/v1/datasets/a/b", "/v1/nothing", "//", "/v1/datasets/%00/x"]
)
def test_unknown_routes(admin: httpx.Client, path: str) -> None:
    assert_problem(admin.request("GET", admin.base_url.join(quote(path, safe="/%"))), 404, "route_not_found")


@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "invalid_request"),
        (b"{", 400, "invalid_json"),
        (b"{'dataset': 1}", 400, "invalid_json"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b'{"name": "\xff"}', 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b"[" * 900 + b"]" * 900, 422, "invalid_request"),
        (b"[]", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b'"text"', 422, "invalid_request"),
        (b"9" * 5000, 400, "invalid_json"),
        (b"NaN", 422, "invalid_request"),
        (b" " * (MAX_JSON_BYTES + 1), 413, "body_too_large"),
    ],
    ids=range(13),
)
def test_bodies_that_are_no_object(
    admin: httpx.Client, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    headers = {"Content-Type": "application/json"}
    assert_problem(admin.request(method, path, content=body, headers=headers), status, code)


def test_a_large_json_body_in_chunks(service: RunningService) -> None:
    """Without a key: the body is read before the caller is known."""
    pieces = (b" " * 65536 for _ in range(MAX_JSON_BYTES // 65536 + 1))
    headers = {"Content-Type": "application/json"}
    assert_problem(service.client().post("/v1/selections", content=pieces, headers=headers), 413, "body_too_large")


@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
@fuzzing
@given(
    body=st.dictionaries(
        st.sampled_from(
            [
                "dataset",
                "models",
                "scores",
                "name",
                "tenant",
                "scopes",
                "status",
                "reason",
                "source",
                "tags",
                "constraints",
                "zoo",
                "watch",
            ]
        )
        | st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(ODD_TEXTS),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=5,
    )
)
@example(body={"\ud800": 1})
@example(body={"name": "\ud800", "dataset": "\ud800", "models": ["\ud800"], "scores": ["\ud800"]})
@example(body={"name": "x", "tenant": "\ud800"})
def test_any_object(admin: httpx.Client, method: str, path: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    assert_proper(admin.request(method, path, content=json.dumps(body).encode(), headers=headers))


@fuzzing
@given(
    field=st.sampled_from(["name", "architecture", "license", "notes", "homepage", "preprocessing", "head", "source"]),
    value=st.sampled_from(
        [*ODD_TEXTS, 10**400, -(10**400), 1e308, float("nan"), float("inf"), 2**63, True, None, [[[[]]]], {"a": {}}]
    ),
    nested=st.sampled_from(
        [None, "mean", "std", "crop", "resize", "divide_by", "num_classes", "uri", "sha256", "type"]
    ),
)
@example(field="preprocessing", value=10**400, nested="divide_by")
@example(field="name", value="x" * 5000, nested=None)
def test_any_specification(admin: httpx.Client, field: str, value: Any, nested: str | None) -> None:
    full = spec("fuzzed").as_dict() | {
        "preprocessing": {
            "resize": 256,
            "crop": [224, 224],
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "head": {"num_classes": 10, "label_set": "digits"},
    }
    if nested is not None and isinstance(full[field], dict):
        full[field] = full[field] | {nested: [value] * 3 if nested in ("mean", "std") else value}
    else:
        full[field] = value
    headers = {"Content-Type": "application/json"}
    answer = admin.post("/v1/models", content=json.dumps(full).encode(), headers=headers)
    assert_proper(answer)
    if answer.status_code < 300:
        assert admin.get(answer.headers["Location"]).status_code == 200


@fuzzing
@given(body=st.binary(max_size=400), boundary=st.binary(max_size=80))
def test_any_form(user: httpx.Client, body: bytes, boundary: bytes) -> None:
    content_type = b"multipart/form-data; boundary=" + bytes(byte for byte in boundary if 32 < byte < 127)
    assert_proper(user.post("/v1/datasets", content=body, headers={b"Content-Type": content_type}))
    edges = b"--b\r\n" + body + b"\r\n--b--\r\n"
    assert_proper(user.post("/v1/datasets", content=edges, headers={"Content-Type": "multipart/form-data; boundary=b"}))


@pytest.mark.parametrize("name", [text for text in ODD_TEXTS if text != "\ud800"])
def test_odd_names(service: RunningService, user: httpx.Client, name: str) -> None:
    uploads = [
        user.post("/v1/datasets", params={"name": name}, content=name.encode()),
        user.post("/v1/datasets", files={"file": ("a.zip", b"form" + name.encode())}, data={"name": name}),
    ]
    for answer in uploads:
        assert_proper(answer)
        if answer.status_code == 202:
            assert answer.json()["name"] == name
            assert user.get(answer.headers["Location"]).json()["name"] == name
    assert len({answer.status_code for answer in uploads}) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/datasets?after=\xff\xfe HTTP/1.1\r\n",
        b"GET /v1/datasets/\xff\xfe HTTP/1.1\r\n",
        b"GET /v1/datasets HTTP/1.1\r\nX-Request-Id: \xff\xfe\r\n",
        b"GET /v1/datasets HTTP/1.1\r\nIf-None-Match: \xff\xfe\r\n",
        b"POST /v1/datasets HTTP/1.1\r\nContent-Type: \xff\xfe; \xff=\xfe\r\nContent-Length: 0\r\n",
        b"POST /v1/datasets HTTP/1.1\r\nIdempotency-Key: \xff\xfe\r\nContent-Length: 0\r\n",
        b"POST /v1/datasets HTTP/1.1\r\nContent-Length: -1\r\n",
        b"POST /v1/selections HTTP/1.1\r\nContent-Type: \xff/\xfe\r\nContent-Length: 2\r\n",
    ],
)
def test_bytes_that_no_client_library_would_send(service: RunningService, admin: httpx.Client, head: bytes) -> None:
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        key = admin.headers["Authorization"].encode()
        connection.sendall(head + b"Host: x\r\nConnection: close\r\nAuthorization: " + key + b"\r\n\r\n{}")
        answer = b""
        while received := connection.recv(65536):
            answer += received
    status = int(answer.split(b" ", 2)[1]) if answer else 400
    assert status < 500, answer
