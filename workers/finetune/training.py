"""A training run with one learning rate, which can stop after any step and go on in another process.

N images of the store, T training images, B images of a batch, M images of a part of it
"""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.domain.finetuning import Recipe
from app.domain.interruption import Interrupted
from workers.finetune.batch_order import epoch_batches, flipped_images
from workers.finetune.curves import Curves
from workers.finetune.parts import in_fitting_parts
from workers.finetune.pixels import PixelStore
from workers.finetune.tuned_network import TunedNetwork, summed_loss

Verdict = Literal["running", "trained", "diverged"]


@dataclass(frozen=True, eq=False)
class TrainingState:
    """All that a run needs to go on: tensors by name, and JSON-ready data."""

    tensors: dict[str, Tensor]
    progress: dict[str, Any]


class Training:
    """Stochastic gradient descent on one network, a step at a time.

    On a CPU with the same number of threads, the same arguments give the same bits. A batch that does not fit into
    memory is passed through in parts whose gradients are added: with frozen batch statistics their sum is the gradient
    of the batch, with live ones the statistics are those of the part.
    """

    def __init__(
        self,
        network: TunedNetwork,
        store: PixelStore,
        images_T: NDArray[np.intp],
        labels_N: NDArray[np.int64],
        recipe: Recipe,
        learning_rate: float,
    ) -> None:
        """Prepare step 0; nothing is computed yet.

        Args:
            network: trained in place.
            store: the pixels of N images.
            images_T: ascending image numbers to train on.
            labels_N: the class of each image of the store.
            recipe: how.
            learning_rate: before the first milestone.
        """
        self.network = network
        self.recipe = recipe
        self.learning_rate = learning_rate
        self.steps = recipe.steps(len(images_T))
        self.step = 0
        self.verdict: Verdict = "running"
        self.curves = Curves()
        self.fitting = recipe.batch_size
        self._store = store
        self._images_T = images_T
        self._labels_N = labels_N
        self._optimizer = torch.optim.SGD(
            network.parameters(),
            lr=learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov and recipe.momentum > 0,
        )

    @property
    def epoch(self) -> int:
        """How many epochs are complete."""
        return self.step // self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self.recipe.steps_per_epoch(len(self._images_T))

    def run(
        self,
        until: int | None = None,
        *,
        should_stop: Callable[[], bool] | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        """Take steps until ``until`` are done, all of them without it, or until the loss is no number.

        Args:
            until: the number of steps after which to return.
            should_stop: asked before each step.
            on_step: called after each step with the number of steps done.

        Raises:
            Interrupted: ``should_stop`` said so; the steps done stay done.
            EvaluationFailed: ``out_of_memory`` where even one image does not fit.
        """
        until = self.steps if until is None else min(until, self.steps)
        while self.step < until and self.verdict == "running":
            epoch, first = divmod(self.step, self.steps_per_epoch)
            last = min(self.steps_per_epoch, first + until - self.step)
            self._run_batches(epoch, first, last, should_stop, on_step)
        if self.step == self.steps and self.verdict == "running":
            self.verdict = "trained"

    def state(self) -> TrainingState:
        """Return a copy of everything the run needs to go on, on the CPU."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            velocity = self._optimizer.state[parameter].get("momentum_buffer")
            if velocity is not None:
                tensors[f"momentum.{name}"] = velocity
        progress = {
            "step": self.step,
            "epoch": self.epoch,
            "learning_rate": self.learning_rate,
            "verdict": self.verdict,
            "fitting": self.fitting,
            "curves": self.curves.as_dict(),
        }
        # Safetensors holds contiguous tensors only.
        return TrainingState(
            {
                name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            },
            progress,
        )

    def restore(self, state: TrainingState) -> None:
        """Go on from ``state``, which a run of the same network, images and recipe returned."""
        self.network.load_state_dict(below("network.", state.tensors))
        velocities = below("momentum.", state.tensors)
        self._optimizer.state.clear()
        for name, parameter in self.network.named_parameters():
            if name in velocities:
                velocity = torch.empty_like(parameter).copy_(velocities[name])
                self._optimizer.state[parameter]["momentum_buffer"] = velocity
        progress = state.progress
        self.step, self.fitting, self.verdict = progress["step"], progress["fitting"], progress["verdict"]
        self.learning_rate = progress["learning_rate"]
        self.curves = Curves.from_dict(progress["curves"])

    def _run_batches(
        self,
        epoch: int,
        first: int,
        last: int,
        should_stop: Callable[[], bool] | None,
        on_step: Callable[[int], None] | None,
    ) -> None:
        """Train on the batches ``first`` to ``last`` of an epoch."""
        batches = epoch_batches(self.recipe, len(self._images_T), epoch)[first:last]
        flipped_T = flipped_images(self.recipe, len(self._images_T), epoch)
        self.network.set_training(self.recipe.batch_norm)
        with closing(self._store.batches([self._images_T[places_B] for places_B in batches])) as pixels:
            for places_B in batches:
                if should_stop is not None and should_stop():
                    raise Interrupted(f"Stopped after {self.step} of {self.steps} steps.")
                pixels_BHWC = next(pixels)
                flipped_B = torch.from_numpy(flipped_T[places_B])
                if flipped_B.any():
                    pixels_BHWC = torch.where(flipped_B[:, None, None, None], pixels_BHWC.flip(2), pixels_BHWC)
                labels_B = torch.from_numpy(self._labels_N[self._images_T[places_B]])
                loss = self._descend(pixels_BHWC, labels_B)
                if not math.isfinite(loss):
                    self.verdict = "diverged"
                    return
                self.curves.batch_losses.append(loss)
                self.step += 1
                if on_step is not None:
                    on_step(self.step)

    def _descend(self, pixels_BHWC: Tensor, labels_B: Tensor) -> float:
        """Take one step, unless the loss is no number; return the batch's mean loss before it."""
        rate = self.recipe.rate_at(self.step, self.steps, self.learning_rate)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss, self.fitting = in_fitting_parts(
            lambda part: self._gradient(pixels_BHWC, labels_B, part), self.fitting, len(labels_B), self.network.device
        )
        if math.isfinite(loss):
            self._optimizer.step()
        return loss

    def _gradient(self, pixels_BHWC: Tensor, labels_B: Tensor, part: int) -> float:
        """Set the gradient of the batch's mean loss, computed in parts, and return the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for start in range(0, len(labels_B), part):
            logits_MC = self.network(pixels_BHWC[start : start + part]).float()
            labels_M = labels_B[start : start + part].to(self.network.device, non_blocking=True)
            loss = summed_loss(logits_MC, labels_M, self.recipe.loss) / len(labels_B)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total


def below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
