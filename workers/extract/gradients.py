"""One pass over images for the gradients of a few scalars of a network's features, sketched layer by layer.

The scalars are u_p . phi(x), with phi the features before the classifier; a gradient is taken with respect to every
parameter of the trunk on which phi depends. Eval mode: with the statistics of a batch, images had no gradients of their
own.

    N images, B images of a batch, D features, P probes, S numbers of a sketch
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.domain.errors import EvaluationFailed
from app.domain.interruption import Interrupted
from app.scoring.gradient_kernels import GradientKernels
from workers.extract.gradient_tape import GradientTape, unsupported
from workers.extract.image_axis import Fingerprints
from workers.extract.layer_gradients import RULES
from workers.extract.memory import is_out_of_memory, release_memory
from workers.extract.part_size import PartSize
from workers.extract.pixel_batches import ImageSource, PixelBatches
from workers.extract.sketch import Signs, SketchSize
from workers.zoo.network import Network

Scope = Literal["all", "last_convolution"]
DEFAULT_SKETCH = SketchSize()
_BLOCK = 4096  # numbers of a layer's sketch that are converted to float64 at a time


@dataclass(frozen=True, eq=False)
class GradientSketches:
    """What one pass found.

    Attributes:
        features_ND: the features, from the same pass.
        layers: for each parameter its sketched gradients (N, P, S), S differing; in the network's own precision.
        names: of the parameters, in the order of ``layers``, which is the order of their first use.
        parameters: how many numbers those parameters hold.
        seconds: ``decode`` and ``preprocess`` are spent in the background, ``check`` (that no parameter is left
            out), ``forward``, ``backward`` and ``wait`` (for pixels) in the calling thread, ``total`` is wall time.
        batch_size: the largest that fitted into memory.
    """

    features_ND: NDArray[np.float32]
    layers: tuple[NDArray[np.float32], ...]
    names: tuple[str, ...]
    parameters: int
    seconds: dict[str, float]
    batch_size: int

    def kernels(self) -> GradientKernels:
        """Return each probe's kernel. Sketches are centred before they are multiplied, in float64."""
        images, probes = self.layers[0].shape[:2]
        centred_PNN = np.zeros((probes, images, images))
        towards_mean_PN, mean_square_P = np.zeros((probes, images)), np.zeros(probes)
        for block_NPS in self._blocks():
            mean_PS = block_NPS.mean(axis=0)
            block_PNS = np.ascontiguousarray((block_NPS - mean_PS).transpose(1, 0, 2))
            centred_PNN += block_PNS @ block_PNS.transpose(0, 2, 1)
            towards_mean_PN += np.einsum("pns,ps->pn", block_PNS, mean_PS)
            mean_square_P += np.einsum("ps,ps->p", mean_PS, mean_PS)
        return GradientKernels(centred_PNN, towards_mean_PN, mean_square_P)

    def cross_kernel(self) -> NDArray[np.float64]:
        """Return the inner products of all gradients of all probes, (N P) x (N P): the last index is the probe's."""
        images, probes = self.layers[0].shape[:2]
        size = images * probes
        kernel = np.zeros((size, size))
        for block_NPS in self._blocks():
            rows = block_NPS.reshape(size, -1)
            kernel += rows @ rows.T
        return kernel

    def _blocks(self) -> Iterable[NDArray[np.float64]]:
        for layer_NPS in self.layers:
            for start in range(0, layer_NPS.shape[2], _BLOCK):
                yield layer_NPS[:, :, start : start + _BLOCK].astype(np.float64)


def _stop_if(should_stop: Callable[[], bool] | None, done: int) -> None:
    if should_stop is not None and should_stop():
        raise Interrupted(f"Stopped after {done} images.")


def largest_part(batch_size: int) -> int:
    """Return how many images of a batch are computed at once where memory and time allow it: a half."""
    return (batch_size + 1) // 2


def random_probes(dimensions: int, probes: int = 4, seed: int = 0) -> NDArray[np.float32]:
    """Return directions (D, P) drawn from N(0, I/D); each depends on D, its own number and the seed alone."""
    columns = [np.random.default_rng((seed, probe)).standard_normal(dimensions) for probe in range(probes)]
    directions_DP: NDArray[np.float32] = (np.stack(columns, axis=1) / np.sqrt(dimensions)).astype(np.float32)
    return directions_DP


def gradient_sketches(
    network: Network,
    images: Iterable[ImageSource],
    directions_DP: NDArray[np.floating],
    *,
    batch_size: int,
    scope: Scope = "all",
    sketch: SketchSize | None = DEFAULT_SKETCH,
    part_size: PartSize | None = None,
    decode_threads: int = 1,
    on_progress: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> GradientSketches:
    """Pass every image through ``network`` once forward and once backward for every direction.

    The network is left as it was, and computes in float32 on every device. A batch is computed in two halves or more:
    several backward passes need the whole graph to the end, where training takes it apart as it goes, and so two halves
    need no more memory than training with the batch. Parts that do not fit nevertheless are halved, and so are those
    that take more than two seconds.

    Args:
        network: as ``load_network`` returns it; computes on its own device.
        images: RGB images, at least one, decoded lazily or not, or image files; iterated in a background thread.
        directions_DP: the scalars are features (N, D) times these.
        batch_size: images a batch.
        scope: ``all`` parameters, or the weights and bias of the ``last_convolution`` alone (arXiv:2102.00084,
            Section 4). Where the only convolution cuts an image into patches, it is the last dense layer instead.
        sketch: how much to keep of each layer; None keeps whole gradients.
        part_size: what is known of the parts that the network takes, and will be; by default at most ``largest_part``.
        decode_threads: threads that decode and resize.
        on_progress: called with the number of images done after each part.
        should_stop: asked before each part.

    Raises:
        Interrupted: ``should_stop`` said so.
        EvaluationFailed: ``gradients_unsupported`` where a parameter is used in a way that is not known here;
            ``batch_norm_in_training`` where a part of the network is not in eval mode; ``out_of_memory`` where even one
            image does not fit; ``non_finite_features``; ``non_finite_gradient``.
        Exception: whatever iterating or decoding ``images`` raised.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if directions_DP.ndim != 2 or directions_DP.shape[1] < 1:
        raise ValueError(f"directions must be (D, P), got {directions_DP.shape}")
    _refuse_training(network.trunk)
    start = time.perf_counter()
    wait_seconds = 0.0
    one_pass: _Pass | None = None
    features: list[NDArray[np.float32]] = []
    sketches: list[list[NDArray[np.float32]]] = []
    done = 0
    part_size = PartSize(largest_part(batch_size)) if part_size is None else part_size
    is_gpu = network.device.type == "cuda"
    with PixelBatches(network.preprocess, images, batch_size, pin=is_gpu, threads=decode_threads) as batches:
        while True:
            _stop_if(should_stop, done)
            waiting = time.perf_counter()
            pixels_BHWC = batches.next()
            wait_seconds += time.perf_counter() - waiting
            if pixels_BHWC is None:
                break
            if one_pass is None:
                one_pass = _Pass(network, directions_DP, scope, sketch, part_size, pixels_BHWC[:1])
            for features_BD, layers in one_pass.batch(pixels_BHWC):
                _refuse_non_finite(features_BD, layers, done)
                features.append(features_BD)
                sketches.append(layers)
                done += len(features_BD)
                if on_progress is not None:
                    on_progress(done)
                _stop_if(should_stop, done)
        seconds = {"decode": batches.decode_seconds, "preprocess": batches.preprocess_seconds}
    if one_pass is None:
        raise ValueError("there are no images")
    seconds |= one_pass.seconds | {"wait": wait_seconds, "total": time.perf_counter() - start}
    return GradientSketches(
        features_ND=np.concatenate(features),
        layers=tuple(np.concatenate(parts) for parts in zip(*sketches, strict=True)),
        names=tuple(one_pass.names),
        parameters=sum(network.trunk.get_parameter(name).numel() for name in one_pass.names),
        seconds=seconds,
        batch_size=min(batch_size, 2 * part_size.fitting),  # two halves
    )


class _Pass:
    """The forward pass and the backward passes of batches, once it is known which parameters count."""

    def __init__(
        self,
        network: Network,
        directions_DP: NDArray[np.floating],
        scope: Scope,
        sketch: SketchSize | None,
        part_size: PartSize,
        first_1HWC: Tensor,
    ) -> None:
        self._part_size = part_size
        self.seconds = {"forward": 0.0, "backward": 0.0}
        self._network = network
        self._signs = Signs(sketch)
        self._directions_DP = torch.from_numpy(directions_DP)
        self.names, self._mixed = self._checked(first_1HWC, scope)

    def batch(self, pixels_BHWC: Tensor) -> Iterable[tuple[NDArray[np.float32], list[NDArray[np.float32]]]]:
        """Yield the features and the sketches of a batch, in parts that fit into memory and are done soon."""
        start = 0
        while start < len(pixels_BHWC):
            part_BHWC = pixels_BHWC[start : start + self._part_size.images]
            started = time.perf_counter()
            try:
                found = self._part(part_BHWC)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self._part_size.does_not_fit(len(part_BHWC)):
                    raise self._too_large(part_BHWC) from error
            else:
                self._part_size.took(len(part_BHWC), time.perf_counter() - started)
                yield found
                start += len(part_BHWC)
                continue
            release_memory(self._network.device)

    def _part(self, part_BHWC: Tensor) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        started = time.perf_counter()
        batch_BCHW = self._prepared(part_BHWC)
        tape = GradientTape(
            self._network.trunk, RULES, self._signs, batch_BCHW, only=frozenset(self.names), mixed=self._mixed
        )
        features_BD = self._forward(batch_BCHW, tape)
        directions_DP = self._directions_DP.to(features_BD)
        between = time.perf_counter()
        probes = []
        for probe in range(directions_DP.shape[1]):
            gradient_BD = directions_DP[:, probe].expand_as(features_BD)
            last = probe + 1 == directions_DP.shape[1]
            torch.autograd.backward(features_BD, gradient_BD, retain_graph=not last)
            probes.append(tape.take())
        layers = [torch.stack(parts, dim=1).cpu().numpy() for parts in zip(*probes, strict=True)]
        self.seconds["forward"] += between - started
        self.seconds["backward"] += time.perf_counter() - between
        return features_BD.detach().cpu().numpy(), layers

    def _prepared(self, part_BHWC: Tensor) -> Tensor:
        batch_BCHW: Tensor = self._network.preprocess(part_BHWC.to(self._network.device, non_blocking=True))
        return batch_BCHW

    def _forward(self, batch_BCHW: Tensor, tape: GradientTape) -> Tensor:
        with torch.enable_grad(), tape:
            features_BD: Tensor = self._network.trunk(batch_BCHW)
        return features_BD

    def _checked(self, first_1HWC: Tensor, scope: Scope) -> tuple[list[str], frozenset[str]]:
        """Return the names of the parameters in scope, none left out without a word, and of those used in two ways."""
        started = time.perf_counter()
        try:
            used = self._used(first_1HWC)
            influential = self._influential(first_1HWC)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_large(first_1HWC) from error
        self.seconds["check"] = time.perf_counter() - started
        for name in influential:
            if name not in used:
                raise unsupported(self._network.trunk, name, "no operation was seen to use it")
        names = [name for name in used if name in influential]
        mixed = frozenset(name for name in names if len(used[name]) > 1)
        return (names if scope == "all" else _last_convolution(names, used)), mixed

    def _used(self, first_1HWC: Tensor) -> dict[str, set[str]]:
        """Return the parameters' names and uses; refuse a network in which the images do not stay the first axis."""
        pair_2HWC = torch.cat([first_1HWC, 255 - first_1HWC])
        directions: dict[int, Tensor] = {}
        passes = [Fingerprints(directions), Fingerprints(directions)]
        for pair, fingerprints in zip((pair_2HWC, pair_2HWC.flip(0)), passes, strict=True):
            batch_BCHW = self._prepared(pair)
            tape = GradientTape(self._network.trunk, RULES, self._signs, batch_BCHW, fingerprints=fingerprints)
            dimensions = self._forward(batch_BCHW, tape).shape[1]
        moved = passes[0].moved(passes[1])
        if moved is not None:
            reason = "the images are not the first axis of what it is applied to"
            raise unsupported(self._network.trunk, moved, reason)
        if dimensions != len(self._directions_DP):
            raise ValueError(f"{dimensions} features need as many rows of directions")
        return tape.used

    def _too_large(self, pixels_BHWC: Tensor) -> EvaluationFailed:
        return EvaluationFailed(
            "out_of_memory",
            f"the gradients of one image of {tuple(pixels_BHWC.shape[1:3])} pixels do not fit into memory "
            f"({self._network.device})",
            hint="Use a worker with more memory, or a smaller model.",
        )

    def _influential(self, first_1HWC: Tensor) -> set[str]:
        """Return the names of the parameters on which the features of an image depend."""
        parameters = dict(self._network.trunk.named_parameters())
        differentiable = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
        batch_BCHW = self._network.preprocess(first_1HWC.to(self._network.device))
        with torch.enable_grad():
            features_1D = torch.func.functional_call(self._network.trunk, differentiable, (batch_BCHW,))
            try:
                gradients = torch.autograd.grad(features_1D.sum(), list(differentiable.values()), allow_unused=True)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                raise EvaluationFailed(
                    "gradients_unsupported",
                    f"the network's features cannot be differentiated: {error}",
                    hint="Leave the scores that need gradients out for this model.",
                ) from error
        return {name for name, gradient in zip(differentiable, gradients, strict=True) if gradient is not None}


def _last_convolution(names: list[str], kinds: dict[str, set[str]]) -> list[str]:
    convolutions = [name for name in names if kinds[name] & {"conv2d", "derived conv2d"}]
    dense = [name for name in names if kinds[name] & {"linear", "derived linear"}]
    layers = {name.rpartition(".")[0] for name in convolutions}
    candidates = dense if dense and len(layers) < 2 else convolutions
    layer = candidates[-1].rpartition(".")[0]
    return [name for name in candidates if name.rpartition(".")[0] == layer]


def _refuse_training(trunk: nn.Module) -> None:
    for name, module in trunk.named_modules():
        if module.training:
            raise EvaluationFailed(
                "batch_norm_in_training",
                f"{name or 'the network'} ({type(module).__name__}) is in training mode, where images share statistics",
                param=name or None,
                hint="Call eval() first.",
            )


def _refuse_non_finite(features_BD: NDArray[np.float32], layers: list[NDArray[np.float32]], done: int) -> None:
    finite_B = np.isfinite(features_BD).all(axis=1)
    if not finite_B.all():
        raise EvaluationFailed(
            "non_finite_features",
            f"the network turned image {done + int(np.argmin(finite_B))} into NaN or infinity",
            hint="Check the model's preprocessing; a healthy network is finite on every image.",
        )
    for layer_BPS in layers:
        finite_B &= np.isfinite(layer_BPS).all(axis=(1, 2))
    if not finite_B.all():
        raise EvaluationFailed(
            "non_finite_gradient",
            f"the gradient of image {done + int(np.argmin(finite_B))} is NaN or infinity",
            hint="Check the model's weights; a healthy network has finite gradients on every image.",
        )
