"""Whether processes of the release before can work with a migrated database, as they do while a service is upgraded.

A migration may add: tables, columns that are nullable or have a default of the server, indexes. What the release before
reads or writes has to stay: its tables and columns under their names, none of them stricter than it was.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, inspect


@dataclass(frozen=True)
class Column:
    """What a release relies on in a column."""

    is_nullable: bool
    has_default: bool


Schema = dict[str, dict[str, Column]]
"""Tables and their columns, by name."""


def schema_of(connection: Connection) -> Schema:
    """Return the schema of a database, without Alembic's own table."""
    found = inspect(connection)
    return {
        table: {
            column["name"]: Column(column["nullable"], column["default"] is not None)
            for column in found.get_columns(table)
        }
        for table in found.get_table_names()
        if table != "alembic_version"
    }


def broken_by(before: Schema, after: Schema, *, unused: frozenset[str] = frozenset()) -> list[str]:
    """Return what breaks the release before.

    Args:
        before: the schema that it made.
        after: the schema after all migrations.
        unused: tables, and columns as ``table.column``, that it no longer used; only these may be gone.
    """
    broken = []
    for table, columns in before.items():
        if table not in after:
            broken += [] if table in unused else [f"{table} is gone"]
            continue
        for name, column in columns.items():
            now = after[table].get(name)
            if now is None:
                broken += [] if f"{table}.{name}" in unused else [f"{table}.{name} is gone"]
            elif column.is_nullable and not now.is_nullable:
                broken.append(f"{table}.{name} may no longer be null")
        for name, column in after[table].items():
            if name not in columns and not (column.is_nullable or column.has_default):
                broken.append(f"{table}.{name} is new and has to be given")
    return broken
