"""What the repository of models promises, on both databases."""

from collections.abc import Sequence
from functools import partial

import pytest
from sqlalchemy import update

from app.domain.errors import BadRequest, Conflict, EvaluationFailed, ForetuneError, ModelRejected, NotFound
from app.domain.ids import new_id
from app.domain.states import RETRY_BUDGET, ModelState
from app.storage import leases
from app.storage.database import Database
from app.storage.repositories.models import Models
from app.storage.tables import Model
from tests.contract.racing import race
from tests.fixtures.rows import add_model, spec


def register(database: Database, name: str = "resnet", *, sha256: str = "0" * 64) -> tuple[str, int, bool]:
    with database.write() as session:
        model, is_new = Models(session).register(spec(name, sha256=sha256))
        return model.id, model.version, is_new


def put(database: Database, model_id: str, state: ModelState) -> None:
    with database.write() as session:
        session.execute(update(Model).where(Model.id == model_id).values(state=state, facts={"parameters": 1}))


def read(database: Database, model_id: str) -> Model:
    with database.read() as session:
        return Models(session).get(model_id)


def switch(database: Database, model_id: str, state: ModelState, reason: str | None = None) -> Model:
    with database.write() as session:
        return Models(session).switch(model_id, state, reason)


def fail(database: Database, model_id: str, error: ForetuneError) -> None:
    lease = claim(database, model_id)
    with database.write() as session:
        leases.fail(session, lease, error)


def claim(database: Database, model_id: str) -> leases.Lease:
    with database.write() as session:
        lease = leases.claim(session, leases.MODEL, model_id, holder="host/0", seconds=60)
    assert lease is not None
    return lease


def choose(database: Database, *names: str) -> list[str]:
    with database.read() as session:
        return [model.id for model in Models(session).choose(list(names))]


class TestRegistering:
    def test_the_same_specification_again_is_the_same_version(self, database: Database) -> None:
        model_id, version, is_new = register(database)
        assert (version, is_new) == (1, True)
        assert register(database) == (model_id, 1, False)
        assert read(database, model_id).state == ModelState.PENDING

    def test_another_specification_is_a_new_version_and_the_old_one_stays(self, database: Database) -> None:
        first, _, _ = register(database)
        second, version, is_new = register(database, sha256="1" * 64)
        assert (version, is_new) == (2, True)
        assert register(database) == (first, 1, False)
        assert read(database, first).spec["source"]["sha256"] == "0" * 64
        assert read(database, second).spec["source"]["sha256"] == "1" * 64

    def test_versions_are_counted_by_name(self, database: Database) -> None:
        register(database)
        assert register(database, "vgg")[1] == 1

    def test_of_one_specification_eight_times_at_once_one_is_new(self, database: Database) -> None:
        registered = race(*[partial(register, database)] * 8)
        assert len({model_id for model_id, _, _ in registered}) == 1
        assert sum(is_new for _, _, is_new in registered) == 1

    def test_versions_that_come_at_once_get_numbers_of_their_own(self, database: Database) -> None:
        registered = race(*[partial(register, database, sha256=f"{number}" * 64) for number in range(6)])
        assert sorted(version for _, version, _ in registered) == [1, 2, 3, 4, 5, 6]

    def test_an_unknown_model_is_not_found(self, database: Database) -> None:
        with database.write() as session:
            models = Models(session)
            for look in (models.get, models.revision, partial(models.switch, state=ModelState.ACTIVE, reason=None)):
                with pytest.raises(NotFound) as missing:
                    look("mdl_nothing")
                assert missing.value.code == "model_not_found"


class TestChoosing:
    def test_by_id_or_name_in_the_order_asked_for_each_once(self, database: Database) -> None:
        one, two, three = (add_model(database, name) for name in ("one", "two", "three"))
        assert choose(database, "three", one) == [three, one]
        assert choose(database, "two", two, "two", "one") == [two, one]

    def test_an_unknown_model_is_named_by_its_position(self, database: Database) -> None:
        add_model(database, "one")
        with pytest.raises(BadRequest) as refused:
            choose(database, "nothing", "one")
        assert (refused.value.code, refused.value.param) == ("unknown_model", "models.0")
        with pytest.raises(BadRequest) as refused:
            choose(database, "one", "mdl_nothing")
        assert refused.value.param == "models.1"

    @pytest.mark.parametrize("state", sorted(set(ModelState) - {ModelState.ACTIVE, ModelState.DEPRECATED}))
    def test_a_model_that_is_not_active_is_refused(self, database: Database, state: ModelState) -> None:
        model_id = add_model(database, "one", state=state)
        for name in ("one", model_id):
            with pytest.raises(Conflict) as refused:
                choose(database, name)
            assert (refused.value.code, refused.value.param) == ("model_not_active", "models.0")

    def test_a_name_means_its_active_version(self, database: Database) -> None:
        first = add_model(database, "one")
        newer, _, _ = register(database, "one", sha256="1" * 64)
        assert choose(database, "one") == [first]
        with pytest.raises(Conflict):
            choose(database, newer)

    def test_a_deprecated_model_is_there_for_who_names_it(self, database: Database) -> None:
        old = add_model(database, "one", state=ModelState.DEPRECATED)
        assert choose(database, "one") == choose(database, old) == [old]
        with database.read() as session:
            assert Models(session).active() == []
        newer, _, _ = register(database, "one", sha256="1" * 64)
        assert choose(database, "one") == [old], "the newer one is not checked yet"
        put(database, newer, ModelState.ACTIVE)
        assert choose(database, "one") == [newer]
        assert choose(database, old) == [old]

    def test_all_active_models_by_name(self, database: Database) -> None:
        b, a = add_model(database, "b"), add_model(database, "a")
        add_model(database, "c", state=ModelState.DISABLED)
        register(database, "d")
        with database.read() as session:
            assert [model.id for model in Models(session).active()] == [a, b]
            assert Models(session).count_unchecked() == 1

    def test_a_listing_may_be_of_one_state(self, database: Database) -> None:
        active = add_model(database, "a")
        off = add_model(database, "b", state=ModelState.DISABLED)
        with database.read() as session:
            models = Models(session)
            assert [row.id for row in models.page(limit=5, cursor=None).rows] == [off, active]
            assert [row.id for row in models.page(limit=5, cursor=None, state="disabled").rows] == [off]


class TestSwitching:
    def test_off_and_on_again(self, database: Database) -> None:
        model_id = add_model(database, "one")
        before = read(database, model_id).revision
        off = switch(database, model_id, ModelState.DISABLED, "too slow")
        assert (off.state, off.reason) == (ModelState.DISABLED, "too slow")
        on = switch(database, model_id, ModelState.ACTIVE)
        assert (on.state, on.reason) == (ModelState.ACTIVE, None)
        assert on.revision > off.revision > before

    def test_a_repetition_changes_nothing(self, database: Database) -> None:
        model_id = add_model(database, "one")
        off = switch(database, model_id, ModelState.DISABLED, "too slow")
        again = switch(database, model_id, ModelState.DISABLED, "other reason")
        assert (again.revision, again.reason) == (off.revision, "too slow")

    @pytest.mark.parametrize("state", list(ModelState))
    @pytest.mark.parametrize("wanted", list(ModelState))
    def test_it_goes_along_the_edges_alone(self, database: Database, state: ModelState, wanted: ModelState) -> None:
        model_id = add_model(database, "one", state=state)
        if state == wanted or f"{state} {wanted}" in (
            *("active disabled", "active deprecated", "deprecated active", "deprecated disabled", "disabled active"),
            *("rejected pending", "quarantined pending", "pending rejected", "checking rejected"),
        ):
            assert switch(database, model_id, wanted, "why").state == wanted
            return
        with pytest.raises(Conflict) as refused:
            switch(database, model_id, wanted, "why")
        assert (refused.value.code, refused.value.param) == ("model_state", "status")
        assert read(database, model_id).state == state

    @pytest.mark.parametrize("reason", [None, "", "  "])
    def test_a_model_is_deprecated_with_a_reason_only(self, database: Database, reason: str | None) -> None:
        model_id = add_model(database, "one")
        with pytest.raises(BadRequest) as refused:
            switch(database, model_id, ModelState.DEPRECATED, reason)
        assert (refused.value.code, refused.value.param) == ("reason_required", "reason")
        assert read(database, model_id).state == ModelState.ACTIVE

    def test_what_is_checked_again_starts_from_nothing(self, database: Database) -> None:
        model_id, _, _ = register(database)
        error = ModelRejected("weights_unavailable", "The hub was down.")
        for _ in range(2):
            fail(database, model_id, error)
            assert read(database, model_id).state == ModelState.REJECTED
            again = switch(database, model_id, ModelState.PENDING)
            assert (again.state, again.error, again.checks, again.failures) == (ModelState.PENDING, None, None, {})

    def test_a_model_that_loses_every_worker_is_quarantined(self, database: Database) -> None:
        model_id, _, _ = register(database)
        lost = EvaluationFailed("worker_lost", "The process ended.")
        for _ in range(2):
            attempts = 0
            while read(database, model_id).state == ModelState.PENDING:
                fail(database, model_id, lost)
                attempts += 1
            assert attempts == RETRY_BUDGET["worker_lost"] + 1
            quarantined = read(database, model_id)
            assert quarantined.state == ModelState.QUARANTINED
            assert quarantined.error is not None
            assert quarantined.error["code"] == "worker_lost"
            switch(database, model_id, ModelState.PENDING)

    @pytest.mark.parametrize("state", [ModelState.PENDING, ModelState.CHECKING])
    def test_what_is_not_checked_yet_is_withdrawn(self, database: Database, state: ModelState) -> None:
        model_id, _, _ = register(database)
        lease = claim(database, model_id) if state == ModelState.CHECKING else None
        before = read(database, model_id)
        withdrawn = switch(database, model_id, ModelState.REJECTED, "misspelt")
        assert (withdrawn.state, withdrawn.reason, withdrawn.facts) == (ModelState.REJECTED, "misspelt", None)
        assert withdrawn.error is not None
        assert withdrawn.error["code"] == "model_withdrawn"
        assert withdrawn.revision > before.revision
        leasing = withdrawn.lease_token, withdrawn.lease_holder, withdrawn.lease_expires_at, withdrawn.progress
        assert leasing == (None,) * 4
        with database.write() as session:
            assert leases.claim(session, leases.MODEL, model_id, holder="host/1", seconds=60) is None
            assert leases.free_of_holder(session, leases.MODEL, "host/0") == []
        assert switch(database, model_id, ModelState.REJECTED, "again").revision == withdrawn.revision
        if lease is not None:
            with pytest.raises(leases.LeaseLost), database.write() as session:
                leases.finish(session, lease, facts={"parameters": 1})
        assert read(database, model_id).facts is None
        again = switch(database, model_id, ModelState.PENDING)
        assert (again.error, again.reason) == (None, None)
        assert claim(database, model_id)

    def test_of_a_worker_that_passes_it_and_an_admin_who_withdraws_it_one_is_first(self, database: Database) -> None:
        for number in range(4):
            model_id, _, _ = register(database, f"net-{number}")
            lease = claim(database, model_id)

            def withdraw(model_id: str) -> str:
                try:
                    return switch(database, model_id, ModelState.REJECTED).state
                except Conflict as late:
                    return late.code

            def finish(lease: leases.Lease) -> str:
                try:
                    with database.write() as session:
                        leases.finish(session, lease, facts={"parameters": 1})
                except leases.LeaseLost:
                    return "lost"
                return "finished"

            told = race(partial(withdraw, model_id), partial(finish, lease))
            model = read(database, model_id)
            assert (*told, model.state, model.facts is None) in (
                ("rejected", "lost", ModelState.REJECTED, True),
                ("model_state", "finished", ModelState.ACTIVE, False),
            )

    def test_two_admins_who_want_different_things_take_turns(self, database: Database) -> None:
        for _ in range(5):
            model_id = add_model(database, f"one-{new_id('mdl')}")

            def become(model_id: str, state: ModelState) -> str:
                try:
                    return switch(database, model_id, state, "why").state
                except Conflict as refused:
                    return refused.code

            answers = race(
                partial(become, model_id, ModelState.DISABLED), partial(become, model_id, ModelState.DEPRECATED)
            )
            assert answers[0] == read(database, model_id).state == ModelState.DISABLED
            assert answers[1] in ("model_state", "deprecated"), "what is disabled is not deprecated"

    def test_the_version_that_comes_takes_the_place_of_the_other(self, database: Database) -> None:
        first = add_model(database, "one")
        other = add_model(database, "other")
        second, _, _ = register(database, "one", sha256="1" * 64)
        put(database, second, ModelState.DISABLED)
        before = read(database, first).revision
        switch(database, second, ModelState.ACTIVE)
        retired = read(database, first)
        assert (retired.state, retired.reason) == (ModelState.DISABLED, "superseded by version 2")
        assert retired.revision > before, "who polls the retired version must hear of it"
        assert choose(database, "one", "other") == [second, other]

    def test_of_versions_switched_on_at_once_one_is_active(self, database: Database) -> None:
        versions = [register(database, "one", sha256=f"{number}" * 64)[0] for number in range(4)]
        for model_id in versions:
            put(database, model_id, ModelState.DISABLED)

        def enable(model_id: str) -> str:
            try:
                return switch(database, model_id, ModelState.ACTIVE).state
            except ForetuneError as error:
                return error.code

        for _ in range(3):
            assert set(race(*[partial(enable, model_id) for model_id in versions])) == {ModelState.ACTIVE}
            states = [read(database, model_id).state for model_id in versions]
            assert states.count(ModelState.ACTIVE) == 1


class TestTagging:
    def test_tags_are_added_and_taken_off(self, database: Database) -> None:
        model_id = add_model(database, "one")
        assert change_tags(database, model_id, add=["b", "a"]) == ["a", "b"]
        assert change_tags(database, model_id, add=["c", "a"], remove=["b", "x"]) == ["a", "c"]
        revision = read(database, model_id).revision
        assert change_tags(database, model_id, add=["a"], remove=["b"]) == ["a", "c"]
        assert read(database, model_id).revision == revision, "nothing has changed"

    def test_no_tag_that_is_added_at_once_is_lost(self, database: Database) -> None:
        model_id = add_model(database, "one")
        names = [f"t{number}" for number in range(8)]
        race(*[partial(change_tags, database, model_id, add=[name]) for name in names])
        assert read(database, model_id).tags == names
        race(*[partial(change_tags, database, model_id, remove=[name]) for name in names[:6]])
        assert read(database, model_id).tags == names[6:]

    def test_they_do_not_become_too_many(self, database: Database) -> None:
        model_id = add_model(database, "one")
        names = [f"t{number:02}" for number in range(20)]
        change_tags(database, model_id, add=names)
        with pytest.raises(BadRequest) as refused:
            change_tags(database, model_id, add=["more"])
        assert (refused.value.code, refused.value.param) == ("invalid_tags", "add_tags")
        assert change_tags(database, model_id, add=["more"], remove=["t00"]) == ["more", *names[1:]]


def change_tags(database: Database, model_id: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> list[str]:
    with database.write() as session:
        return Models(session).change_tags(model_id, add=add, remove=remove).tags
