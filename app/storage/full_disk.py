"""A disk without room, told apart from a store or a database that does not answer: waiting does not mend it."""

import errno
import sqlite3

from app.domain.errors import Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_POSTGRESQL_FULL = "53100"
"""``disk_full``. Source: PostgreSQL's documentation, appendix A, "Error Codes"."""


def is_out_of_room(error: BaseException) -> bool:
    """Tell whether something could not be written for want of room: a file, or a row of SQLite or PostgreSQL.

    What an error was raised from counts, too: SQLite ends the transaction by itself when its disk is full, and what
    would then roll back to a savepoint fails in another way.
    """
    if _says_so(error):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and is_out_of_room(before)


def _says_so(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    if isinstance(error, sqlite3.Error):
        # An error of this module's own, such as for a closed connection, has no code.
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return getattr(error, "sqlstate", None) == _POSTGRESQL_FULL


def storage_full(what: str, where: str) -> Unavailable:
    """Return the error of a request or a job that would have written more than there is room for.

    Args:
        what: has no room, as the beginning of a sentence.
        where: room is to be made.
    """
    return Unavailable(
        "storage_full",
        f"{what} has no room left.",
        hint=f"Make room {where}: delete what is no longer needed, or enlarge the disk. Then send it again.",
        status=507,
    )
