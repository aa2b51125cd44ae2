"""``Foretune``: a connection to one service."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

from app.client.address import find_service
from app.client.connection import Connection
from app.client.datasets import Datasets
from app.client.finetunes import Finetunes
from app.client.keys import Keys
from app.client.models import Models
from app.client.operations import Operations
from app.client.plans import Plans
from app.client.resources import Readiness
from app.client.selections import Selections
from app.client.tenants import AuditEvent, Tenants, Usage, audit, usage
from app.client.webhooks import Webhooks
from app.client.zoos import Zoos


class Foretune:
    """A service, seen through its REST interface.

    Every call may raise ``ApiError`` (the service said no), ``ServiceUnreachable`` and other kinds of ``Failure``.

    Attributes:
        datasets: upload, wait, list, delete.
        selections: ask for a ranking, watch it, read it; ask for a forecast.
        finetunes: really train models, and download the tuned weights.
        models: the zoo.
        zoos: named parts of it.
        plans: how long a selection would take.
        keys: API keys.
        tenants: who owns what, and how much.
        webhooks: being told of events.
        operations: what waits and who works, for admins.
    """

    def __init__(self, url: str | None = None, key: str | None = None, *, timeout: float = 60.0) -> None:
        """Find the service; nothing is sent yet.

        Args:
            url: of the service; by default FORETUNE_URL, else this machine's own.
            key: API key; by default FORETUNE_KEY, else, for a service on this machine, FORETUNE_HOME/admin.key.
            timeout: seconds for each read and write.

        Raises:
            Failure: ``invalid_url``, ``invalid_key`` or ``invalid_setting``.
        """
        self._connection = Connection(find_service(url, key), timeout=timeout)
        self.datasets = Datasets(self._connection)
        self.selections = Selections(self._connection)
        self.finetunes = Finetunes(self._connection)
        self.models = Models(self._connection)
        self.zoos = Zoos(self._connection)
        self.plans = Plans(self._connection)
        self.keys = Keys(self._connection)
        self.tenants = Tenants(self._connection)
        self.webhooks = Webhooks(self._connection)
        self.operations = Operations(self._connection)

    @property
    def url(self) -> str:
        """The service's URL."""
        return self._connection.url

    def usage(self) -> Usage:
        """Return what the key's tenant has of what its quotas limit."""
        return usage(self._connection)

    def audit(
        self, *, tenant: str | None = None, action: str | None = None, target: str | None = None
    ) -> Iterator[AuditEvent]:
        """Yield what admins and keys did, newest first: to one tenant, of one kind, or to one thing."""
        return audit(self._connection, tenant=tenant, action=action, target=target)

    def health(self) -> Readiness:
        """Return what works and what does not; needs no key."""
        response = self._connection.send("GET", "/readyz", accept=frozenset({503}))
        return self._connection.read(response, Readiness)

    def close(self) -> None:
        """Close pooled connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return this client, to be closed by the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close pooled connections."""
        self.close()
