"""The versions of models: what there is of a name, and what the next one is."""

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.ids import new_id
from app.domain.model_spec import ModelSpec
from app.storage.tables import Model

_TOGETHER = 500
"""Names that one query asks about."""


class Version(NamedTuple):
    """A registered version of a name."""

    number: int
    id: str
    digest: str
    tags: list[str]


def versions_of(session: Session, names: Sequence[str]) -> dict[str, list[Version]]:
    """Return every version of each of some names, the latest last."""
    columns = Model.name, Model.version, Model.id, Model.spec_digest, Model.tags
    found: dict[str, list[Version]] = {name: [] for name in names}
    for start in range(0, len(names), _TOGETHER):
        query = select(*columns).where(Model.name.in_(names[start : start + _TOGETHER])).order_by(Model.version)
        for row in session.execute(query):
            found[row.name].append(Version(row.version, row.id, row.spec_digest, row.tags))
    return found


def next_number(versions: Sequence[Version]) -> int:
    """Return the number of the version that comes after these."""
    return versions[-1].number + 1 if versions else 1


def new_version(spec: ModelSpec, tags: Sequence[str] | None, versions: Sequence[Version]) -> Model:
    """Return the row of the version that comes after ``versions``, with their last one's tags where none are given."""
    if tags is None:
        tags = versions[-1].tags if versions else ()
    return Model(
        id=new_id("mdl"),
        name=spec.name,
        version=next_number(versions),
        spec=spec.as_dict(),
        spec_digest=spec_digest(spec),
        tags=list(tags),
        failures={},
        revision=1,
    )


def spec_digest(spec: ModelSpec) -> str:
    """Return the SHA-256 of everything that is stated: another one is another version."""
    return hashlib.sha256(json.dumps(spec.as_dict(), sort_keys=True).encode()).hexdigest()
