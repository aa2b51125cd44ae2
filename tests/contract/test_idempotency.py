"""A request with an Idempotency-Key is carried out once, on both databases."""

import time
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.domain.errors import BadRequest
from app.storage.database import Database
from app.storage.repositories.idempotency import IdempotencyKeys, prune
from app.storage.tables import IdempotencyKey, now
from tests.contract.racing import race

ANSWER = (202, {"id": "sel_1", "scores": ["lfc"], "nothing": None})


def carry_out(database: Database, *, key: str = "k", fingerprint: str = "f", tenant: str = "acme") -> str:
    """Do a request, or answer as before; tell which."""
    with database.write() as session:
        keys = IdempotencyKeys(session, tenant)
        answered = keys.begin(key, fingerprint)
        if answered is not None:
            assert answered == ANSWER
            return "replayed"
        time.sleep(0.02)
        keys.finish(key, *ANSWER)
        return "done"


class Broken(Exception):
    """The request goes wrong after its key was reserved."""


class TestIdempotencyKeys:
    def test_the_same_request_again_gets_the_same_answer(self, database: Database) -> None:
        assert [carry_out(database) for _ in range(3)] == ["done", "replayed", "replayed"]

    def test_another_request_with_the_same_key_is_refused(self, database: Database) -> None:
        carry_out(database)
        with pytest.raises(BadRequest) as refused:
            carry_out(database, fingerprint="other")
        assert refused.value.code == "idempotency_key_reused"
        assert carry_out(database) == "replayed"

    def test_other_keys_and_other_tenants_are_other_requests(self, database: Database) -> None:
        carry_out(database)
        assert carry_out(database, key="k2") == "done"
        assert carry_out(database, tenant="rival") == "done"
        assert carry_out(database, tenant="other", fingerprint="other") == "done"

    def test_a_request_that_failed_frees_its_key(self, database: Database) -> None:
        def fail() -> None:
            with database.write() as session:
                IdempotencyKeys(session, "acme").begin("k", "f")
                raise Broken

        with pytest.raises(Broken):
            fail()
        assert carry_out(database, fingerprint="mended") == "done"

    def test_of_many_at_once_one_is_carried_out(self, database: Database) -> None:
        outcomes = race(*[lambda: carry_out(database)] * 8)
        assert sorted(outcomes) == ["done", *["replayed"] * 7]

    def test_when_the_first_fails_one_of_those_that_waited_takes_over(self, database: Database) -> None:
        def fail() -> str:
            try:
                with database.write() as session:
                    if IdempotencyKeys(session, "acme").begin("k", "f") is None:
                        time.sleep(0.1)
                        raise Broken
            except Broken:
                return "broken"
            return "replayed"

        def late() -> str:
            time.sleep(0.05)
            return carry_out(database)

        outcomes = race(fail, late, late)
        assert outcomes[0] == "broken"
        assert sorted(outcomes[1:]) == ["done", "replayed"]

    def test_old_keys_are_forgotten(self, database: Database) -> None:
        carry_out(database, key="old")
        carry_out(database, key="fresh")
        with database.write() as session:
            old = update(IdempotencyKey).where(IdempotencyKey.key == "old")
            session.execute(old.values(created_at=now() - timedelta(hours=49)))
            prune(session, hours=48)
        assert carry_out(database, key="old", fingerprint="other") == "done"
        assert carry_out(database, key="fresh") == "replayed"
