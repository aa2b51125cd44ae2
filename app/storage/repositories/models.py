"""The zoo: models and their versions, shared by all tenants."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, CursorResult, func, null, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.domain.errors import BadRequest, Conflict, ModelRejected, NotFound
from app.domain.labels import read_tags
from app.domain.model_constraints import UNCONSTRAINED, ModelConstraints
from app.domain.model_spec import ModelSpec
from app.domain.states import MODEL_EDGES, MODEL_TERMINAL, MODEL_USABLE, ModelState
from app.storage.repositories.model_events import Action, record
from app.storage.repositories.model_filters import in_zoo, satisfy
from app.storage.repositories.model_versions import new_version, spec_digest, versions_of
from app.storage.repositories.paging import Page, page
from app.storage.tables import Model

_TOGETHER = 500
"""Digests that one query asks about."""

_UNCHECKED: dict[str, Any] = {"failures": {}, "rung_at": None} | dict.fromkeys(
    ("error", "checks", "facts", "progress"), null()
)

_WITHDRAWN: dict[str, Any] = {
    "error": ModelRejected(
        "model_withdrawn",
        "An admin withdrew the model before its checks had ended.",
        hint="`reason` says why; `foretune models recheck` lets its checks run after all.",
    ).as_dict(),
    "progress": null(),
} | dict.fromkeys(("lease_token", "lease_holder", "lease_expires_at", "rung_at"))
"""Without its token, the worker that checks the model stores nothing more of it, and stops."""

_FURTHER_CHANGES: dict[str, dict[str, Any]] = {ModelState.PENDING: _UNCHECKED, ModelState.REJECTED: _WITHDRAWN}
"""What else becomes of a model that an admin moves to a state."""

_PREFERENCE: dict[str, int] = {ModelState.ACTIVE: 0, ModelState.DEPRECATED: 1}
"""Of the versions of a name, which is meant."""


class Models:
    """Registered models. A version's specification never changes; a change is a new version."""

    def __init__(self, session: Session, *, actor: str = "service") -> None:
        """Work in one transaction; ``actor`` is who the audit log says has done it."""
        self._session = session
        self._actor = actor

    def register(
        self, spec: ModelSpec, *, tags: Sequence[str] | None = None, action: Action = "registered"
    ) -> tuple[Model, bool]:
        """Add a model, or a new version of one; the same specification again is the same version.

        Args:
            spec: the specification.
            tags: of the version, also if it was registered before; None leaves them, and gives a new version those of
                the one before it.
            action: what the audit log calls it.

        Returns:
            The model, and whether it is new.
        """
        while True:
            model = self.find(spec)
            if model is not None:
                return (model if tags is None else self.tag(model.id, tags)), False
            try:
                with self._session.begin_nested():
                    model = self._add(spec, tags)
            except IntegrityError:
                continue  # somebody registered this version, or another of the same number, at this moment
            self._note([model.id], action)
            return model, True

    def find(self, spec: ModelSpec) -> Model | None:
        """Return the version that has this very specification, if there is one."""
        return self._session.scalar(
            select(Model).where(Model.name == spec.name, Model.spec_digest == spec_digest(spec))
        )

    def _add(self, spec: ModelSpec, tags: Sequence[str] | None) -> Model:
        model = new_version(spec, tags, versions_of(self._session, [spec.name])[spec.name])
        self._session.add(model)
        self._session.flush()
        return model

    def _note(self, model_ids: Sequence[str], action: Action, reason: str | None = None, **details: Any) -> None:
        record(self._session, model_ids, actor=self._actor, action=action, reason=reason, details=details)

    def get(self, model_id: str) -> Model:
        """Return one model version.

        Raises:
            NotFound: ``model_not_found``.
        """
        query = select(Model).where(Model.id == model_id).execution_options(populate_existing=True)
        model = self._session.scalar(query)
        if model is None:
            raise _not_found(model_id)
        return model

    def revision(self, model_id: str) -> tuple[int, bool]:
        """Return the revision and whether the checks have ended, for cheap polling."""
        row = self._session.execute(select(Model.revision, Model.state).where(Model.id == model_id)).one_or_none()
        if row is None:
            raise _not_found(model_id)
        return row.revision, row.state in MODEL_TERMINAL

    def page(
        self,
        *,
        limit: int,
        cursor: str | None,
        state: str | None = None,
        constraints: ModelConstraints = UNCONSTRAINED,
        zoo: str | None = None,
    ) -> Page[Model]:
        """List models, newest first: those in a state, that satisfy constraints, that are members of a zoo."""
        query = select(Model).where(*_which(constraints, zoo))
        if state:
            query = query.where(Model.state == state)
        return page(self._session, query, Model, limit=limit, cursor=cursor)

    def active(self, constraints: ModelConstraints = UNCONSTRAINED, zoo: str | None = None) -> list[Model]:
        """Return every active model that satisfies constraints and is a member of a zoo, by name."""
        query = select(Model).where(Model.state == ModelState.ACTIVE, *_which(constraints, zoo))
        return list(self._session.scalars(query.order_by(Model.name)))

    def count_unchecked(self) -> int:
        """Return how many models still wait for their admission checks."""
        waiting = Model.state.in_([ModelState.PENDING, ModelState.CHECKING])
        return self._session.scalar(select(func.count()).where(waiting)) or 0

    def choose(self, names: list[str]) -> list[Model]:
        """Return the active or deprecated models with these ids or names, in this order, each once.

        A name means its active version, else its latest deprecated one.

        Raises:
            BadRequest: ``unknown_model``.
            Conflict: ``model_not_active``.
        """
        chosen: dict[str, Model] = {}
        for position, name in enumerate(names):
            query = select(Model).where(or_(Model.id == name, Model.name == name))
            versions = list(self._session.scalars(query.order_by(Model.version.desc())))
            if not versions:
                raise BadRequest(
                    "unknown_model",
                    f"There is no model {name!r}.",
                    param=f"models.{position}",
                    hint="List the zoo with GET /v1/models or `foretune models list`.",
                )
            model = min(versions, key=lambda version: _PREFERENCE.get(version.state, len(_PREFERENCE)))
            if model.state not in MODEL_USABLE:
                raise Conflict(
                    "model_not_active",
                    f"Model {name!r} is {model.state}, not active.",
                    param=f"models.{position}",
                    hint="Wait until its checks have passed, or leave it out.",
                )
            chosen[model.id] = model
        return list(chosen.values())

    def switch(self, model_id: str, state: ModelState, reason: str | None) -> Model:
        """Move a model to a state that an admin may give it; a repetition changes nothing.

        A model that becomes pending is checked again; what was found before is forgotten. One that is not yet checked
        is withdrawn by becoming rejected: a worker that checks it loses its lease.

        Raises:
            NotFound: ``model_not_found``.
            BadRequest: ``reason_required``: a model is deprecated without one.
            Conflict: ``model_state``, when no edge leads there.
        """
        while True:
            model = self.get(model_id)
            if model.state == state:
                return model
            was = ModelState(model.state)
            if state not in MODEL_EDGES.get(was, frozenset()):
                raise _no_edge(model, state)
            if state == ModelState.DEPRECATED and not (reason or "").strip():
                raise BadRequest(
                    "reason_required",
                    f"{_called(model)} is to be deprecated, and no reason is given.",
                    param="reason",
                    hint="Say why, and which model to take instead: those who ask for it will read that.",
                )
            if state == ModelState.ACTIVE:
                self.retire_other_versions(model)
            changes = {"state": state, "reason": reason, "revision": Model.revision + 1}
            changed = self._session.execute(
                update(Model)
                .where(Model.id == model_id, Model.state == was)
                .values(changes | _FURTHER_CHANGES.get(state, {}))
                .execution_options(synchronize_session=False)
            )
            assert isinstance(changed, CursorResult)
            if changed.rowcount:
                self._note([model_id], "status_changed", reason, was=was, now=state)
                return self.get(model_id)

    def tag(self, model_id: str, tags: Sequence[str], reason: str | None = None) -> Model:
        """Give a model these tags in place of those it has; a repetition changes nothing.

        Raises:
            NotFound: ``model_not_found``.
        """
        return self._retag(model_id, lambda _: list(tags), reason)

    def change_tags(
        self, model_id: str, *, add: Collection[str] = (), remove: Collection[str] = (), reason: str | None = None
    ) -> Model:
        """Add tags to a model and take others off it; those that two admins add at once are all there.

        Raises:
            NotFound: ``model_not_found``.
            BadRequest: ``invalid_tags``: they would be too many.
        """
        return self._retag(model_id, lambda had: list(read_tags(sorted({*had, *add} - {*remove}), "add_tags")), reason)

    def _retag(self, model_id: str, change: Callable[[list[str]], list[str]], reason: str | None) -> Model:
        self._session.execute(select(Model.id).where(Model.id == model_id).with_for_update())
        model = self.get(model_id)
        was = list(model.tags)
        wanted = change(was)
        if was == wanted:
            return model
        self._session.execute(
            update(Model)
            .where(Model.id == model_id)
            .values(tags=wanted, revision=Model.revision + 1)
            .execution_options(synchronize_session=False)
        )
        self._note([model_id], "tags_changed", reason, was=was, now=wanted)
        return self.get(model_id)

    def lock_versions(self, name: str) -> None:
        """Let two versions that become active at the same moment take turns, by the locks of their rows."""
        versions = select(Model.id).where(Model.name == name)
        self._session.execute(versions.order_by(Model.id).with_for_update())

    def newer_active_version(self, model: Model) -> int | None:
        """Return the number of an active version of the same name that was registered later."""
        newer = [Model.name == model.name, Model.version > model.version, Model.state == ModelState.ACTIVE]
        return self._session.scalar(select(func.max(Model.version)).where(*newer))

    def retire_other_versions(self, model: Model) -> None:
        """Disable the active version of the same name, so that ``model`` can take its place."""
        self.lock_versions(model.name)
        others = [Model.name == model.name, Model.id != model.id, Model.state == ModelState.ACTIVE]
        reason = f"superseded by version {model.version}"
        retired = self._session.scalars(
            update(Model)
            .where(*others)
            .values(state=ModelState.DISABLED, reason=reason, revision=Model.revision + 1)
            .returning(Model.id)
            .execution_options(synchronize_session=False)
        ).all()
        self._note(retired, "status_changed", reason, was=ModelState.ACTIVE, now=ModelState.DISABLED)


def uploads_named(session: Session, digests: Sequence[str]) -> set[str]:
    """Return those SHA-256 of uploaded weights that a model names as its source."""
    source = Model.spec[("source", "sha256")].as_string()
    is_upload = Model.spec[("source", "type")].as_string() == "upload"
    named: set[str] = set()
    for start in range(0, len(digests), _TOGETHER):
        named |= set(session.scalars(select(source).where(is_upload, source.in_(digests[start : start + _TOGETHER]))))
    return named


def deprecations(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return a warning for each deprecated one of some models, to be stored with the job that names them."""
    return [
        {
            "code": "model_deprecated",
            "detail": f"{model.name} version {model.version} is deprecated: {model.reason}",
            "model": model.id,
        }
        for model in models
        if model.state == ModelState.DEPRECATED
    ]


def _which(constraints: ModelConstraints, zoo: str | None) -> list[ColumnElement[bool]]:
    return satisfy(constraints) + ([] if zoo is None else [in_zoo(zoo)])


def _not_found(model_id: str) -> NotFound:
    return NotFound("model_not_found", f"There is no model {model_id}.", param="model", hint="List: GET /v1/models.")


def _called(model: Model) -> str:
    return f"Model {model.name} version {model.version} ({model.id})"


def _no_edge(model: Model, state: ModelState) -> Conflict:
    possible = sorted(MODEL_EDGES.get(ModelState(model.state), ()))
    return Conflict(
        "model_state",
        f"{_called(model)} is {model.state} and cannot become {state}.",
        param="status",
        hint=f"It can become {' or '.join(possible)}." if possible else "Wait until its checks have ended.",
    )
