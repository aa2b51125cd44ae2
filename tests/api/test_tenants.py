"""/v1/tenants, /v1/usage and /v1/audit: how much a tenant may have, what it has, and who changed that."""

from typing import Any

import httpx
import pytest
from sqlalchemy import update

from app.domain.quotas import NAMES
from app.storage.repositories import worker_seconds
from app.storage.tables import Evaluation
from tests.api.problem import assert_problem
from tests.api.worker import add_zoo, make_ready
from tests.fixtures.service import MAX_UPLOAD_BYTES, RunningService

NO_LIMITS = dict.fromkeys(NAMES)


def change(admin: httpx.Client, tenant: str, **body: Any) -> dict[str, Any]:
    answer = admin.patch(f"/v1/tenants/{tenant}", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


class TestTenants:
    def test_a_tenant_begins_with_its_first_key(self, admin: httpx.Client, tenant: str) -> None:
        assert_problem(admin.get(f"/v1/tenants/{tenant}"), 404, "tenant_not_found", param="tenant")
        admin.post("/v1/keys", json={"name": "first", "tenant": tenant})
        admin.post("/v1/keys", json={"name": "second", "tenant": tenant})
        assert admin.get(f"/v1/tenants/{tenant}").json()["quotas"] == NO_LIMITS
        assert tenant in [row["name"] for row in admin.get("/v1/tenants").json()["data"]]

    def test_or_is_made_before(self, admin: httpx.Client, tenant: str) -> None:
        made = admin.post("/v1/tenants", json={"name": tenant, "quotas": {"datasets": 3}})
        assert made.status_code == 201
        assert made.headers["Location"] == f"/v1/tenants/{tenant}"
        assert made.json()["quotas"] == NO_LIMITS | {"datasets": 3}
        assert_problem(admin.post("/v1/tenants", json={"name": tenant}), 409, "tenant_exists", param="name")

    def test_the_default_tenant_is_there(self, admin: httpx.Client) -> None:
        assert admin.get("/v1/usage").json()["tenant"] == "default"
        assert admin.get("/v1/tenants/default").status_code == 200

    def test_what_a_change_leaves_out_stays(self, admin: httpx.Client, tenant: str) -> None:
        admin.post("/v1/tenants", json={"name": tenant, "quotas": {"datasets": 3, "bytes": 10}})
        assert change(admin, tenant, quotas={"bytes": 20})["quotas"] == NO_LIMITS | {"datasets": 3, "bytes": 20}
        assert change(admin, tenant, quotas={"bytes": None})["quotas"] == NO_LIMITS | {"datasets": 3}

    @pytest.mark.parametrize(
        ("quotas", "param"),
        [({"bytes": -1}, "quotas.bytes"), ({"datasets": 1.5}, "quotas.datasets"), ({"gpus": 1}, "quotas.gpus")],
    )
    def test_what_it_refuses(self, admin: httpx.Client, tenant: str, quotas: dict[str, Any], param: str) -> None:
        assert_problem(admin.post("/v1/tenants", json={"name": tenant, "quotas": quotas}), 422, param=param)

    def test_a_suspended_tenant_is_refused_until_it_is_resumed(
        self, admin: httpx.Client, user: httpx.Client, tenant: str
    ) -> None:
        assert user.get("/v1/datasets").status_code == 200
        assert change(admin, tenant, suspended=True)["suspended_at"] is not None
        assert_problem(user.get("/v1/datasets"), 403, "tenant_suspended")
        assert change(admin, tenant, suspended=False)["suspended_at"] is None
        assert user.get("/v1/datasets").status_code == 200

    def test_an_admin_cannot_lock_himself_out(self, service: RunningService, tenant: str) -> None:
        admin = service.client(service.key("admin", tenant=tenant))
        change(admin, tenant, suspended=True)
        change(admin, tenant, suspended=False)


class TestQuotas:
    def test_uploads(self, admin: httpx.Client, user: httpx.Client, tenant: str) -> None:
        change(admin, tenant, quotas={"bytes": 25, "datasets": 3})
        first = user.post("/v1/datasets", content=b"ten bytes.")
        assert first.status_code == 202
        assert user.post("/v1/datasets", content=b"other ten.").status_code == 202
        problem = assert_problem(user.post("/v1/datasets", content=b"third ten."), 403, "quota_exceeded")
        assert problem["param"] == "quotas.bytes"
        assert user.post("/v1/datasets", content=b"ten bytes.").status_code == 200, "these bytes are there already"
        assert_problem(user.post("/v1/datasets", content=b"x" * 26), 413, "upload_too_large")
        assert len(user.get("/v1/datasets").json()["data"]) == 2, "nothing is left of what was refused"
        assert user.get("/v1/usage").json()["bytes"] == {"used": 20, "limit": 25}
        assert user.delete(first.headers["Location"]).status_code == 204
        assert user.post("/v1/datasets", content=b"third ten.").status_code == 202

    def test_an_upload_is_never_larger_than_the_service_allows(
        self, admin: httpx.Client, user: httpx.Client, tenant: str
    ) -> None:
        change(admin, tenant, quotas={"bytes": 2 * MAX_UPLOAD_BYTES})
        answer = user.post("/v1/datasets", content=b"x" * (MAX_UPLOAD_BYTES + 1))
        assert_problem(answer, 413, "upload_too_large")

    def test_selections_and_fine_tunes(
        self, service: RunningService, admin: httpx.Client, user: httpx.Client, tenant: str
    ) -> None:
        asked = {"dataset": make_ready(service, tenant), "models": add_zoo(service, "alpha")}
        change(admin, tenant, quotas={"open_selections": 1, "open_finetunes": 1})
        for path, param in (("/v1/selections", "quotas.open_selections"), ("/v1/finetunes", "quotas.open_finetunes")):
            first = user.post(path, json=asked, headers={"Idempotency-Key": path})
            assert first.status_code == 202
            assert_problem(user.post(path, json=asked), 403, "quota_exceeded", param=param)
            again = user.post(path, json=asked, headers={"Idempotency-Key": path})
            assert again.json()["id"] == first.json()["id"], "what was asked before is answered again"
            assert user.post(first.headers["Location"] + "/cancel").status_code == 202
            assert user.post(path, json=asked).status_code == 202

    def test_worker_seconds(
        self, service: RunningService, admin: httpx.Client, user: httpx.Client, tenant: str
    ) -> None:
        asked = {"dataset": make_ready(service, tenant), "models": add_zoo(service, "alpha")}
        change(admin, tenant, quotas={"worker_seconds_per_day": 100})
        selection = user.post("/v1/selections", json=asked).headers["Location"]
        with service.database.write() as session:
            assert worker_seconds.charge(session, tenant, 100.5)
            worker_seconds.warn_of_spent_day(session, tenant)
        assert user.get("/v1/usage").json()["worker_seconds_per_day"] == {"used": 100.5, "limit": 100}
        assert [warning["code"] for warning in user.get(selection).json()["warnings"]] == ["worker_seconds_spent"]
        problem = assert_problem(user.post("/v1/selections", json=asked), 403, "quota_exceeded")
        assert problem["param"] == "quotas.worker_seconds_per_day"
        assert "midnight" in str(problem["hint"])
        assert_problem(user.post("/v1/finetunes", json=asked), 403, "quota_exceeded")


class TestUsage:
    def test_a_tenant_sees_its_own(self, service: RunningService, admin: httpx.Client, tenant: str) -> None:
        reader = service.client(service.key("read", tenant=tenant))
        usage = reader.get("/v1/usage").json()
        assert usage["tenant"] == tenant
        assert usage["datasets"] == {"used": 0, "limit": None}
        assert usage["day_ends_at"].endswith("T00:00:00Z")
        assert admin.get(f"/v1/tenants/{tenant}").json()["usage"] == usage

    def test_evaluations_belong_to_the_tenant(self, service: RunningService, user: httpx.Client, tenant: str) -> None:
        asked = {"dataset": make_ready(service, tenant), "models": add_zoo(service, "alpha")}
        user.post("/v1/selections", json=asked)
        with service.database.write() as session:
            changed = session.execute(update(Evaluation).where(Evaluation.tenant == tenant).values(tenant=tenant))
        assert changed.rowcount == 1


class TestAudit:
    def told(self, admin: httpx.Client, **asked: Any) -> list[tuple[str, str]]:
        events = admin.get("/v1/audit", params=asked).json()["data"]
        assert all(event["at"] for event in events)
        return [(event["action"], event["target"]) for event in events]

    def test_it_tells_what_was_done_by_whom(
        self, service: RunningService, admin: httpx.Client, user: httpx.Client, tenant: str
    ) -> None:
        key = admin.post("/v1/keys", json={"name": "laptop", "tenant": tenant, "user": "anna"}).json()["id"]
        admin.post(f"/v1/keys/{key}/rotate")
        change(admin, tenant, quotas={"datasets": 2})
        change(admin, tenant, quotas={"datasets": 2}, suspended=False)
        change(admin, tenant, suspended=True)
        change(admin, tenant, suspended=False)
        dataset = user.post("/v1/datasets", content=b"soon gone").json()["id"]
        user.delete(f"/v1/datasets/{dataset}")
        admin.delete(f"/v1/keys/{key}")
        told = self.told(admin, tenant=tenant)
        assert told[:7] == [
            ("key_revoked", key),
            ("dataset_deleted", dataset),
            ("tenant_resumed", tenant),
            ("tenant_suspended", tenant),
            ("quotas_changed", tenant),
            ("key_rotated", key),
            ("key_created", key),
        ]
        event = admin.get("/v1/audit", params={"tenant": tenant, "action": "quotas_changed"}).json()["data"][0]
        assert event["details"] == {"was": {"datasets": None}, "now": {"datasets": 2}}
        assert event["actor"].startswith("first admin (key_")
        assert self.told(admin, target=key) == [("key_revoked", key), ("key_rotated", key), ("key_created", key)]

    def test_no_secret_is_in_it(self, admin: httpx.Client, tenant: str) -> None:
        made = admin.post("/v1/keys", json={"name": "laptop", "tenant": tenant}).json()
        rotated = admin.post(f"/v1/keys/{made['id']}/rotate").json()
        text = admin.get("/v1/audit", params={"tenant": tenant}).text
        for key in (made["key"], rotated["key"]):
            assert key.split("_", 2)[2] not in text

    def test_what_failed_is_not_in_it(self, admin: httpx.Client, tenant: str) -> None:
        own_id = admin.get("/v1/keys/me").json()["id"]
        before = self.told(admin, target=own_id)
        assert admin.post(f"/v1/keys/{own_id}/rotate", json={"grace_hours": -1}).status_code == 422
        assert self.told(admin, target=own_id) == before
        admin.post("/v1/tenants", json={"name": tenant})
        admin.post("/v1/tenants", json={"name": tenant})
        assert self.told(admin, tenant=tenant) == [("tenant_created", tenant)]

    def test_pages(self, admin: httpx.Client, tenant: str) -> None:
        for name in "abc":
            admin.post("/v1/keys", json={"name": name, "tenant": tenant})
        first = admin.get("/v1/audit", params={"tenant": tenant, "limit": 3}).json()
        rest = admin.get("/v1/audit", params={"tenant": tenant, "after": first["next_cursor"]}).json()
        assert [len(page["data"]) for page in (first, rest)] == [3, 1]
        assert_problem(admin.get("/v1/audit", params={"action": "key_eaten"}), 422, "invalid_request", param="action")
