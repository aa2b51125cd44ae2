"""What the repository of API keys promises, on both databases."""

import pytest
from sqlalchemy import select

from app.domain.errors import NotFound, Unauthorized
from app.storage.database import Database
from app.storage.repositories.keys import Keys
from app.storage.tables import ApiKey

SECRET = b"the service's own secret"


def make(database: Database, *, tenant: str = "acme", scopes: tuple[str, ...] = ("read",)) -> tuple[str, str]:
    with database.write() as session:
        row, text = Keys(session, SECRET).create(tenant=tenant, name="laptop", scopes=list(scopes))
        return row.id, text


def authenticate(database: Database, text: str, secret: bytes = SECRET) -> ApiKey:
    with database.read() as session:
        return Keys(session, secret).authenticate(text).row


class TestKeys:
    def test_a_key_tells_its_tenant_and_scopes(self, database: Database) -> None:
        key_id, text = make(database, tenant="acme", scopes=("read", "write"))
        make(database, tenant="rival")
        row = authenticate(database, text)
        assert (row.id, row.tenant, row.scopes) == (key_id, "acme", ["read", "write"])

    def test_only_the_prefix_and_an_hmac_are_stored(self, database: Database) -> None:
        _, text = make(database)
        _, prefix, secret = text.split("_", 2)
        assert len(secret) >= 43, "256 bits in base 64"
        with database.read() as session:
            stored = [str(value) for value in session.execute(select(ApiKey.__table__)).one()]
        assert prefix in stored
        assert not any(secret in value or text in value for value in stored)

    def test_keys_differ(self, database: Database) -> None:
        texts = {make(database)[1] for _ in range(5)}
        assert len(texts) == len({text.split("_")[1] for text in texts}) == 5

    def test_a_wrong_secret_behind_a_right_prefix_is_refused(self, database: Database) -> None:
        _, text = make(database)
        _, other = make(database)
        forged = "_".join([*text.split("_", 2)[:2], other.split("_", 2)[2]])
        for wrong in (forged, text[:-1], text + "x", text.upper(), " " + text):
            with pytest.raises(Unauthorized) as refused:
                authenticate(database, wrong)
            assert refused.value.code == "invalid_key"

    @pytest.mark.parametrize("text", ["", "_", "__", "ft_", "ft__", "nonsense", "ft_000000000000_x", "ключ_ключ_ключ"])
    def test_nonsense_is_refused(self, database: Database, text: str) -> None:
        make(database)
        with pytest.raises(Unauthorized):
            authenticate(database, text)

    def test_a_key_of_a_service_with_another_secret_is_refused(self, database: Database) -> None:
        _, text = make(database)
        with pytest.raises(Unauthorized):
            authenticate(database, text, b"another secret")

    def test_a_revoked_key_is_refused_and_no_longer_listed(self, database: Database) -> None:
        key_id, text = make(database)
        other_id, other = make(database)
        with database.write() as session:
            Keys(session, SECRET).revoke(key_id)
        with pytest.raises(Unauthorized):
            authenticate(database, text)
        assert authenticate(database, other).id == other_id
        with database.read() as session:
            assert [row.id for row in Keys(session, SECRET).page(limit=5, cursor=None).rows] == [other_id]

    def test_an_unknown_or_revoked_key_cannot_be_revoked(self, database: Database) -> None:
        key_id, _ = make(database)
        with database.write() as session:
            keys = Keys(session, SECRET)
            keys.revoke(key_id)
            for missing in (key_id, "key_nothing"):
                with pytest.raises(NotFound) as refused:
                    keys.revoke(missing)
                assert refused.value.code == "key_not_found"

    def test_it_is_known_whether_a_key_was_ever_made(self, database: Database) -> None:
        with database.read() as session:
            assert not Keys(session, SECRET).exists_any()
        key_id, _ = make(database)
        with database.write() as session:
            Keys(session, SECRET).revoke(key_id)
            assert Keys(session, SECRET).exists_any()
