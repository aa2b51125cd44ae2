"""What can go wrong between a caller and the service.

    Failure                       code, message, param, hint
    ├── ApiError                  the service answered with a problem; ``status``
    ├── ServiceUnreachable        nothing answers at the URL
    ├── JobFailed                 a data set, model or selection ended badly
    └── WaitTimedOut              a job has not ended in the time given

Codes are the service's own, documented in docs/errors.md with the few that arise on the caller's side.
"""


class Failure(Exception):
    """Something that did not work, with a stable code and a hint."""

    def __init__(self, code: str, message: str, *, param: str | None = None, hint: str | None = None) -> None:
        """Name the failure: what happened, the field or file at fault, what to do about it."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.hint = hint

    def __str__(self) -> str:
        """Return message, code, field and hint, a line each."""
        lines = [self.message, f"  code: {self.code}"]
        if self.param:
            lines.append(f"  param: {self.param}")
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class ApiError(Failure):
    """The service answered with a problem (RFC 9457)."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Repeat the problem; ``retry_after`` is in seconds."""
        super().__init__(code, message, param=param, hint=hint)
        self.status = status
        self.retry_after = retry_after


class ServiceUnreachable(Failure):
    """Nothing answers at the URL, or the connection broke off."""

    def __init__(self, message: str, *, was_sent: bool) -> None:
        """Note whether the request may have arrived: if so, only a repeatable one can be sent again."""
        hint = "Start the service with `foretune serve`, or set FORETUNE_URL to where it runs."
        super().__init__("service_unreachable", message, hint=hint)
        self.was_sent = was_sent


class JobFailed(Failure):
    """A data set was rejected, a model was refused, or a selection failed; code and hint are the job's own."""


class WaitTimedOut(Failure):
    """A job has not ended in the time given; it goes on."""

    def __init__(self, job_id: str, status: str, seconds: float) -> None:
        """Tell how far the job is."""
        hint = "It goes on. Wait again, and see `foretune status` for whether a worker is alive."
        super().__init__("wait_timed_out", f"{job_id} is still {status} after {seconds:g} seconds.", hint=hint)
