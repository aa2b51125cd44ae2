"""The databases of earlier releases, as ``make_release_database`` has written them: SQL of either kind, and answers."""

import gzip
import json
import re
import sqlite3
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

FOLDER = Path(__file__).parent
_SUFFIX = ".json"
_INSERT = re.compile(r"INSERT INTO public\.(\w+) .*;$")


@dataclass(frozen=True)
class Release:
    """What one release left.

    Attributes:
        name: such as ``release-0.1.0``.
        folder: where its files lie.
    """

    name: str
    folder: Path = FOLDER

    @property
    def told(self) -> dict[str, Any]:
        """Its ``secret``, an admin's ``key``, and its ``answers`` by path."""
        told: dict[str, Any] = json.loads((self.folder / f"{self.name}{_SUFFIX}").read_text())
        return told

    def restore(self, url: str) -> None:
        """Put its database into an empty one, which may be SQLite's or PostgreSQL's."""
        if url.startswith("sqlite:///"):
            with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
                database.executescript(self._sql("sqlite"))
            database.close()
            return
        with psycopg.connect(url) as connection:
            connection.execute(self._sql("postgresql").encode())

    def rows(self) -> dict[str, list[str]]:
        """Return, by table, the statements by which PostgreSQL gets each row again; they name the columns it has."""
        found: dict[str, list[str]] = defaultdict(list)
        # The values are of one line each: what has several is JSON, which writes them otherwise.
        for line in self._sql("postgresql").splitlines():
            if insert := _INSERT.match(line):
                found[insert[1]].append(line)
        found.pop("alembic_version")
        return dict(found)

    def _sql(self, kind: str) -> str:
        return gzip.decompress((self.folder / f"{self.name}.{kind}.sql.gz").read_bytes()).decode()


def releases() -> list[Release]:
    """Return every release of which there are files, the oldest first."""
    names = [path.name.removesuffix(_SUFFIX) for path in FOLDER.glob(f"release-*{_SUFFIX}")]
    return [Release(name) for name in sorted(names, key=_version)]


def _version(name: str) -> list[int]:
    return [int(part) for part in name.removeprefix("release-").split(".")]
