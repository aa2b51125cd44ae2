"""How far a preparation is, told to whoever started it, and whether it should go on."""

from collections.abc import Callable

from app.domain.interruption import Interrupted


class Progress:
    """Counts checked files out of a total."""

    def __init__(
        self, total: int, on_progress: Callable[[int, int], None] | None, should_stop: Callable[[], bool] | None
    ) -> None:
        """Report to ``on_progress(done, total)`` after each file; ask ``should_stop()`` between files."""
        self._total = total
        self._done = 0
        self._on_progress = on_progress
        self._should_stop = should_stop

    def check(self) -> None:
        """Raise :class:`Interrupted` when the caller wants to stop."""
        if self._should_stop is not None and self._should_stop():
            raise Interrupted(f"Stopped after {self._done} of {self._total} files.")

    def advance(self) -> None:
        """Count one file as checked."""
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)
