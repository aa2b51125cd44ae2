"""What a worker measured of a network on a data set, so that forecasts need no network: one file of arrays.

Legend: N images, D feature dimensions, Q directions.
"""

import dataclasses
import io
import json
import re
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.forecasting.linearisation import Linearisation, linearise

_Kind = Literal["class", "trace", "none"]
_PREFIXES = ("tf_", "gc_", "test_")


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step with ``batch_size`` images: the median, and the quartiles."""

    batch_size: int
    seconds: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class MeasuredNetwork:
    """The arrays of a linearisation and the time of a step.

    Attributes:
        features_ND: pooled features; the images of the kernel, a class-balanced subset, come first, and any further
            ones behind them.
        labels_N: their classes, 0 to C - 1.
        basis_DQ: orthonormal directions of the features along which gradients were measured.
        kernel: (N Q) x (N Q) of a ``class`` kernel, N x N of a ``trace`` kernel; of no size where there is ``none``.
        kind: which.
        train_images: of the training split, which a training goes through.
        architecture: of the model.
        device: that the steps were timed on.
        step_times: for a few batch sizes, ascending.
    """

    features_ND: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    basis_DQ: NDArray[np.float32]
    kernel: NDArray[np.float32]
    kind: _Kind
    train_images: int
    architecture: str
    device: str
    step_times: tuple[StepTime, ...]

    @property
    def measured_images(self) -> int:
        """Number of images whose gradients were measured: the first ones."""
        if self.kind == "none":
            return len(self.labels_N)
        return len(self.kernel) // (self.basis_DQ.shape[1] if self.kind == "class" else 1)

    @property
    def family(self) -> str:
        """Architectures that are too alike to calibrate one by the other: a name up to its version or first digit."""
        name = self.architecture.rpartition(":")[2]
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        found = re.match(r"[a-z]+?(?=v?\d|[^a-z]|$)", name)
        return found.group() if found else name

    def linearisation(self) -> Linearisation:
        """Return the arrays, checked.

        Raises:
            EvaluationFailed: as ``linearise`` says.
        """
        if self.kind == "none":
            return linearise(self.features_ND, self.labels_N)
        basis_DQ, _ = np.linalg.qr(self.basis_DQ.astype(np.float64))  # float32 is orthonormal to seven digits only
        signs_Q = np.sign(np.einsum("dq,dq->q", basis_DQ, self.basis_DQ))
        is_class = self.kind == "class"
        return linearise(
            self.features_ND,
            self.labels_N,
            basis_DQ=basis_DQ * signs_Q,
            class_kernel_PP=self.kernel if is_class else None,
            trace_kernel_NN=None if is_class else self.kernel,
        )

    def step_seconds(self, batch_size: int) -> float | None:
        """Return the time of a step, along a straight line through two measured batch sizes; None if none was."""
        times = self.step_times
        if not times:
            return None
        if len(times) == 1:
            return times[0].seconds * batch_size / times[0].batch_size
        first, last = times[0], times[-1]
        slope = max(last.seconds - first.seconds, 0.0) / (last.batch_size - first.batch_size)
        return max(first.seconds + slope * (batch_size - first.batch_size), min(first.seconds, last.seconds) / 10)

    def save(self, file: IO[bytes]) -> None:
        """Write everything to one file."""
        about = {
            "kind": self.kind,
            "train_images": self.train_images,
            "architecture": self.architecture,
            "device": self.device,
            "step_times": [dataclasses.asdict(one) for one in self.step_times],
        }
        arrays: dict[str, Any] = {
            "features_ND": self.features_ND,
            "labels_N": self.labels_N,
            "basis_DQ": self.basis_DQ,
            "kernel": self.kernel,
        }
        np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, content: bytes) -> "MeasuredNetwork":
        """Read what ``save`` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        about = json.loads(arrays.pop("about").tobytes())
        step_times = tuple(StepTime(**one) for one in about.pop("step_times"))
        return cls(**arrays, **about, step_times=step_times)
