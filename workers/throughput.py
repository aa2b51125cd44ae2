"""How many images a second the networks of a worker process see."""

import threading
import time

from workers.metrics import IMAGES


class Throughput:
    """Counts images, for Prometheus and for the admins' view of the workers."""

    def __init__(self) -> None:
        """Begin to count."""
        self._lock = threading.Lock()
        self._images = 0
        self._since = time.monotonic()

    def add(self, images: int, device: str) -> None:
        """Count images that went through a network."""
        IMAGES.labels(device).inc(images)
        with self._lock:
            self._images += images

    def per_second(self) -> float:
        """Return the mean rate since this was last asked."""
        with self._lock:
            now = time.monotonic()
            rate = self._images / max(now - self._since, 1e-9)
            self._images, self._since = 0, now
        return rate
