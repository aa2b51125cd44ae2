"""What breaks: each fault strikes, lasts for some seconds, and is over when the call returns."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import redis

from tests.fixtures.processes import command_of, descendants
from tests.fixtures.proxy import Trouble
from tests.fixtures.stack import Stack, StackProcess

LEASE_SECONDS = 5.0


@dataclass(frozen=True)
class Fault:
    """A fault, and the part of the stack that it strikes: two at the same time strike different ones.

    ``cuts`` is how many processes it may cut off in the middle of what they do.
    """

    name: str
    part: str
    cuts: int
    strike: Callable[[Stack, random.Random], None]


class Deck:
    """Deals faults: each kind once before any comes again."""

    def __init__(self, chance: random.Random) -> None:
        """Shuffle with ``chance``."""
        self._chance = chance
        self._left: list[Fault] = []

    def deal(self, beside: Fault | None = None) -> Fault:
        """Return the next fault, or the next that strikes another part than ``beside``."""
        while True:
            fits = [fault for fault in self._left if beside is None or fault.part != beside.part]
            if fits:
                self._left.remove(fits[0])
                return fits[0]
            self._left += self._chance.sample(FAULTS, len(FAULTS))


class Keeper(threading.Thread):
    """Starts processes that have ended again, as the restart policy of docker-compose.yml does."""

    def __init__(self, stack: Stack) -> None:
        """Watch all processes of the service; ``restarts`` counts what was started again."""
        super().__init__(name="keeper", daemon=True)
        self._processes = [*stack.apis, *stack.workers]
        self._ended = threading.Event()
        self.restarts = 0

    def run(self) -> None:
        """Look twice a second."""
        while not self._ended.wait(0.5):
            for one in self._processes:
                if one.process is not None and one.process.poll() is not None:
                    one.start()
                    self.restarts += 1

    def stop(self) -> None:
        """Start nothing again from now on."""
        self._ended.set()
        self.join()


def _kill_worker(stack: Stack, chance: random.Random) -> None:
    for pid in chance.choice(stack.workers).worker_pids():
        os.kill(pid, signal.SIGKILL)


def _kill_supervisor(stack: Stack, chance: random.Random) -> None:
    worker = chance.choice(stack.workers)
    for pid in descendants(worker.pid):
        if b"workers.supervise" in command_of(pid):
            os.kill(pid, signal.SIGKILL)


def _kill_launcher(stack: Stack, chance: random.Random) -> None:
    os.kill(chance.choice(stack.workers).pid, signal.SIGKILL)


def _kill_api(stack: Stack, chance: random.Random) -> None:
    os.kill(chance.choice(stack.apis).pid, signal.SIGKILL)


def _freeze_worker(stack: Stack, chance: random.Random) -> None:
    """Let a worker sleep past its lease, and find its job another's when it wakes up."""
    frozen = chance.choice(stack.workers).worker_pids()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(LEASE_SECONDS + chance.uniform(1, 3))
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)


def _drain_worker(stack: Stack, chance: random.Random) -> None:
    """Tell a worker to stop, as a deployment does."""
    worker: StackProcess = chance.choice(stack.workers)
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    worker.process.wait(40)


def _kill_redis(stack: Stack, chance: random.Random) -> None:
    stack.redis.stop()
    time.sleep(chance.uniform(0.5, 5))
    stack.redis.start()


def _wipe_redis(stack: Stack, chance: random.Random) -> None:
    for _ in range(5):
        with redis.Redis(port=stack.redis.port, password=stack.settings.broker_password.get_secret_value()) as broker:
            broker.flushall()
        time.sleep(chance.uniform(0, 0.5))


def _freeze_redis(stack: Stack, chance: random.Random) -> None:
    stack.redis.freeze()
    time.sleep(chance.uniform(2, 7))
    stack.redis.resume()


def _crash_postgres(stack: Stack, chance: random.Random) -> None:
    stack.postgres.stop("immediate")
    time.sleep(chance.uniform(0, 4))
    stack.postgres.start()


def _cut_connections(stack: Stack, chance: random.Random) -> None:
    for _ in range(5):
        with psycopg.connect(stack.settings.database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid != pg_backend_pid()"
            )
        time.sleep(chance.uniform(0, 0.5))


def _trouble_store(trouble: Trouble) -> Callable[[Stack, random.Random], None]:
    def strike(stack: Stack, chance: random.Random) -> None:
        stack.way_to_s3.trouble = trouble
        time.sleep(chance.uniform(3, 9))
        stack.way_to_s3.trouble = "none"

    return strike


FAULTS = (
    Fault("worker killed", "worker", 1, _kill_worker),
    Fault("worker's supervisor killed", "worker", 1, _kill_supervisor),
    Fault("worker's launcher killed", "worker", 1, _kill_launcher),
    Fault("worker frozen past its lease", "worker", 1, _freeze_worker),
    Fault("worker told to stop", "worker", 1, _drain_worker),
    Fault("API process killed", "api", 1, _kill_api),
    Fault("Redis killed, back empty", "redis", 0, _kill_redis),
    Fault("Redis wiped", "redis", 0, _wipe_redis),
    Fault("Redis silent", "redis", 0, _freeze_redis),
    Fault("PostgreSQL crashed", "postgres", 2, _crash_postgres),
    Fault("PostgreSQL connections cut", "postgres", 10, _cut_connections),
    Fault("object store refuses", "store", 2, _trouble_store("refuse")),
    Fault("object store silent", "store", 2, _trouble_store("silent")),
    Fault("object store slow", "store", 2, _trouble_store("slow")),
)
