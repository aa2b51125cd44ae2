"""Constraints say the same in SQL, on both databases, as they do of one model at a time."""

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.model_constraints import ModelConstraints
from app.domain.model_description import ModelDescription
from app.storage.database import Database
from app.storage.repositories.model_filters import in_zoo, satisfy
from app.storage.repositories.models import Models
from app.storage.repositories.zoos import Zoos
from app.storage.tables import Model
from tests.fixtures.rows import add_model, spec

Json = dict[str, Any]

LICENSES = ["mit", "MIT", "Apache-2.0", "apache-2.0", "", "licen\u00c7e", "licen\u00e7e", "%", "'", "m_t", "\u212a"]
FAMILIES = ["resnet", "ResNet", "vit", "", "\u212aerr", "kerr"]
DATASETS = ["imagenet-1k", "ImageNet-1k", "laion", "a, b", "[]", '"', "\u0130"]
TAGS = ["edge", "fast", "a.b", "a_b", "a-b"]
CAPABILITIES = ["features", "logits", "gradients"]

numbers = st.none() | st.integers(0, 10) | st.floats(0, 10) | st.sampled_from([2**53, 2**53 + 1, 0.1 + 0.2, 1e300])
pretrainings = st.none() | st.fixed_dictionaries({"datasets": st.lists(st.sampled_from(DATASETS), max_size=3)})
statements = st.fixed_dictionaries({"license": st.sampled_from(LICENSES), "pretraining": pretrainings})
facts = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "parameters": numbers,
        "gflops": numbers,
        "weights_bytes": numbers,
        "peak_bytes": st.none() | st.dictionaries(st.sampled_from(["1", "8", "32"]), numbers),
        "family": st.none() | st.sampled_from(FAMILIES),
        "capabilities": st.none() | st.dictionaries(st.sampled_from(CAPABILITIES), st.booleans() | st.none()),
        "resolved": st.none() | st.just({}) | statements,
    },
)
models = st.tuples(statements, facts, st.lists(st.sampled_from(TAGS), unique=True, max_size=3))
bounds = st.none() | st.integers(0, 10) | st.floats(0, 10) | st.sampled_from([2.0**53, 0.3, 1e300])
few: Json = {"max_size": 2, "unique": True}
constraints = st.builds(
    ModelConstraints,
    max_parameters=bounds,
    max_gflops=bounds,
    max_memory_bytes=bounds,
    licenses=st.lists(st.sampled_from(LICENSES), **few).map(tuple),
    families=st.lists(st.sampled_from(FAMILIES), **few).map(tuple),
    pretrained_on=st.lists(st.sampled_from(DATASETS), **few).map(tuple),
    capabilities=st.lists(st.sampled_from(CAPABILITIES), **few).map(tuple),
    tags=st.lists(st.sampled_from(TAGS), **few).map(tuple),
)
one_constraint: dict[str, st.SearchStrategy[Any]] = {
    "max_parameters": st.integers(0, 10),
    "max_gflops": st.floats(0, 10),
    "max_memory_bytes": st.integers(0, 20),
    "licenses": st.sampled_from(LICENSES).map(lambda value: (value,)),
    "families": st.sampled_from(FAMILIES).map(lambda value: (value,)),
    "pretrained_on": st.sampled_from(DATASETS).map(lambda value: (value,)),
    "capabilities": st.lists(st.sampled_from(CAPABILITIES), min_size=1, **few).map(tuple),
    "tags": st.lists(st.sampled_from(TAGS), min_size=1, **few).map(tuple),
}
plain = st.integers(0, 10)
known_facts = st.fixed_dictionaries(
    {
        "parameters": plain,
        "gflops": plain,
        "weights_bytes": plain,
        "peak_bytes": st.fixed_dictionaries({"1": plain, "32": plain}),
        "family": st.sampled_from(FAMILIES),
        "capabilities": st.fixed_dictionaries(dict.fromkeys(CAPABILITIES, st.booleans())),
    },
    optional={"resolved": statements},
)
known_models = st.tuples(statements, known_facts, st.lists(st.sampled_from(TAGS), unique=True, max_size=4))

UNKNOWN: list[tuple[Json, Json | None, list[str]]] = [
    ({"license": "", "pretraining": None}, known, [])
    for known in (
        None,
        {},
        {"gflops": None, "parameters": None, "weights_bytes": None, "peak_bytes": None},
        {"weights_bytes": 1},
        {"weights_bytes": 1, "peak_bytes": {"1": 1}},
        {"weights_bytes": 1, "peak_bytes": {"1": 1, "32": None}},
        {"weights_bytes": None, "peak_bytes": {"32": 1}},
    )
]
FULL: Json = {"weights_bytes": 3, "peak_bytes": {"1": 1, "32": 4}, "family": "resnet", "resolved": {"license": "MIT"}}


often = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
seldom = settings(often, max_examples=25)


@pytest.mark.parametrize("name", one_constraint)
@seldom
@given(data=st.data())
def test_one_constraint_on_what_is_known(database: Database, name: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(known_models, min_size=6, max_size=12))
    wanted = ModelConstraints(**{name: data.draw(one_constraint[name])})
    assert_same(database, rows, wanted)


@often
@given(rows=st.lists(models, min_size=1, max_size=6), wanted=constraints)
@example(rows=[({"license": "", "pretraining": None}, FULL, [])], wanted=ModelConstraints(max_memory_bytes=7))
@example(rows=[({"license": "", "pretraining": None}, FULL, [])], wanted=ModelConstraints(max_memory_bytes=6.9))
@example(
    rows=[({"license": "", "pretraining": None}, {"parameters": 2**53 + 1}, [])],
    wanted=ModelConstraints(max_parameters=2.0**53),
)
@example(rows=[({"license": "x", "pretraining": None}, FULL, [])], wanted=ModelConstraints(licenses=("mit",)))
@example(rows=UNKNOWN, wanted=ModelConstraints(max_gflops=1e300))
@example(rows=UNKNOWN, wanted=ModelConstraints(max_memory_bytes=1e300))
@example(rows=UNKNOWN, wanted=ModelConstraints(max_parameters=1e300))
def test_any_constraints_on_what_may_not_be_known(
    database: Database, rows: list[tuple[Json, Json | None, list[str]]], wanted: ModelConstraints
) -> None:
    assert_same(database, rows, wanted)


def assert_same(database: Database, rows: list[tuple[Json, Json | None, list[str]]], wanted: ModelConstraints) -> None:
    with database.write() as session:
        for number, (stated, known, tags) in enumerate(rows):
            add(session, f"mdl_{number}", stated, known, tags)
        found = set(session.scalars(select(Model.id).where(*satisfy(wanted))))
        session.rollback()
    assert found == {
        f"mdl_{number}"
        for number, (stated, known, tags) in enumerate(rows)
        if wanted.satisfied_by(ModelDescription.of(spec("x").as_dict() | stated, known), tags)
    }


def add(session: Session, model_id: str, stated: Json, known: Json | None, tags: list[str]) -> None:
    full = spec("x").as_dict() | stated
    row = {"id": model_id, "name": model_id, "version": 1, "spec_digest": model_id, "failures": {}, "revision": 1}
    session.add(Model(**row, spec=full, facts=known, tags=tags))


class TestListing:
    @pytest.mark.parametrize("limit", [1, 2, 7])
    def test_pages_of_what_satisfies_constraints_have_no_gaps(self, database: Database, limit: int) -> None:
        small = []
        for number in range(9):
            model_id = add_model(database, f"net-{number}")
            if number % 3:
                small.append(model_id)
            with database.write() as session:
                session.get_one(Model, model_id).facts = {"parameters": 5 if number % 3 else 50}
        listed: list[str] = []
        cursor: str | None = None
        while True:
            with database.read() as session:
                wanted = ModelConstraints(max_parameters=5)
                page = Models(session).page(limit=limit, cursor=cursor, constraints=wanted)
            assert len(page.rows) == min(limit, len(small) - len(listed))
            listed += [row.id for row in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert listed == small[::-1]

    def test_of_a_zoo_and_of_none(self, database: Database) -> None:
        a, b = add_model(database, "a"), add_model(database, "b")
        with database.write() as session:
            Zoos(session).put("edge", "", ["a"])
            Zoos(session).put("other", "", ["a", "b"])
        with database.read() as session:
            assert [model.id for model in Models(session).active(zoo="edge")] == [a]
            assert [model.id for model in Models(session).active(zoo="other")] == [a, b]
            assert [model.id for model in Models(session).active(zoo="nothing")] == []
            assert list(session.scalars(select(Model.id).where(in_zoo("edge")))) == [a]
