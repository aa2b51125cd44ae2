"""Watching a network's operations on its parameters, for what each image adds to the gradient of each parameter.

The network is never changed: an operation gets its parameters detached, so that automatic differentiation computes
gradients of activations only. From an operation's input, and the gradient of its output, follow each image's gradients
with respect to the parameters that it used; they are sketched at once, and no parameter's own gradient is ever formed.

A tensor's first axis counts the images; each may stand for several places in a row, such as the windows of an image.

    B images, S numbers of a sketch
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from app.domain.errors import EvaluationFailed
from workers.extract.derived_parameters import DerivedParameters, Placed, flattened
from workers.extract.image_axis import Fingerprints
from workers.extract.sketch import Signs

Contribution = Callable[[Tensor], Mapping[str, Tensor | Placed]]
"""From the gradient of an operation's output (B, ...) to a sketch (B, S) for each parameter it used, by key."""

Rule = Callable[..., Any]
"""Runs an operation, given the tape and the operation's own arguments, and has the tape watch its output."""

_WHOLE = Signs(None)


class GradientTape(TorchFunctionMode):
    """Records, while active, how a network's output depends on its parameters; replayed by backward passes.

    Attributes:
        signs: the projections of the sketches.
        batch_size: B.
        used: the names of the parameters met so far, in the order of their first use, each with the operations' names.
        fingerprints: of all watched outputs, where asked for.
    """

    def __init__(
        self,
        module: nn.Module,
        rules: Mapping[Callable[..., Any], Rule],
        signs: Signs,
        batch_BCHW: Tensor,
        *,
        only: frozenset[str] | None = None,
        mixed: frozenset[str] = frozenset(),
        fingerprints: Fingerprints | None = None,
    ) -> None:
        """Prepare for one forward pass.

        Args:
            module: the network.
            rules: the known operations on parameters.
            signs: the projections of the sketches.
            batch_BCHW: the images.
            only: the names of the parameters whose gradients are wanted; None for all.
            mixed: the names of those used in several ways, which would each be sketched differently.
            fingerprints: filled in.
        """
        super().__init__()
        self.signs = signs
        self.batch_size = len(batch_BCHW)
        self.used: dict[str, set[str]] = {}
        self.fingerprints = fingerprints
        self._module = module
        self._rules = rules
        self._only = only
        self._mixed = mixed
        self._sketches: dict[str, Tensor] = {}
        self._parameters = dict(module.named_parameters())
        self._known = DerivedParameters(self._parameters)
        # Before the first parameter, nothing that comes of the images is differentiable: this is how it is known.
        self._of_images: dict[int, Tensor] = {id(batch_BCHW): batch_BCHW}

    def take(self) -> list[Tensor]:
        """Return the sketches (B, S) that the last backward pass left, in the order of ``used``, and forget them."""
        found = [self._sketches[name] for name in self.used]
        self._sketches.clear()
        return found

    def name_of(self, tensor: object) -> str | None:
        """Return the key of the parameter, of its view, or of what was derived from parameters, that this is."""
        return self._known.key_of(tensor)

    def wanted(self, tensor: object) -> str | None:
        """Return the key of a parameter or derived quantity; None where its gradient is not wanted."""
        key = self.name_of(tensor)
        return key if key is not None and any(map(self._is_wanted, self._known.names_of(key))) else None

    def is_derived(self, key: str) -> bool:
        """Tell what was derived from parameters from a parameter."""
        return self._known.is_derived(key)

    def signs_of(self, key: str) -> Signs:
        """Return the projections for a key: none where whole gradients are needed first."""
        return _WHOLE if key in self._mixed or self.is_derived(key) else self.signs

    def derive(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run an operation on parameters and constants, and know its result as derived from the parameters."""
        return self._known.compute(func, args, kwargs)

    def require_images_first(self, tensor: Tensor, *keys: str | None) -> None:
        """Refuse to tell images apart in a tensor whose first axis does not count them."""
        key = next((key for key in keys if key is not None), None)
        if key is not None and (tensor.dim() == 0 or len(tensor) == 0 or len(tensor) % self.batch_size):
            raise self.unsupported(key, "the images are not the first axis of what it is applied to")

    def watch(self, output: Tensor, contribution: Contribution, kind: str, *keys: str | None) -> Tensor:
        """Return an operation's output, arranged so that the contribution is asked for once its gradient is known."""
        wanted = [key for key in keys if key is not None]
        if not wanted or not torch.is_grad_enabled():
            return output
        for key in wanted:
            for name in filter(self._is_wanted, self._known.names_of(key)):
                self.used.setdefault(name, set()).add(f"derived {kind}" if self.is_derived(key) else kind)
        if self.fingerprints is not None:
            self.fingerprints.add(self._known.names_of(wanted[0])[0], output, self.batch_size)
        if not output.requires_grad:
            root = torch.empty(0, device=output.device, requires_grad=True)
            output = _Root.apply(root, output)  # type: ignore[no-untyped-call]

        def add(gradient: Tensor) -> None:
            found = contribution(gradient)
            for key in wanted:
                self._add(key, found[key])

        output.register_hook(add)  # type: ignore[no-untyped-call]
        return output

    def unsupported(self, key: str, reason: str) -> EvaluationFailed:
        """Return the refusal of a parameter."""
        return unsupported(self._module, self._known.names_of(key)[0], reason)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Handle one operation of the network."""
        kwargs = kwargs or {}
        values = [value for value in flattened((args, kwargs)) if isinstance(value, Tensor)]
        key = next((key for value in values if (key := self.name_of(value)) is not None), None)
        if key is None:
            return self._followed(func(*args, **kwargs), values)
        rule = self._rules.get(func)
        if any(map(self._is_of_images, values)):
            if rule is not None:
                return self._followed(rule(self, *args, **_named(rule, kwargs)), values)
            return self._asked(key, func, func(*args, **kwargs))
        if rule is not None and rule.__name__ in _REPEATING:
            return rule(self, *args, **_named(rule, kwargs))
        return self.derive(func, *args, **kwargs)

    def _followed(self, result: Any, values: list[Tensor]) -> Any:
        """Return a result, remembered where it comes of the images and does not show it by being differentiable."""
        for tensor in flattened(result):
            if isinstance(tensor, Tensor) and not tensor.requires_grad and any(map(self._is_of_images, values)):
                self._of_images[id(tensor)] = tensor
        return result

    def _asked(self, key: str, func: Callable[..., Any], result: Any) -> Any:
        """Return a result that only asks for a parameter's shape or type; refuse a tensor."""
        if any(isinstance(value, Tensor) for value in flattened(result)):
            raise self.unsupported(key, f"{getattr(func, '__name__', func)} of it is not known")
        return result

    def _is_of_images(self, tensor: Tensor) -> bool:
        return id(tensor) in self._of_images or (tensor.requires_grad and self.name_of(tensor) is None)

    def _is_wanted(self, name: str) -> bool:
        return self._only is None or name in self._only

    def _add(self, key: str, found: Tensor | Placed) -> None:
        if isinstance(found, Tensor) and len(found) != self.batch_size:
            found = found.reshape(self.batch_size, -1, found.shape[1]).sum(1)
        if self.is_derived(key):
            for name, gradient_BL in self._known.pulled_back(key, found, self.batch_size, self._is_wanted):
                self._add_whole(name, gradient_BL)
            return
        assert isinstance(found, Tensor)
        if key in self._mixed:
            self._add_whole(key, found)
        else:
            self._add_sketch(key, found)

    def _add_whole(self, name: str, gradient_BL: Tensor) -> None:
        gradient_Bx = gradient_BL.reshape(self.batch_size, *self._parameters[name].shape)
        self._add_sketch(name, self.signs.whole(name, gradient_Bx))

    def _add_sketch(self, name: str, sketch_BS: Tensor) -> None:
        known_BS = self._sketches.get(name)
        self._sketches[name] = sketch_BS if known_BS is None else known_BS + sketch_BS


_REPEATING = frozenset({"expand", "repeat"})
"""Rules that make a parameter into something for each image."""


def _named(rule: Rule, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return keyword arguments of PyTorch's names under the rule's own, which carry a shape."""
    if not kwargs:
        return kwargs
    own = {_SHAPE.sub("", name): name for name in inspect.signature(rule).parameters}
    return {own.get(name, name): value for name, value in kwargs.items()}


_SHAPE = re.compile(r"_[A-Z][A-Za-z0-9]*$")


class _Root(torch.autograd.Function):
    """Lets a graph start at a tensor that depends on nothing differentiable, without a copy of it."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, output: Tensor) -> Tensor:  # noqa: ARG004
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:  # noqa: ARG004
        return None, None


def unsupported(module: nn.Module, name: str, reason: str) -> EvaluationFailed:
    """Return the refusal of a parameter of a network."""
    owner = type(module.get_submodule(name.rpartition(".")[0])).__name__
    return EvaluationFailed(
        "gradients_unsupported",
        f"the gradients of single images with respect to {name} ({owner}) cannot be had: {reason}",
        param=name,
        hint="Leave the scores that need gradients out for this model.",
    )
