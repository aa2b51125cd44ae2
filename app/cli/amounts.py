"""Amounts as people write and read them: 5M, 1.5GB, 30e6; 1 model, 2 models."""

import re

import typer

_AMOUNT = re.compile(r"([^a-z]+|[+-]?[0-9.]+e[+-]?[0-9]+)([a-z]*)", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def read_amount(text: str) -> float:
    """Return a number with or without a unit: k, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024.

    A ``b`` at the end, of bytes, says nothing; the case does not matter.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _AMOUNT.fullmatch(text.strip())
    try:
        if found is None:
            return float(text)  # such as nan, which the client refuses by name
        number, unit = found.groups()
        return float(number) * _UNITS[unit.lower().removesuffix("b")]
    except (ValueError, KeyError) as error:
        message = f"{text!r} is no amount. Write it as 5000000, 5e6, 5M, 1.5GB or 512MiB."
        raise typer.BadParameter(message) from error


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s unless it is one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
