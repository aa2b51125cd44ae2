"""Random projections of weight gradients that keep inner products in the mean.

A weight gradient summed over places is D^T A, with D the gradients of a layer's outputs and A its inputs. Its two-sided
sketch (D R)^T (A S) needs no D^T A: R and S hold independent random signs, each divided by the root of its width, so
that the inner product of two sketches has the inner product of the two gradients as its mean.

    B images, O outputs, I inputs, L length of a vector, K width of a projection
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SketchSize:
    """How much is kept of each layer's gradient.

    Attributes:
        rows: numbers that stand for the outputs of a convolution or dense layer.
        columns: numbers that stand for its input channels. A vector or a diagonal keeps rows x columns numbers.
        seed: of the random signs; the same seed, layer name and shape give the same signs.
    """

    rows: int = 16
    columns: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"a sketch has at least one row and one column, got {self.rows} x {self.columns}")


class Signs:
    """The random signs of one network's layers, drawn once each; ``size`` None projects nothing."""

    def __init__(self, size: SketchSize | None) -> None:
        self._size = size
        self._drawn: dict[tuple[str, tuple[int, ...], torch.dtype, torch.device], Tensor] = {}

    def rows(self, outputs: int) -> int:
        """Return how many numbers stand for that many outputs."""
        return outputs if self._size is None else min(outputs, self._size.rows)

    def columns(self, inputs: int) -> int:
        """Return how many numbers stand for that many inputs."""
        return inputs if self._size is None else min(inputs, self._size.columns)

    def entries(self, length: int, each: int = 1) -> int:
        """Return how many stand for that many blocks of ``each`` numbers that have no rows and columns to project."""
        return length if self._size is None else min(length, max(1, self._size.rows * self._size.columns // each))

    def draw(self, name: str, shape: tuple[int, ...], width: int, like: Tensor) -> Tensor:
        """Return random signs over the root of ``width``, of the type and on the device of ``like``."""
        key = (name, shape, like.dtype, like.device)
        if key not in self._drawn:
            seed = 0 if self._size is None else self._size.seed
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name} {shape}".encode()))
            signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
            self._drawn[key] = signs.to(like).div_(width**0.5)
        return self._drawn[key]

    def vector(self, name: str, vector_BL: Tensor) -> Tensor:
        """Return (B, K) for vectors (B, L), as they are where they are short."""
        length = vector_BL.shape[1]
        width = self.entries(length)
        return vector_BL if width == length else vector_BL @ self.draw(name, (length, width), width, vector_BL)

    def outputs(self, name: str, gradient_BxO: Tensor) -> Tensor:
        """Project the last axis to a number of rows."""
        length = gradient_BxO.shape[-1]
        width = self.rows(length)
        if width == length:
            return gradient_BxO
        return gradient_BxO @ self.draw(f"{name} rows", (length, width), width, gradient_BxO)

    def inputs(self, name: str, input_BxI: Tensor) -> Tensor:
        """Project the last axis to a number of columns."""
        length = input_BxI.shape[-1]
        width = self.columns(length)
        if width == length:
            return input_BxI
        return input_BxI @ self.draw(f"{name} columns", (length, width), width, input_BxI)

    def table(self, name: str, table_BOI: Tensor) -> Tensor:
        """Return (B, K) for whole matrices (B, O, I)."""
        rows_BIR = self.outputs(name, table_BOI.transpose(1, 2))
        return self.inputs(name, rows_BIR.transpose(1, 2)).flatten(1)

    def whole(self, name: str, gradient_Bx: Tensor) -> Tensor:
        """Return (B, K) for whole gradients (B, ...) of a parameter: of a vector, a matrix, or a kernel by its taps."""
        if gradient_Bx.dim() < 3:
            return self.vector(name, gradient_Bx.reshape(len(gradient_Bx), -1))
        batch, outputs, inputs = gradient_Bx.shape[:3]
        if self._size is None:
            return gradient_Bx.flatten(1)
        taps_BtOI = gradient_Bx.reshape(batch, outputs, inputs, -1).permute(0, 3, 1, 2)
        return self.table(name, taps_BtOI.reshape(-1, outputs, inputs)).reshape(batch, -1)
