"""``python -m workers.supervise``: keeps one worker process alive, whatever happens to it.

It imports neither torch nor Celery, so that nothing that kills a worker can kill it.
"""

import os
import signal
import subprocess
import sys
import time
from types import FrameType

import structlog

from app.logs import configure_logs

log = structlog.get_logger()

SUPERVISOR_VARIABLE = "FORETUNE_SUPERVISOR_PID"
"""Tells the worker whose death is its own end."""

# Celery warns of root for the sake of pickled messages, which this worker does not accept.
_PYTHON = [sys.executable, "-W", "ignore:You're running the worker with superuser privileges"]
_CELERY = ["-m", "celery", "--quiet", "-A", "workers.celery_app:celery", "worker", "--loglevel=warning"]
_ALONE = ["--without-gossip", "--without-mingle", "--without-heartbeat"]  # the database knows who is alive
WORKER = [*_PYTHON, *_CELERY, *_ALONE]
# glibc hands large blocks back to the system after every forward pass and faults them in again for the next one, which
# took more than half of a CPU worker's time. A worker keeps them instead.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
    # Networks of all sizes take turns on a GPU. In segments that grow, what one leaves in pieces is room for the next.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_HEALTHY_SECONDS = 20.0
_DRAIN_SECONDS = 20.0
_HURRY_SECONDS = 3.0


class Supervisor:
    """Starts a worker, and another one whenever it ends, until told to stop or left alone.

    A worker that is to stop gives its job back first. It has 20 seconds for that, and three once it is told twice.
    """

    def __init__(self) -> None:
        """Remember who started it: when that process is gone, so is the reason to run."""
        self._parent = os.getppid()
        self._stops = 0

    def run(self) -> int:
        """Supervise until a signal comes or the parent process ends.

        Returns:
            The exit status: 0, or 1 where a worker had to be killed, whose job then waits for its lease to run out.
        """
        is_clean = True
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        pause = _FIRST_PAUSE_SECONDS
        while not self._is_over():
            started = time.monotonic()
            environment = {**_KEEP_MEMORY, **os.environ, SUPERVISOR_VARIABLE: str(os.getpid())}
            worker = subprocess.Popen(WORKER, env=environment)  # noqa: S603  (a constant command)
            log.info("supervisor.started_worker", pid=worker.pid)
            is_clean = self._watch(worker)
            if self._is_over():
                break
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - started > _HEALTHY_SECONDS else pause * 2
            pause = min(pause, _LONGEST_PAUSE_SECONDS)
            log.warning("supervisor.worker_ended", pid=worker.pid, status=worker.returncode, restart_in=pause)
            self._sleep(pause)
        return 0 if is_clean else 1

    def _watch(self, worker: "subprocess.Popen[bytes]") -> bool:
        """Wait until the worker has ended or is to end, and end it; return whether it ended by itself."""
        while worker.poll() is None and not self._is_over():
            time.sleep(0.1)
        worker.terminate()
        until, hurried = time.monotonic() + _DRAIN_SECONDS, False
        while worker.poll() is None and time.monotonic() < until:
            if self._stops > 1 and not hurried:
                worker.send_signal(signal.SIGQUIT)
                until, hurried = time.monotonic() + _HURRY_SECONDS, True
            time.sleep(0.05)
        if worker.poll() is not None:
            return True
        log.warning("supervisor.killed_worker", pid=worker.pid)
        worker.kill()
        worker.wait()
        return False

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._is_over():
            time.sleep(0.1)

    def _is_over(self) -> bool:
        return self._stops > 0 or os.getppid() != self._parent

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stops += 1


if __name__ == "__main__":
    configure_logs()
    sys.exit(Supervisor().run())
