"""What is known of models, and which satisfy constraints, as SQL for both databases and as ``app.domain`` means it."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, String, Text, func, select, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeEngine

from app.domain.model_constraints import BOUNDS, ModelConstraints
from app.domain.model_description import MEMORY_BATCH, ModelDescription
from app.storage.tables import Model, Zoo, ZooMember


class json_texts(GenericFunction[str]):  # noqa: N801  (an SQL function is written in lower case)
    """The texts of a JSON list, one a row, in a column ``value``."""

    type: TypeEngine[str] = Text()
    inherit_cache = True


@compiles(json_texts, "sqlite")
def _sqlite_texts(function: json_texts, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_each({compiler.process(function.clauses, **options)})"


@compiles(json_texts, "postgresql")
def _postgresql_texts(function: json_texts, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_array_elements_text(({compiler.process(function.clauses, **options)})::json)"


class ascii_lower(GenericFunction[str]):  # noqa: N801
    """A text with its ASCII letters in lower case, whatever the database's locale is."""

    type: TypeEngine[str] = String()
    inherit_cache = True


@compiles(ascii_lower, "sqlite")
def _sqlite_lower(function: ascii_lower, compiler: SQLCompiler, **options: Any) -> str:
    return f"lower({compiler.process(function.clauses, **options)})"


@compiles(ascii_lower, "postgresql")
def _postgresql_lower(function: ascii_lower, compiler: SQLCompiler, **options: Any) -> str:
    return f"""lower(({compiler.process(function.clauses, **options)}) COLLATE "C")"""


def describe(model: Model) -> ModelDescription:
    """Return what is known of a model: what the conditions of ``satisfy`` are about."""
    return ModelDescription.of(model.spec, model.facts)


def satisfy(constraints: ModelConstraints) -> list[ColumnElement[bool]]:
    """Return the conditions of rows of ``models`` that satisfy constraints."""
    return [condition for name in constraints.names for condition in _conditions(name, getattr(constraints, name))]


def in_zoo(name: str) -> ColumnElement[bool]:
    """Return the condition that a model is a member of a zoo."""
    members = select(ZooMember.model_name).join(Zoo, Zoo.id == ZooMember.zoo_id).where(Zoo.name == name)
    return Model.name.in_(members)


def _conditions(name: str, wanted: Any) -> Iterator[ColumnElement[bool]]:
    if name in BOUNDS:
        yield _bounded_fact(name) <= float(wanted)
    elif name == "licenses":
        yield func.ascii_lower(_stated("license")).in_(_lowered(wanted))
    elif name == "families":
        yield func.ascii_lower(Model.facts["family"].as_string()).in_(_lowered(wanted))
    elif name == "pretrained_on":
        yield _any_of(_stated("pretraining", "datasets"), wanted)
    elif name == "capabilities":
        for capability in wanted:
            yield Model.facts[("capabilities", capability)].as_boolean() == true()
    else:
        for tag in wanted:
            carried = func.json_texts(Model.tags).table_valued("value")
            yield select(carried.c.value).where(carried.c.value == tag).exists()


def _bounded_fact(name: str) -> ColumnElement[float]:
    if name == "max_memory_bytes":
        return _number("weights_bytes") + _number("peak_bytes", MEMORY_BATCH)
    return _number(name.removeprefix("max_"))


def _number(*path: str) -> ColumnElement[float]:
    fact: ColumnElement[float] = Model.facts[path].as_float()
    return fact


def _stated(*path: str) -> ColumnElement[str]:
    return func.coalesce(Model.facts[("resolved", *path)].as_string(), Model.spec[path].as_string())


def _any_of(texts: ColumnElement[str], wanted: Sequence[str]) -> ColumnElement[bool]:
    listed = func.json_texts(texts).table_valued("value")
    return select(listed.c.value).where(func.ascii_lower(listed.c.value).in_(_lowered(wanted))).exists()


def _lowered(texts: Sequence[str]) -> list[Any]:
    return [func.ascii_lower(text) for text in texts]
