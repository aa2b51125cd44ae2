"""Named parts of the zoo. Their members are names: whichever version of a model is active belongs to them."""

from collections.abc import Iterable, Sequence

from sqlalchemy import case, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.domain.errors import BadRequest, NotFound
from app.domain.ids import new_id
from app.domain.states import ModelState
from app.storage.repositories.model_events import Action, record
from app.storage.repositories.paging import Page, page
from app.storage.tables import Model, Zoo, ZooMember, now

_MOST_NAMED = 20


class Zoos:
    """The zoos of all tenants."""

    def __init__(self, session: Session, *, actor: str = "service") -> None:
        """Work in one transaction; ``actor`` is who the audit log says has done it."""
        self._session = session
        self._actor = actor

    def get(self, name: str) -> Zoo:
        """Return one zoo.

        Raises:
            NotFound: ``zoo_not_found``.
        """
        zoo = self._find(name)
        if zoo is None:
            raise NotFound(
                "zoo_not_found",
                f"There is no zoo {name!r}.",
                param="zoo",
                hint="List them with GET /v1/zoos or `foretune zoos list`.",
            )
        return zoo

    def require(self, name: str) -> None:
        """Refuse the name of a zoo that is none.

        Raises:
            BadRequest: ``unknown_zoo``.
        """
        try:
            self.get(name)
        except NotFound as missing:
            raise BadRequest("unknown_zoo", missing.message, param="zoo", hint=missing.hint) from missing

    def page(self, *, limit: int, cursor: str | None) -> Page[Zoo]:
        """List zoos, newest first."""
        return page(self._session, select(Zoo), Zoo, limit=limit, cursor=cursor)

    def members(self, zoos: Iterable[Zoo]) -> dict[str, list[str]]:
        """Return the names of the models of some zoos, by the zoo's id."""
        members: dict[str, list[str]] = {zoo.id: [] for zoo in zoos}
        query = select(ZooMember).where(ZooMember.zoo_id.in_(members)).order_by(ZooMember.model_name)
        for member in self._session.scalars(query):
            members[member.zoo_id].append(member.model_name)
        return members

    def names(self, zoo: str) -> frozenset[str]:
        """Return the names of a zoo's members; none of a zoo that is none."""
        query = select(ZooMember.model_name).join(Zoo, Zoo.id == ZooMember.zoo_id).where(Zoo.name == zoo)
        return frozenset(self._session.scalars(query))

    def put(self, name: str, description: str, models: Sequence[str]) -> tuple[Zoo, bool]:
        """Make a zoo, or change it to have this description and these members; a repetition changes nothing.

        Returns:
            The zoo, and whether it is new.

        Raises:
            BadRequest: ``unknown_model``, naming every name that no model has.
        """
        wanted = set(models)
        self._refuse_unknown(wanted)
        while True:
            zoo = self._find(name, lock=True)
            if zoo is not None:
                self._change(zoo, description, wanted)
                return zoo, False
            try:
                with self._session.begin_nested():
                    zoo = Zoo(id=new_id("zoo"), name=name, description=description)
                    self._session.add(zoo)
                    self._session.flush()
            except IntegrityError:
                continue  # somebody made it at this moment
            self._change(zoo, description, wanted)
            return zoo, True

    def delete(self, name: str) -> None:
        """Remove a zoo; its models stay.

        Raises:
            NotFound: ``zoo_not_found``.
        """
        zoo = self._find(name, lock=True) or self.get(name)
        self._note(zoo, self.members([zoo])[zoo.id], "left_zoo")
        self._session.execute(delete(ZooMember).where(ZooMember.zoo_id == zoo.id))
        self._session.execute(delete(Zoo).where(Zoo.id == zoo.id))

    def _find(self, name: str, *, lock: bool = False) -> Zoo | None:
        query = select(Zoo).where(Zoo.name == name).execution_options(populate_existing=True)
        return self._session.scalar(query.with_for_update() if lock else query)

    def _change(self, zoo: Zoo, description: str, wanted: set[str]) -> None:
        had = set(self.members([zoo])[zoo.id])
        joined, left = sorted(wanted - had), sorted(had - wanted)
        if left:
            gone = [ZooMember.zoo_id == zoo.id, ZooMember.model_name.in_(left)]
            self._session.execute(delete(ZooMember).where(*gone))
            self._note(zoo, left, "left_zoo")
        if joined:
            rows = [{"zoo_id": zoo.id, "model_name": model} for model in joined]
            self._session.execute(insert(ZooMember), rows)
            self._note(zoo, joined, "joined_zoo")
        if joined or left or zoo.description != description:
            zoo.description, zoo.updated_at = description, now()
            self._session.flush()

    def _refuse_unknown(self, names: set[str]) -> None:
        known = set(self._session.scalars(select(Model.name).where(Model.name.in_(names)).distinct()))
        unknown = sorted(names - known)
        if unknown:
            more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
            listed = ", ".join(repr(name) for name in unknown[:_MOST_NAMED]) + more
            raise BadRequest(
                "unknown_model",
                f"No model is named {listed}.",
                param="models",
                hint="A zoo's members are names, not ids: GET /v1/models or `foretune models list` shows them.",
            )

    def _note(self, zoo: Zoo, names: Sequence[str], action: Action) -> None:
        """Write a line for the active version of each name, else for its latest one."""
        active_first = case((Model.state == ModelState.ACTIVE, 0), else_=1)
        query = select(Model.name, Model.id).where(Model.name.in_(names)).order_by(active_first, Model.version.desc())
        meant: dict[str, str] = {}
        for name, model_id in self._session.execute(query):
            meant.setdefault(name, model_id)
        record(self._session, meant.values(), actor=self._actor, action=action, details={"zoo": zoo.name})
