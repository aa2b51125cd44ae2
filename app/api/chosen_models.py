"""Which models a selection is about: those it names, or all that its zoo and its constraints leave."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.domain.errors import BadRequest, Conflict
from app.domain.model_constraints import BOUNDS, ModelConstraints, bounded
from app.domain.model_description import ModelDescription
from app.storage.repositories.model_filters import describe
from app.storage.repositories.models import Models
from app.storage.repositories.zoos import Zoos
from app.storage.tables import Model


def choose_models(
    session: Session, named: list[str] | None, constraints: ModelConstraints, zoo: str | None
) -> list[Model]:
    """Return the models of a selection.

    Args:
        session: the transaction that makes the selection.
        named: ids or names; None for every active model.
        constraints: that each of them has to satisfy.
        zoo: of which each of them has to be a member, if given.

    Raises:
        BadRequest: ``unknown_zoo``, ``unknown_model``, ``model_breaks_constraint``.
        Conflict: ``model_not_active``, ``no_active_models``, ``no_model_satisfies_constraints``.
    """
    models = Models(session)
    if zoo is not None:
        Zoos(session).require(zoo)
    if named:
        chosen = models.choose(named)
        _refuse_unfit(chosen, constraints, Zoos(session).names(zoo) if zoo is not None else None)
        return chosen
    chosen = models.active(constraints, zoo)
    if chosen:
        return chosen
    there_are = models.active(zoo=zoo)
    raise _none_fits(constraints, there_are) if there_are else _none_active(zoo, models.count_unchecked())


def _refuse_unfit(chosen: Sequence[Model], constraints: ModelConstraints, members: frozenset[str] | None) -> None:
    for position, model in enumerate(chosen):
        broken = list(constraints.broken_by(describe(model), model.tags))
        if members is not None and model.name not in members:
            broken.append("zoo")
        if broken:
            raise BadRequest(
                "model_breaks_constraint",
                f"Model {model.name!r} does not satisfy {' and '.join(broken)}.",
                param=f"models.{position}",
                hint="Leave the model out, or the constraint.",
            )


def _none_active(zoo: str | None, unchecked: int) -> Conflict:
    which = "The zoo has no active model yet" if zoo is None else f"The zoo {zoo!r} has no active model"
    return Conflict(
        "no_active_models",
        f"{which}; {unchecked} are waiting for their checks.",
        param="models" if zoo is None else "zoo",
        hint="Wait a minute and try again; see GET /v1/models."
        if unchecked
        else "Ask an admin to register models: POST /v1/models.",
    )


def _none_fits(constraints: ModelConstraints, models: Sequence[Model]) -> Conflict:
    """Return the error of constraints that no model satisfies: what each leaves, and which one to loosen."""
    broken = [frozenset(constraints.broken_by(describe(model), model.tags)) for model in models]
    left = {name: sum(name not in one for one in broken) for name in constraints.names}
    gained = {name: broken.count(frozenset({name})) for name in constraints.names}
    loosened = max(gained, key=lambda name: gained[name])
    told = ", ".join(f"{name} leaves {count}" for name, count in left.items())
    is_enough = gained[loosened] > 0
    near = [describe(model) for model, one in zip(models, broken, strict=True) if one == {loosened}]
    return Conflict(
        "no_model_satisfies_constraints",
        f"Of {len(models)} active models, none satisfies all constraints. Alone, {told}.",
        param=f"constraints.{loosened}" if is_enough else "constraints",
        hint=f"Without {loosened}, {gained[loosened]} would fit{_nearest(loosened, near)}."
        if is_enough
        else "No single constraint is to blame: loosen more than one, or register other models.",
    )


def _nearest(name: str, models: Sequence[ModelDescription]) -> str:
    values = [bounded(name, one) for one in models] if name in BOUNDS else []
    known = [value for value in values if value is not None]
    return f"; {name} of {min(known):.15g} would do for one" if known else ""
