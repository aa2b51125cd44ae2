"""Real weights, kept between runs, in one thread."""

from tests.fixtures.weights import one_thread, weights_cache

__all__ = ["one_thread", "weights_cache"]
