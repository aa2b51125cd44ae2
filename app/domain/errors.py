"""Every failure that a user can be told about, as one tree.

    ForetuneError                     code, status, message, param, hint
    ├── BadRequest            400/422 the request itself is wrong
    ├── Unauthorized              401 no key, or a key that does not exist
    ├── Forbidden                 403 the key lacks a scope, or its tenant has no more of what it needs
    ├── NotFound                  404 no such object, or it is another tenant's
    ├── Conflict                  409 right request, wrong moment
    ├── Gone                      410 it was there, and was deleted when it expired
    ├── PayloadTooLarge           413 an upload over the limit
    ├── TooManyRequests           429 right request, too many before it; says when to come again
    ├── Unavailable               503 a dependency is down
    ├── DatasetRejected               an uploaded archive cannot become a data set
    ├── ModelRejected                 a registered model did not pass its checks
    ├── EvaluationFailed              one model could not be evaluated on one data set
    └── DeliveryFailed                a message to a webhook brought no answer

A code is stable and documented in docs/errors.md. The message says what happened and where, the hint what to do.
``DatasetRejected``, ``ModelRejected`` and ``EvaluationFailed`` happen in a worker: they are stored as the ``error`` of
the row they ended, with the same code, message, param and hint.
"""

from collections.abc import Sequence
from typing import Any, ClassVar


class ForetuneError(Exception):
    """A failure with a stable code, told to the user as an RFC 9457 problem."""

    status: ClassVar[int] = 500

    def __init__(
        self, code: str, message: str, *, param: str | None = None, hint: str | None = None, status: int | None = None
    ) -> None:
        """Name the failure.

        Args:
            code: stable snake_case identifier.
            message: what happened, and where, in one sentence.
            param: the request field, file or entry at fault.
            hint: what to do about it.
            status: the HTTP status, where it differs from the class's own.
        """
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.hint = hint
        self.http_status = self.status if status is None else status

    def as_dict(self) -> dict[str, str | None]:
        """Return the ``error`` object of a failed job: code, message, param, hint."""
        return {"code": self.code, "message": self.message, "param": self.param, "hint": self.hint}


class BadRequest(ForetuneError):
    """The request itself is wrong; sending it again will not help."""

    status = 422


class Unauthorized(ForetuneError):
    """No API key was sent, or the key does not exist."""

    status = 401


class Forbidden(ForetuneError):
    """The API key is valid, and what it asks for is not allowed to it or its tenant."""

    status = 403


class NotFound(ForetuneError):
    """The object does not exist for this tenant."""

    status = 404


class Conflict(ForetuneError):
    """The request is right and the moment is wrong."""

    status = 409


class Gone(ForetuneError):
    """The object was there, and was deleted when it expired."""

    status = 410


class PayloadTooLarge(ForetuneError):
    """The body is larger than the service accepts."""

    status = 413


class TooManyRequests(ForetuneError):
    """The same request may succeed after a pause.

    Attributes:
        retry_after: seconds until then.
    """

    status = 429

    def __init__(self, code: str, message: str, *, hint: str, retry_after: int) -> None:
        """Name the failure, and when it passes."""
        super().__init__(code, message, hint=hint)
        self.retry_after = retry_after


class Unavailable(ForetuneError):
    """The service cannot answer now; try again later."""

    status = 503


class DatasetRejected(ForetuneError):
    """An uploaded archive cannot become a data set.

    Attributes:
        outcomes: the files found unusable before the archive was given up, JSON-ready, as in a data set's report.
    """

    status = 422
    outcomes: Sequence[dict[str, Any]] = ()


class ModelRejected(ForetuneError):
    """A registered model did not pass its admission checks."""

    status = 422


class EvaluationFailed(ForetuneError):
    """One model could not be evaluated on one data set."""

    status = 500


class DeliveryFailed(ForetuneError):
    """A message to a webhook brought no answer."""

    status = 502
