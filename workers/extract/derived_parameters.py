"""What a network computes from its parameters alone, before any image meets it.

A standardised kernel, a position bias looked up in a table, the exponential of a learned temperature: an image's
gradient with respect to such a quantity is pulled back, by automatic differentiation, to the parameters it came from.

    B images, L numbers of a derived quantity, x the axes of a tensor
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Placed:
    """Gradients with respect to a quantity that holds something for each image, the images being its first axis.

    Instead of B gradients of the whole quantity, which would be zero elsewhere: one, each image's at its own place.
    """

    gradient_x: Tensor


@dataclass(frozen=True, eq=False)
class Derived:
    """A quantity: the names of its parameters, and its value as a differentiable function of them."""

    key: str
    names: tuple[str, ...]
    value: Tensor
    """As the network gets it: not differentiable."""
    graph: Tensor


class DerivedParameters:
    """The derived quantities of one forward pass."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        """Know the parameters themselves, by name."""
        self._parameters = parameters
        self._leaves: dict[str, Tensor] = {}
        self._by_key: dict[str, Derived] = {}
        # Known by identity, and held, so that no other tensor takes over the identity.
        self._direct = {id(tensor): (name, tensor) for name, tensor in parameters.items()}
        self._derived: dict[int, Derived] = {}

    def key_of(self, tensor: object) -> str | None:
        """Return the key of a parameter or derived quantity; a parameter's is its name."""
        direct = self._direct.get(id(tensor))
        if direct is not None:
            return direct[0]
        derived = self._derived.get(id(tensor))
        return None if derived is None else derived.key

    def is_derived(self, key: str) -> bool:
        """Tell a derived quantity from a parameter."""
        return key in self._by_key

    def names_of(self, key: str) -> tuple[str, ...]:
        """Return the names of the parameters behind a key."""
        return self._by_key[key].names if key in self._by_key else (key,)

    def compute(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Run an operation without images and remember what comes of it."""
        own = {name: _replaced(value, self._graph_of) for name, value in kwargs.items()}
        found = func(*_replaced(args, self._graph_of), **own)
        keys = [key for value in flattened((args, kwargs)) if (key := self.key_of(value)) is not None]
        names = tuple(dict.fromkeys(name for key in keys for name in self.names_of(key)))
        return _replaced(found, lambda tensor: self._remembered(tensor, names))

    def pulled_back(
        self, key: str, gradients: Tensor | Placed, images: int, wanted: Callable[[str], bool]
    ) -> Iterable[tuple[str, Tensor]]:
        """Yield the names of the wanted parameters behind a key, each with the images' gradients (B, L) of it.

        Args:
            key: of a derived quantity.
            gradients: of each image, with respect to the quantity: (B, L), or placed.
            images: B.
            wanted: tells whose gradients are.
        """
        derived = self._by_key[key]
        names = [name for name in derived.names if wanted(name)]
        leaves = [self._leaves[name] for name in names]
        rows = []
        for image in range(images):
            gradient = _of_image(gradients, image, images, derived.graph)
            found = torch.autograd.grad(derived.graph, leaves, gradient, retain_graph=True, allow_unused=True)
            rows.append(
                [
                    (leaf.new_zeros(leaf.shape) if one is None else one).flatten()
                    for one, leaf in zip(found, leaves, strict=True)
                ]
            )
        for name, parts in zip(names, zip(*rows, strict=True), strict=True):
            yield name, torch.stack(parts)

    def _graph_of(self, tensor: Tensor) -> Tensor:
        derived = self._derived.get(id(tensor))
        if derived is not None:
            return derived.graph
        direct = self._direct.get(id(tensor))
        if direct is None:
            return tensor
        name, value = direct
        if name not in self._leaves:
            self._leaves[name] = self._parameters[name].detach().requires_grad_()
        leaf = self._leaves[name]
        return leaf if value.shape == leaf.shape else leaf.view(value.shape)

    def _remembered(self, found: Tensor, names: tuple[str, ...]) -> Tensor:
        """Return a result as the network is to get it."""
        if not found.requires_grad:
            return found
        for derived in self._derived.values():
            if derived.graph is found:  # changed in place, or handed through
                return derived.value
        for name in names:
            parameter = self._parameters[name]
            if found is self._leaves.get(name):
                return parameter
            if len(names) == 1 and _is_view_in_order(found, parameter):
                value = found.detach()
                self._direct[id(value)] = (name, value)
                return value
        key = f"{names[0]} [{len(self._by_key)}]"
        derived = Derived(key, names, found.detach(), found)
        self._by_key[key] = self._derived[id(derived.value)] = derived
        return derived.value


def flattened(value: Any) -> Iterable[Any]:
    """Yield what nested lists, tuples and mappings hold."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from flattened(part)
    elif isinstance(value, dict):
        yield from flattened(tuple(value.values()))
    else:
        yield value


def _replaced(value: Any, replace: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return replace(value)
    if type(value) in (list, tuple):
        return type(value)(_replaced(part, replace) for part in value)
    return value


def _is_view_in_order(found: Tensor, parameter: Tensor) -> bool:
    same = found.numel() == parameter.numel() and found.data_ptr() == parameter.data_ptr()
    return same and found.dtype == parameter.dtype and found.is_contiguous() and parameter.is_contiguous()


def _of_image(gradients: Tensor | Placed, image: int, images: int, graph: Tensor) -> Tensor:
    if isinstance(gradients, Tensor):
        return gradients[image].reshape(graph.shape)
    each = len(graph) // images
    own = slice(image * each, (image + 1) * each)
    gradient = torch.zeros_like(graph)
    gradient[own] = gradients.gradient_x[own]
    return gradient
