"""``foretune key``, ``tenants``, ``usage`` and ``audit``, and the client below them."""

import time
from pathlib import Path

import pytest

from app.client import ApiError, Foretune
from tests.cli.conftest import Served, run
from tests.fixtures.service import empty_zoo_settings, run_service


def test_a_key_shows_and_rotates_itself(served: Served) -> None:
    made = served.run(
        "key", "create", "laptop", "--tenant", "cli", "--user", "anna", "--expires-in-days", "2", "--json"
    )
    assert made.code == 0, made.err
    key = made.json["key"]
    shown = run("key", "show", "--json", url=served.url, key=key).json
    assert (shown["user"], shown["tenant"], shown["id"]) == ("anna", "cli", made.json["id"])
    assert shown["expires_at"] is not None
    rotated = run("key", "rotate", "--grace-hours", "0", url=served.url, key=key)
    assert rotated.code == 0, rotated.err
    assert rotated.out.strip().startswith(shown["prefix"])
    with Foretune(served.url, rotated.out.strip()) as client:
        assert client.keys.get().rotated_at is not None
    with Foretune(served.url, key) as client, pytest.raises(ApiError, match="replaced by a rotation"):
        client.usage()
    listed = served.run("key", "list", "--tenant", "cli", "--user", "anna")
    assert made.json["id"] in listed.out


def test_quotas_are_set_shown_and_held(served: Served) -> None:
    made = served.run("tenants", "create", "cli-quotas", "--datasets", "0", "--bytes", "1GB", "--json")
    assert made.code == 0, made.err
    assert (made.json["quotas"]["datasets"], made.json["quotas"]["bytes"]) == (0, 10**9)
    key = served.run("key", "create", "x", "--tenant", "cli-quotas").out.strip()
    with Foretune(served.url, key) as client:
        with pytest.raises(ApiError) as refused:
            client.datasets.upload(Path(__file__))
        assert (refused.value.code, refused.value.status) == ("quota_exceeded", 403)
        changed = served.run("tenants", "set", "cli-quotas", "--no-limit", "datasets", "--open-selections", "2")
        assert "0 of 2" in changed.out
        client.datasets.upload(Path(__file__))
        assert client.usage().datasets.used == 1
    shown = run("usage", url=served.url, key=key)
    assert "of 1000000000" in shown.out
    assert served.run("tenants", "show", "cli-quotas").code == 0
    assert "open_selections 2" in served.run("tenants", "list").out


@pytest.mark.parametrize("amount", ["nan", "inf", "-5", "1.5"])
def test_an_amount_that_is_no_quota_is_refused(served: Served, amount: str) -> None:
    refused = served.run("tenants", "create", "cli-refused", f"--bytes={amount}")
    assert refused.code == 1
    assert refused.err.startswith("Error: ")
    assert served.run("tenants", "show", "cli-refused").code == 1, "it was not made"


def test_a_tenant_is_suspended_and_resumed_and_the_log_tells(served: Served) -> None:
    key = served.run("key", "create", "x", "--tenant", "cli-suspended").out.strip()
    assert served.run("tenants", "suspend", "cli-suspended").code == 0
    assert "(tenant_suspended)" in run("usage", url=served.url, key=key).err
    assert served.run("tenants", "resume", "cli-suspended").code == 0
    told = served.run("audit", "--tenant", "cli-suspended", "--json").json
    assert [event["action"] for event in told][:2] == ["tenant_resumed", "tenant_suspended"]
    assert "tenant_resumed" in served.run("audit", "--action", "tenant_resumed").out
    assert "(missing_scope)" in run("audit", url=served.url, key=key).err


def test_the_client_waits_out_a_rate_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.rate_limits._WINDOW_SECONDS", 2)
    settings = empty_zoo_settings(tmp_path, requests_per_minute=2)
    with run_service(settings) as service, Foretune(service.url, service.admin_key) as client:
        began = time.monotonic()
        made = [client.keys.create(f"key {number}").id for number in range(4)]
        assert time.monotonic() - began > 1
        assert len(set(made)) == 4
