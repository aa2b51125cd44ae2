"""Scores that a researcher's file defines, before they are installed as a package."""

import contextlib
import dataclasses
import importlib.util
import sys
from pathlib import Path

from app.domain.errors import BadRequest
from app.scoring.contract import Score
from app.scoring.registry import SCORES

_MODULE = "foretune_own_scores"
_HINT = "See docs/own-score.md for a file that works."


def load_scores(path: Path) -> list[Score]:
    """Run a Python file and return the scores it defines, in their order, with the functions of this very file.

    What the file prints goes to standard error.

    Raises:
        BadRequest: ``score_file_failed`` (no Python file, or it raised), ``no_scores_defined``, ``score_name_taken``.
    """
    if not path.exists():
        raise BadRequest("score_file_failed", f"{path} does not exist.", param=str(path), hint="Check the path.")
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BadRequest(
            "score_file_failed",
            f"{path} is not a Python file.",
            param=str(path),
            hint=f"Its name ends with .py. {_HINT}",
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    try:
        with contextlib.redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise BadRequest(
            "score_file_failed",
            f"{path} could not be run: {type(error).__name__}: {error}",
            param=str(path),
            hint=f"Try `python {path}`. {_HINT}",
        ) from error
    scores = [thing for thing in vars(module).values() if isinstance(thing, Score)]
    if not scores:
        raise BadRequest(
            "no_scores_defined",
            f"{path} defines no Score.",
            param=str(path),
            hint=f"A score is an object of app.scoring.Score. {_HINT}",
        )
    return [_with_functions_of(_MODULE, score, path, vars(module)) for score in scores]


def _with_functions_of(module: str, score: Score, path: Path, names: dict[str, object]) -> Score:
    """Return a score whose implementation is the function in the file, under whatever module name it is stated."""
    if score.name in SCORES:
        raise BadRequest(
            "score_name_taken",
            f"{path} defines a score named {score.name!r}, which is built in.",
            param=str(path),
            hint="Choose another name.",
        )
    function = score.implementation.rpartition(":")[2]
    if not callable(names.get(function)):
        return score
    return dataclasses.replace(score, implementation=f"{module}:{function}")
