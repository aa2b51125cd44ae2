"""Building a network whose weights are replaced anyway, without first filling them with random numbers."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class UnfilledParameters(TorchFunctionMode):
    """Skips, while active, whatever would change a parameter in place; buffers are computed as ever.

    A constructor's parameters then hold no memory: the system hands out pages when they are first written to.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Handle one operation of a constructor."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        changed = next(iter((*args, *kwargs.values())), None)
        if isinstance(changed, nn.Parameter) and name.endswith("_") and not name.startswith("_"):
            return changed
        return func(*args, **kwargs)
