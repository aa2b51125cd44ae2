"""A database that is away for a moment, told apart from a statement that it would refuse again and again."""

import sqlite3

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.domain.errors import Unavailable
from app.storage.full_disk import is_out_of_room, storage_full

_GONE = ("08", "57P", "25P03", "25P04")
"""PostgreSQL's classes and codes of a connection that broke or was cut: by a crash, a restart, an idle time."""
_IN_THE_WAY = ("40", "55P03", "25006")
"""Of a transaction that met another one, or a server that only answers reads until it takes over from its primary."""
_IN_TROUBLE = ("53", "58")
"""Of a server without memory, connections, room or a working disk.
Source of all of them: PostgreSQL's documentation, appendix A, "Error Codes"."""
_SQLITE_IN_THE_WAY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})
_SQLITE_IN_TROUBLE = frozenset(
    {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM}
)
_SQLITE_PRIMARY_CODE = 0xFF


def is_away(error: SQLAlchemyError) -> bool:
    """Tell whether the same would work as soon as the database answers, or another transaction has ended."""
    if isinstance(error, PoolTimeout):
        return True  # every connection of this process waits
    if not isinstance(error, DBAPIError):
        return False
    sqlite = _sqlite_code(error)
    if sqlite is not None:
        return sqlite in _SQLITE_IN_THE_WAY
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # not said by a server: it could not be reached, or the connection broke
        return error.connection_invalidated or isinstance(error, OperationalError)
    return str(state).startswith(_GONE + _IN_THE_WAY)


def is_in_trouble(error: SQLAlchemyError) -> bool:
    """Tell whether the database answers, and wants memory, connections, room or a disk that works."""
    if not isinstance(error, DBAPIError):
        return False
    sqlite = _sqlite_code(error)
    if sqlite is not None:
        return sqlite in _SQLITE_IN_TROUBLE
    return str(getattr(error.orig, "sqlstate", None)).startswith(_IN_TROUBLE)


def database_unavailable(error: SQLAlchemyError) -> Unavailable:
    """Return what users are told of a database that is away or in trouble: ``storage_full`` where room is missing."""
    if is_out_of_room(error):
        return storage_full("The database", "on the disk of the database")
    return Unavailable(
        "database_unavailable", "The database does not answer.", hint="Try again in a few seconds; see /readyz."
    )


def _sqlite_code(error: DBAPIError) -> int | None:
    if not isinstance(error.orig, sqlite3.Error):
        return None
    return getattr(error.orig, "sqlite_errorcode", 0) & _SQLITE_PRIMARY_CODE
