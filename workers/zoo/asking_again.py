"""Asking a source again while it is only for now that it does not answer."""

import re
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential

PATIENCE_SECONDS = 30.0
"""Later than this after the first try, none is begun."""

_Answer = TypeVar("_Answer")


def is_passing_status(status: int) -> bool:
    """Tell whether a server that answers so may answer otherwise a little later."""
    return status == 429 or status >= 500


def asked_again(
    question: Callable[[], _Answer],
    *,
    is_passing: Callable[[BaseException], bool],
    retry_after: Callable[[BaseException], str | None],
    pause: Callable[[float], None],
) -> _Answer:
    """Return the answer to a question, asked until there is one or ``PATIENCE_SECONDS`` would be over.

    The pauses are 1, 2, 4, then 7.5 seconds, or as long as the server asks for.

    Args:
        question: raises where there is no answer.
        is_passing: tells whether it may be worth asking again after an error.
        retry_after: the header ``Retry-After`` of the answer that an error is made of, None where there is none.
        pause: waits so many seconds, or raises if nobody wants the answer any more.

    Raises:
        Exception: the last one that ``question`` raised.
    """
    rising = wait_exponential(max=PATIENCE_SECONDS / 4)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        return max(rising(state), seconds_asked_for(retry_after(error)) if error is not None else 0.0)

    tries = Retrying(
        retry=retry_if_exception(is_passing),
        stop=stop_before_delay(PATIENCE_SECONDS),
        wait=wait,
        sleep=pause,
        reraise=True,
    )
    return tries(question)


def seconds_asked_for(header: str | None) -> float:
    """Return the pause that ``Retry-After`` asks for, a number of seconds or a date; 0 where it says neither.

    Source: RFC 9110, section 10.2.3.
    """
    header = (header or "").strip()
    if re.fullmatch(r"\d{1,9}", header, re.ASCII):
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(moment.timestamp() - time.time(), 0.0)
