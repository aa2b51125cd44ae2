"""How often a key may ask, and an address may guess: alone, with other processes, and while Redis is away."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.api.problem import assert_problem
from tests.fixtures.servers import free_port
from tests.fixtures.service import RunningService, empty_zoo_settings, run_service

PER_MINUTE = 8


@contextmanager
def limited(home: Path, **more: object) -> Iterator[RunningService]:
    with run_service(empty_zoo_settings(home, **({"requests_per_minute": PER_MINUTE} | more))) as service:
        yield service


def ask(client: httpx.Client, times: int) -> list[int]:
    return [client.get("/v1/usage").status_code for _ in range(times)]


def test_a_key_is_told_what_is_left_and_refused_beyond_it(tmp_path: Path) -> None:
    with limited(tmp_path) as service:
        client = service.client(service.key("read", tenant="acme"))
        for left in reversed(range(PER_MINUTE)):
            answer = client.get("/v1/usage" if left % 2 else "/v1/datasets/ds_none")
            assert answer.status_code == (200 if left % 2 else 404)
            assert answer.headers["RateLimit-Limit"] == str(PER_MINUTE)
            assert answer.headers["RateLimit-Remaining"] == str(left), "errors cost as much and tell as much"
            reset = int(answer.headers["RateLimit-Reset"])
            assert 1 <= reset <= 60
            assert answer.headers["RateLimit-Policy"] == f'"key";q={PER_MINUTE};w=60'
            assert answer.headers["RateLimit"] == f'"key";r={left};t={reset}'
        refused = client.get("/v1/usage")
        assert_problem(refused, 429, "rate_limited")
        assert refused.headers["RateLimit-Remaining"] == "0"
        assert int(refused.headers["Retry-After"]) == int(refused.headers["RateLimit-Reset"])
        other = service.client(service.key("read", tenant="acme"))
        assert other.get("/v1/usage").status_code == 200, "each key has its own number"


def test_health_is_never_limited(tmp_path: Path) -> None:
    with limited(tmp_path, failed_keys_per_minute=1) as service:
        client = service.client(service.admin_key)
        assert set(ask(client, PER_MINUTE + 1)) == {200, 429}
        for path in ("/healthz", "/readyz", "/metrics"):
            for _ in range(PER_MINUTE + 1):
                answer = client.get(path)
                assert answer.status_code == 200
                assert "RateLimit" not in answer.headers


def test_who_guesses_keys_has_to_pause(tmp_path: Path) -> None:
    with limited(tmp_path, failed_keys_per_minute=5, requests_per_minute=0) as service:
        honest = service.client(service.admin_key)
        assert ask(honest, 1) == [200]
        guesser = service.client("ft_000000000000_guess")
        assert ask(guesser, 5) == [401] * 5
        answer = guesser.get("/v1/usage")
        assert_problem(answer, 429, "rate_limited")
        assert int(answer.headers["Retry-After"]) >= 1
        time.sleep(1.1)  # until the service has to ask for the honest one's key again
        assert ask(honest, 2) == [200, 200], "who came with a good key before is not locked out with his neighbour"
        assert service.client().get("/v1/usage").status_code == 401


def test_processes_with_one_redis_count_together(tmp_path: Path, redis_url: str) -> None:
    with limited(tmp_path, broker_url=redis_url) as one, run_service(one.settings) as other:
        key = one.key("read", tenant="acme")
        clients = [one.client(key), other.client(key)]
        statuses = [clients[number % 2].get("/v1/usage").status_code for number in range(PER_MINUTE + 4)]
        assert statuses == [200] * PER_MINUTE + [429] * 4


@pytest.mark.parametrize("redis", ["refuses", "is silent"])
def test_without_redis_each_process_counts_for_itself(tmp_path: Path, redis: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        port = free_port() if redis == "refuses" else silent.getsockname()[1]
        with limited(tmp_path, broker_url=f"redis://127.0.0.1:{port}/0") as service:
            client = service.client(service.key("read", tenant="acme"))
            began = time.monotonic()
            assert ask(client, PER_MINUTE + 1) == [200] * PER_MINUTE + [429]
            assert time.monotonic() - began < 3, "it is not asked again for every request"


def test_with_no_limit_nothing_is_told(tmp_path: Path) -> None:
    with limited(tmp_path, requests_per_minute=0) as service:
        client = service.client(service.admin_key)
        answers = [client.get("/v1/usage") for _ in range(3 * PER_MINUTE)]
        assert {answer.status_code for answer in answers} == {200}
        assert "RateLimit" not in answers[0].headers
