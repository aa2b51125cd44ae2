"""The network that a worker process loaded last, kept until it needs another one.

Evaluations of one model on several data sets follow one another (see ``workers.tasks``), and load it once.
"""

from collections.abc import Callable

from app.domain.model_spec import ModelSpec
from workers.metrics import look_up
from workers.zoo.network import Network


class LoadedNetwork:
    """Room for one network: a second one beside it might not fit into a GPU's memory."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._digest: str | None = None
        self._network: Network | None = None

    def get(self, spec: ModelSpec, load: Callable[[], Network]) -> Network:
        """Return the network of a specification; whoever gets it leaves its weights as they are.

        Args:
            spec: names what the network computes by its digest.
            load: called where another network is held, once that one is let go, or none.
        """
        is_loaded = self._network is not None and self._digest == spec.digest
        look_up("network", hit=is_loaded)
        if self._network is None or not is_loaded:
            self.forget()
            self._network = load()
            self._digest = spec.digest
        return self._network

    def forget(self) -> None:
        """Let the network go."""
        self._digest = self._network = None
