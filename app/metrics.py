"""Prometheus metrics that the processes of the API and the workers have in common.

No label holds a tenant, a name or an id: whoever may look at the metrics learns how busy the service is, and not for
whom.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from prometheus_client import Counter, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import QueuePool

from app.storage.database import Database

# They double the answer, and nobody looks at when a counter began.
disable_created_metrics()  # type: ignore[no-untyped-call]

RINGS = Counter(
    "foretune_rings_total", "Doorbells rung for workers, and whether the broker took them.", ["kind", "sent"]
)


class ProcessState(Collector):
    """What a process holds of the machine: its database connections, and room in its folders; read when asked for."""

    def __init__(self, database: Database, folders: Mapping[str, Path]) -> None:
        """Name the folders; one that does not exist is left out."""
        self._database = database
        self._folders = dict(folders)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        connections = GaugeMetricFamily(
            "foretune_database_connections", "Connections of this process to the database.", labels=["state"]
        )
        pool = self._database.engine.pool
        if isinstance(pool, QueuePool):
            connections.add_metric(["in use"], pool.checkedout())
            connections.add_metric(["idle"], pool.checkedin())
        yield connections
        room = GaugeMetricFamily(
            "foretune_disk_free_bytes", "Room on the file system of a folder of this process.", labels=["folder"]
        )
        for name, folder in self._folders.items():
            if folder.exists():
                room.add_metric([name], shutil.disk_usage(folder).free)
        yield room
