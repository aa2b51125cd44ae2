"""The zoo: models and their versions, shared by all tenants."""

import hashlib
import json

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.domain.errors import BadRequest, Conflict, NotFound
from app.domain.ids import new_id
from app.domain.model_spec import ModelSpec
from app.domain.states import MODEL_TERMINAL, ModelState
from app.storage.repositories.paging import Page, page
from app.storage.tables import Model

_SWITCHES = {ModelState.ACTIVE: ModelState.DISABLED, ModelState.DISABLED: ModelState.ACTIVE}


class Models:
    """Registered models. A version never changes; a change is a new version."""

    def __init__(self, session: Session) -> None:
        """Work in one transaction."""
        self._session = session

    def register(self, spec: ModelSpec) -> tuple[Model, bool]:
        """Add a model, or a new version of one; the same specification again is the same version.

        Returns:
            The model, and whether it is new.
        """
        while True:
            model = self.find(spec)
            if model is not None:
                return model, False
            try:
                with self._session.begin_nested():
                    return self._add(spec), True
            except IntegrityError:
                continue  # somebody registered this version, or another of the same number, at this moment

    def find(self, spec: ModelSpec) -> Model | None:
        """Return the version that has this very specification, if there is one."""
        return self._session.scalar(
            select(Model).where(Model.name == spec.name, Model.spec_digest == _spec_digest(spec))
        )

    def latest_version(self, name: str) -> int:
        """Return the number of the latest version of a name; 0 if nobody registered one."""
        return self._session.scalar(select(func.max(Model.version)).where(Model.name == name)) or 0

    def _add(self, spec: ModelSpec) -> Model:
        model = Model(
            id=new_id("mdl"),
            name=spec.name,
            version=self.latest_version(spec.name) + 1,
            spec=spec.as_dict(),
            spec_digest=_spec_digest(spec),
            failures={},
            revision=1,
        )
        self._session.add(model)
        self._session.flush()
        return model

    def get(self, model_id: str) -> Model:
        """Return one model version.

        Raises:
            NotFound: ``model_not_found``.
        """
        model = self._session.scalar(select(Model).where(Model.id == model_id))
        if model is None:
            raise _not_found(model_id)
        return model

    def revision(self, model_id: str) -> tuple[int, bool]:
        """Return the revision and whether the checks have ended, for cheap polling."""
        row = self._session.execute(select(Model.revision, Model.state).where(Model.id == model_id)).one_or_none()
        if row is None:
            raise _not_found(model_id)
        return row.revision, row.state in MODEL_TERMINAL

    def page(self, *, limit: int, cursor: str | None, state: str | None = None) -> Page[Model]:
        """List models, newest first."""
        query = select(Model)
        if state:
            query = query.where(Model.state == state)
        return page(self._session, query, Model, limit=limit, cursor=cursor)

    def active(self) -> list[Model]:
        """Return every active model, by name."""
        return list(self._session.scalars(select(Model).where(Model.state == ModelState.ACTIVE).order_by(Model.name)))

    def count_unchecked(self) -> int:
        """Return how many models still wait for their admission checks."""
        waiting = Model.state.in_([ModelState.PENDING, ModelState.CHECKING])
        return self._session.scalar(select(func.count()).where(waiting)) or 0

    def choose(self, names: list[str]) -> list[Model]:
        """Return the active models with these ids or names, in this order, each once.

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
            model = next((version for version in versions if version.state == ModelState.ACTIVE), versions[0])
            if model.state != ModelState.ACTIVE:
                raise Conflict(
                    "model_not_active",
                    f"Model {name!r} is {model.state}, not active.",
                    param=f"models.{position}",
                    hint="Wait until its checks have passed, or leave it out.",
                )
            chosen[model.id] = model
        return list(chosen.values())

    def switch(self, model_id: str, state: ModelState, reason: str | None) -> Model:
        """Enable or disable a model; a repetition changes nothing.

        Raises:
            NotFound: ``model_not_found``.
            Conflict: ``model_state``, when the model is neither active nor disabled.
        """
        model = self.get(model_id)
        if model.state == state:
            return model
        if _SWITCHES.get(ModelState(model.state)) != state:
            raise Conflict(
                "model_state",
                f"Model {model_id} is {model.state} and cannot become {state}.",
                param="status",
                hint="Only active models can be disabled, and only disabled ones enabled.",
            )
        if state == ModelState.ACTIVE:
            self.retire_other_versions(model)
        self._session.execute(
            update(Model)
            .where(Model.id == model_id, Model.state == model.state)
            .values(state=state, reason=reason, revision=Model.revision + 1)
            .execution_options(synchronize_session=False)
        )
        self._session.refresh(model)
        return model

    def newer_active_version(self, model: Model) -> int | None:
        """Return the number of an active version of the same name that was registered later."""
        newer = [Model.name == model.name, Model.version > model.version, Model.state == ModelState.ACTIVE]
        return self._session.scalar(select(func.max(Model.version)).where(*newer))

    def retire_other_versions(self, model: Model) -> None:
        """Disable the active version of the same name, so that ``model`` can take its place."""
        # Two versions that become active at the same moment take turns, by the locks of their rows.
        versions = select(Model.id).where(Model.name == model.name)
        self._session.execute(versions.order_by(Model.id).with_for_update())
        others = [Model.name == model.name, Model.id != model.id, Model.state == ModelState.ACTIVE]
        self._session.execute(
            update(Model)
            .where(*others)
            .values(
                state=ModelState.DISABLED,
                reason=f"superseded by version {model.version}",
                revision=Model.revision + 1,
            )
            .execution_options(synchronize_session=False)
        )


def _spec_digest(spec: ModelSpec) -> str:
    return hashlib.sha256(json.dumps(spec.as_dict(), sort_keys=True).encode()).hexdigest()


def _not_found(model_id: str) -> NotFound:
    return NotFound("model_not_found", f"There is no model {model_id}.", param="model", hint="List: GET /v1/models.")
