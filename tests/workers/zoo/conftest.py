"""Real weights, kept between runs, in one thread."""

from tests.fixtures.hub import hub
from tests.fixtures.weights import one_thread, weights_cache

__all__ = ["hub", "one_thread", "weights_cache"]
