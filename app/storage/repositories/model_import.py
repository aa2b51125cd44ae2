"""Registering many models in a few statements, as ``Models.register`` does one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.domain.model_spec import ModelSpec
from app.storage.repositories.model_events import record
from app.storage.repositories.model_versions import Version, new_version, next_number, spec_digest, versions_of
from app.storage.repositories.models import Models

Row = tuple[ModelSpec, Sequence[str] | None]
"""A specification, and its tags where it states some."""


@dataclass(frozen=True)
class Registration:
    """What became, or would become, of a specification.

    Attributes:
        id: None where it is not registered.
        version: its number, or the one it would get.
        is_known: whether this very version was registered before.
        is_first: whether its name was not.
    """

    id: str | None
    version: int
    is_known: bool
    is_first: bool


def import_models(session: Session, rows: Sequence[Row], *, actor: str, dry_run: bool = False) -> list[Registration]:
    """Register specifications of different names, each with its tags.

    Args:
        session: a writing transaction; a reading one does for a dry run.
        rows: specifications and their tags.
        actor: who the audit log says has done it.
        dry_run: only say what would become of them.
    """
    known = versions_of(session, [spec.name for spec, _ in rows])
    found = [_find(known[spec.name], spec_digest(spec)) for spec, _ in rows]
    if dry_run:
        return found
    # In one order, so that two that register the same models at once do not wait for each other.
    new = sorted((row for row, one in zip(rows, found, strict=True) if one.id is None), key=lambda row: row[0].name)
    added = _add(session, new, known, actor)
    stated = [(one.id, tags) for (_, tags), one in zip(rows, found, strict=True) if one.id and tags is not None]
    for model_id, tags in sorted(stated):
        Models(session, actor=actor).tag(model_id, tags)
    return [added.get(spec.name, one) for (spec, _), one in zip(rows, found, strict=True)]


def _add(
    session: Session, rows: Sequence[Row], known: Mapping[str, Sequence[Version]], actor: str
) -> dict[str, Registration]:
    try:
        with session.begin_nested():
            models = [new_version(spec, tags, known[spec.name]) for spec, tags in rows]
            session.add_all(models)
            session.flush()
        record(session, [model.id for model in models], actor=actor, action="imported")
        added = [(model, True) for model in models]
    except IntegrityError:  # somebody registered one of them at this moment: one after the other
        zoo = Models(session, actor=actor)
        added = [zoo.register(spec, tags=tags, action="imported") for spec, tags in rows]
    return {
        model.name: Registration(model.id, model.version, is_known=not is_new, is_first=model.version == 1)
        for model, is_new in added
    }


def _find(versions: Sequence[Version], digest: str) -> Registration:
    known = next((one for one in versions if one.digest == digest), None)
    if known is not None:
        return Registration(known.id, known.number, is_known=True, is_first=False)
    return Registration(None, next_number(versions), is_known=False, is_first=not versions)
