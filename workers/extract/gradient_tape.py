"""Watching a network's operations on its parameters, for what each image adds to the gradient of each parameter.

The network is never changed: an operation gets its parameters detached, so that automatic differentiation computes
gradients of activations only. From an operation's input, and the gradient of its output, follow each image's gradients
with respect to the parameters that it used; they are sketched at once, and no parameter's own gradient is ever formed.

    B images, S numbers of a sketch
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.domain.errors import EvaluationFailed
from workers.extract.sketch import Signs

Contribution = Callable[[Tensor], Mapping[str, Tensor]]
"""From the gradient of an operation's output (B, ...) to a sketch (B, S) for each parameter it used, by name."""

Rule = Callable[..., Any]
"""Runs an operation, given the tape and the operation's own arguments, and has the tape watch its output."""


class GradientTape(TorchFunctionMode):
    """Records, while active, how a network's output depends on its parameters; replayed by backward passes.

    Attributes:
        signs: the projections of the sketches.
        used: the names of the parameters met so far, in the order of their first use, each with the operation's name.
    """

    def __init__(
        self,
        module: nn.Module,
        rules: Mapping[Callable[..., Any], Rule],
        signs: Signs,
        batch_size: int,
        only: frozenset[str] | None = None,
    ) -> None:
        """Prepare for one forward pass.

        Args:
            module: the network.
            rules: the known operations on parameters.
            signs: the projections of the sketches.
            batch_size: images of the batch.
            only: the names of the parameters whose gradients are wanted; None for all.
        """
        super().__init__()
        self.signs = signs
        self.used: dict[str, str] = {}
        self._module = module
        self._rules = rules
        self._batch_size = batch_size
        self._only = only
        self._sketches: dict[str, Tensor] = {}
        # Views of parameters are known by identity too, and held, so that no other tensor takes over the identity.
        self._parameters: dict[int, tuple[str, Tensor]] = {
            id(tensor): (name, tensor) for name, tensor in module.named_parameters()
        }

    def take(self) -> list[Tensor]:
        """Return the sketches (B, S) that the last backward pass left, in the order of ``used``, and forget them."""
        found = [self._sketches[name] for name in self.used]
        self._sketches.clear()
        return found

    def name_of(self, tensor: object) -> str | None:
        """Return the name of the parameter that this is, or is a view of."""
        known = self._parameters.get(id(tensor))
        return None if known is None else known[0]

    def wanted(self, tensor: object) -> str | None:
        """Return the name of the parameter that this is, or is a view of; None where its gradient is not wanted."""
        name = self.name_of(tensor)
        return name if self._only is None or name in self._only else None

    def require_images_first(self, tensor: Tensor, *names: str | None) -> None:
        """Refuse to tell images apart in a tensor whose first axis does not count them."""
        name = next((name for name in names if name is not None), None)
        if name is not None and (tensor.dim() == 0 or len(tensor) != self._batch_size):
            raise self.unsupported(name, "the images are not the first axis of what it is applied to")

    def watch(self, output: Tensor, contribution: Contribution, kind: str, *names: str | None) -> Tensor:
        """Return an operation's output, arranged so that the contribution is asked for once its gradient is known."""
        wanted = [name for name in names if name is not None]
        if not wanted:
            return output
        for name in wanted:
            self.used.setdefault(name, kind)
        if not output.requires_grad:
            root = torch.empty(0, device=output.device, requires_grad=True)
            output = _Root.apply(root, output)  # type: ignore[no-untyped-call]

        def add(gradient: Tensor) -> None:
            found = contribution(gradient)
            for name in wanted:
                known_BS = self._sketches.get(name)
                self._sketches[name] = found[name] if known_BS is None else known_BS + found[name]

        output.register_hook(add)  # type: ignore[no-untyped-call]
        return output

    def unsupported(self, name: str, reason: str) -> EvaluationFailed:
        """Return the refusal of a parameter."""
        owner = type(self._module.get_submodule(name.rpartition(".")[0])).__name__
        return EvaluationFailed(
            "gradients_unsupported",
            f"the gradients of single images with respect to {name} ({owner}) cannot be had: {reason}",
            param=name,
            hint="Leave the scores that need gradients out for this model.",
        )

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Handle one operation of the network."""
        kwargs = kwargs or {}
        name = next((name for value in _flat(args, kwargs) if (name := self.name_of(value)) is not None), None)
        if name is None:
            return func(*args, **kwargs)
        rule = self._rules.get(func)
        return self._look_at(name, func, args, kwargs) if rule is None else rule(self, *args, **kwargs)

    def _look_at(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation that has no rule: harmless where it asks for a shape, say, or for another view."""
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            return result
        parameter = args[0] if args and self.name_of(args[0]) == name else None
        if parameter is None or parameter.numel() != result.numel() or parameter.data_ptr() != result.data_ptr():
            raise self.unsupported(name, f"{getattr(func, '__name__', func)} of it is not known")
        result = result.detach()
        self._parameters[id(result)] = (name, result)
        return result


class _Root(torch.autograd.Function):
    """Lets a graph start at a tensor that depends on nothing differentiable, without a copy of it."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, output: Tensor) -> Tensor:  # noqa: ARG004
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:  # noqa: ARG004
        return None, None


def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    flat: list[Any] = []
    for value in (*args, *kwargs.values()):
        flat.extend(value if isinstance(value, (list, tuple)) else (value,))
    return flat
