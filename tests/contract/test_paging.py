"""Cursor pages, on both databases."""

import base64
import re
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert

from app.domain.errors import BadRequest
from app.domain.ids import new_id
from app.storage.database import Database
from app.storage.repositories.datasets import Datasets
from app.storage.repositories.paging import Page
from app.storage.tables import Dataset, now

TENANT = "acme"


def add(database: Database, count: int, *, tenant: str = TENANT, ties: bool = False) -> list[str]:
    """Add rows, the last one newest, and return their ids in the order of a listing."""
    moment = now()
    rows = [
        {
            "id": new_id("ds"),
            "tenant": tenant,
            "name": "shoes",
            "created_at": moment if ties else moment + timedelta(microseconds=number),
            "updated_at": moment,
            "failures": {},
            "revision": 1,
        }
        for number in range(count)
    ]
    with database.write() as session:
        session.execute(insert(Dataset), rows)
    return [str(row["id"]) for row in sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)]


def get_page(database: Database, *, limit: int, cursor: str | None) -> Page[Dataset]:
    with database.read() as session:
        return Datasets(session, TENANT).page(limit=limit, cursor=cursor)


def walk(database: Database, limit: int) -> list[list[str]]:
    pages, cursor = [], None
    while True:
        page = get_page(database, limit=limit, cursor=cursor)
        pages.append([row.id for row in page.rows])
        cursor = page.next_cursor
        if cursor is None:
            return pages


class TestPaging:
    @pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 6), (2, [2] * 3), (4, [4, 2]), (6, [6]), (7, [6])])
    @pytest.mark.parametrize("ties", [True, False])
    def test_every_row_once_newest_first(self, database: Database, limit: int, sizes: list[int], ties: bool) -> None:
        expected = add(database, 6, ties=ties)
        add(database, 3, tenant="rival")
        pages = walk(database, limit)
        assert [len(page) for page in pages] == sizes
        assert [row_id for page in pages for row_id in page] == expected

    def test_an_empty_list_has_one_page(self, database: Database) -> None:
        assert walk(database, 5) == [[]]

    def test_rows_that_are_added_meanwhile_move_nothing(self, database: Database) -> None:
        expected = add(database, 7)
        seen, cursor = [], None
        while True:
            page = get_page(database, limit=2, cursor=cursor)
            seen += [row.id for row in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
            add(database, 2)
        assert seen == expected

    def test_a_cursor_outlives_the_row_it_was_made_from(self, database: Database) -> None:
        expected = add(database, 5)
        page = get_page(database, limit=2, cursor=None)
        with database.write() as session:
            Datasets(session, TENANT).delete(page.rows[-1].id)
        rest = get_page(database, limit=5, cursor=page.next_cursor)
        assert [row.id for row in rest.rows] == expected[2:]

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        cursor=st.text(min_size=1)
        | st.binary(min_size=1).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
        | st.tuples(
            st.sampled_from(["2024-01-01T00:00:00+00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
            | st.datetimes().map(str),
            st.text().filter(lambda text: re.fullmatch("[a-z]+_[0-9a-z]+", text) is None),
        ).map(lambda parts: base64.urlsafe_b64encode("|".join(parts).encode("utf-8", "replace")).decode()),
    )
    @example("0")
    @example(base64.urlsafe_b64encode(b"0001-01-01T00:00:00+14:00|ds_a").decode())
    @example(base64.urlsafe_b64encode(b"2024-01-01T00:00:00+00:00|ds_\x00").decode())
    def test_any_other_cursor_is_refused(self, database: Database, cursor: str) -> None:
        with pytest.raises(BadRequest) as refused:
            get_page(database, limit=2, cursor=cursor)
        assert (refused.value.code, refused.value.param) == ("invalid_cursor", "after")
