"""Options that several commands share, as one parameter of each: a dataclass whose fields are as typer takes them."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that typer gives the fields of a dataclass as options, wherever a parameter is annotated by one.

    Such a parameter is keyword-only, and every field has a default: ``def rank(*, models: ModelFilter)``.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {
        name: inspect.signature(parameter.annotation, eval_str=True).parameters
        for name, parameter in signature.parameters.items()
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)
    }

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, fields in groups.items():
            kind = signature.parameters[name].annotation
            given[name] = kind(**{field: given.pop(field) for field in fields})
        command(**given)

    options = []
    for name, parameter in signature.parameters.items():
        group = groups.get(name, {name: parameter}).values()
        options += [option.replace(kind=parameter.kind) for option in group]
    run.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]
    return run
