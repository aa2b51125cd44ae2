"""The checks of one admission as they happen: each by its name, with its outcome, its finding and its time."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.domain.errors import ModelRejected, Unavailable
from app.domain.interruption import Interrupted
from app.storage.leases import LeaseLost
from workers.extract.memory import is_out_of_memory
from workers.zoo.library_errors import first_line

log = structlog.get_logger()

Outcome = Literal["pass", "warn", "fail"]


class Check(TypedDict):
    """One finished check, as it is stored and shown.

    ``code`` and ``hint`` are None where it passed, ``figures`` the numbers behind ``detail``.
    """

    name: str
    outcome: Outcome
    detail: str
    code: str | None
    hint: str | None
    figures: dict[str, Any]
    seconds: float


class AdmissionRefused(ModelRejected):
    """A check failed; ``checks`` holds those before it and the failed one at the end."""

    def __init__(self, error: ModelRejected, checks: list[Check]) -> None:
        """Repeat ``error`` with the checks done so far."""
        super().__init__(error.code, error.message, param=error.param, hint=error.hint)
        self.checks = checks


@dataclass
class Finding:
    """What a check found; it passes unless it warns or raises."""

    detail: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome = "pass"
    code: str | None = None
    hint: str | None = None

    def warn(self, code: str, detail: str, hint: str) -> None:
        """Let the model pass, and say what is doubtful about it and how to mend it."""
        self.outcome, self.code, self.detail, self.hint = "warn", code, detail, hint


@dataclass
class CheckLog:
    """The running list. A check that raises ``ModelRejected`` is the last one."""

    on_start: Callable[[str], None] | None = None
    on_check: Callable[[Check], None] | None = None
    done: list[Check] = field(default_factory=list)

    @contextmanager
    def check(self, name: str) -> Iterator[Finding]:
        """Run one check.

        Raises:
            AdmissionRefused: the check raised ``ModelRejected``, or something that nobody foresaw.
            Interrupted: the work was told to stop, or its lease was lost (``LeaseLost``): nothing was found. Nor is
                anything where the object store (``Unavailable``) or the database (``SQLAlchemyError``) is out.
        """
        if self.on_start is not None:
            self.on_start(name)
        start = time.perf_counter()
        finding = Finding()
        try:
            yield finding
        except (Interrupted, LeaseLost, Unavailable, SQLAlchemyError):
            raise
        except ModelRejected as error:
            failed = Finding(error.message, finding.figures, "fail", error.code, error.hint)
            self._add(name, failed, time.perf_counter() - start)
            raise AdmissionRefused(error, self.done) from error
        except Exception as error:
            refused = _unforeseen(error, name)
            self._add(
                name,
                Finding(refused.message, finding.figures, "fail", refused.code, refused.hint),
                time.perf_counter() - start,
            )
            raise AdmissionRefused(refused, self.done) from error
        self._add(name, finding, time.perf_counter() - start)

    def _add(self, name: str, finding: Finding, seconds: float) -> None:
        self.done.append(
            Check(
                name=name,
                outcome=finding.outcome,
                detail=finding.detail,
                code=finding.code,
                hint=finding.hint,
                figures=rounded(finding.figures),
                seconds=round(seconds, 3),
            )
        )
        if self.on_check is not None:
            self.on_check(self.done[-1])


def _unforeseen(error: Exception, check: str) -> ModelRejected:
    """Log what a library ended a check with in a way nobody foresaw, and return what is told of it."""
    if is_out_of_memory(error):
        # No traceback: it would be made of what has no room.
        log.error("check.out_of_memory", check=check, error=f"{type(error).__name__}: {first_line(error)}")
        hint = "Use a worker with more memory, a smaller model, or a smaller preprocessing.resize and crop."
        return ModelRejected("out_of_memory", f"memory ran out in the check {check}", hint=hint)
    log.exception("check.crashed", check=check)
    return ModelRejected(
        "check_failed",
        f"the check ended with {type(error).__name__}: {first_line(error)}",
        hint="The library cannot handle the file or the architecture: try another, or see the worker's log.",
    )


def rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures with four significant digits, and no number that JSON cannot hold."""
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return rounded(value)
    if isinstance(value, float):
        return float(f"{value:.4g}") if abs(value) < float("inf") else None
    return value
