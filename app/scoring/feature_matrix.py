"""One matrix of features, in double precision where it is asked for, in memory or on disk.

Legend: N images, D feature dimensions, K columns, B images of a block, I some images.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from app.domain.errors import EvaluationFailed
from app.scoring.inputs import checked_features, scaled
from app.scoring.workspace import Workspace

_Matrix = NDArray[np.float64]
Part = NDArray[np.intp] | slice
_BLOCK_ENTRIES = 1 << 18  # features brought to float64 at a time: 2 MB, which stay in a cache
_LEAST_SPREAD = 1e-60  # of the largest feature: fourth powers of less vanish


class FeatureMatrix:
    """Checked features, and the same centred; every array is read-only.

    A matrix that does not fit into the workspace's memory is written to a temporary file, a block of rows at a time,
    and is an array like any other: what may not be done with it is to copy it as a whole.

    Attributes:
        scale: a power of two that brings the largest feature below one; multiply by it to get the caller's features.
        workspace: where matrices as large as the features are put.
    """

    def __init__(self, features_ND: ArrayLike, workspace: Workspace) -> None:
        """Check the features; nothing is copied.

        Raises:
            EvaluationFailed: ``invalid_features`` or ``non_finite_features``.
        """
        self.workspace = workspace
        self._raw_ND: NDArray[Any]
        self._raw_ND, self.scale = checked_features(features_ND)
        self.num_images: int = len(self._raw_ND)
        self.num_dimensions: int = self._raw_ND.shape[1]

    @cached_property
    def features_ND(self) -> _Matrix:
        """Features divided by ``scale``."""
        if self.streamed:
            return frozen(self.filled(self.num_dimensions, self._scaled_rows))
        return frozen(scaled(self._raw_ND, self.scale))

    @cached_property
    def mean_D(self) -> _Matrix:
        """Mean of the (scaled) features."""
        return self._mean_of(map(self._scaled_rows, self._row_blocks()))

    @cached_property
    def centred_ND(self) -> _Matrix:
        """Features minus their mean; exactly zero in a dimension where all images agree."""
        return frozen(self.centred_copy())

    def centred_copy(self, order_N: NDArray[np.intp] | None = None) -> _Matrix:
        """Return what ``centred_ND`` is, in another order if one is given, as an array of the caller's own.

        ``centred_ND`` itself is given up for it, and formed again when it is asked for.
        """
        if self.streamed:
            return self.filled(
                self.num_dimensions, lambda rows: self.centred_rows(rows if order_N is None else order_N[rows])
            )
        self.__dict__.pop("centred_ND", None)
        if order_N is not None:
            return self.centred_rows(order_N)
        scaled_ND = scaled(self._raw_ND, self.scale)
        if "mean_D" not in self.__dict__:
            self.mean_D = self._mean_of(scaled_ND[block] for block in self._row_blocks())
        return self._centred(scaled_ND)

    @cached_property
    def _same_D(self) -> NDArray[np.bool_]:
        """The dimensions in which all images agree.

        Raises:
            EvaluationFailed: ``invalid_features``: beside a value that all images share the others are nothing.
        """
        least_D, most_D = self._raw_ND.min(axis=0), self._raw_ND.max(axis=0)
        same_D = np.asarray(least_D == most_D)
        apart_D = scaled(most_D, self.scale) - scaled(least_D, self.scale)
        if not same_D.all() and apart_D.max() < _LEAST_SPREAD:
            raise EvaluationFailed(
                "invalid_features",
                f"All images have a feature of about {self.scale:.0e} in common, and what differs between them is less "
                f"than {_LEAST_SPREAD:g} of it.",
                param="features",
                hint="Leave out the dimensions in which all images agree.",
            )
        return same_D

    def centred_rows(self, images_I: Part) -> _Matrix:
        """Return some rows of ``centred_ND``, which is not formed for them."""
        if "centred_ND" in self.__dict__:
            return self.centred_ND[images_I]
        return self._centred(self._scaled_rows(images_I))

    def _scaled_rows(self, images_I: Part) -> _Matrix:
        return scaled(self._raw_ND[images_I], self.scale)

    def _centred(self, rows_ID: _Matrix) -> _Matrix:
        rows_ID -= self.mean_D
        if self._same_D.any():
            rows_ID[:, self._same_D] = 0.0
        return rows_ID

    def _mean_of(self, blocks: Iterable[_Matrix]) -> _Matrix:
        sum_D = np.zeros(self.num_dimensions)
        for rows_BD in blocks:
            sum_D += np.ones(len(rows_BD)) @ rows_BD
        return frozen(sum_D / self.num_images)

    def _row_blocks(self) -> list[slice]:
        size = max(1, _BLOCK_ENTRIES // self.num_dimensions)
        return [slice(start, start + size) for start in range(0, self.num_images, size)]

    def filled(self, columns: int, rows_of: Callable[[slice], _Matrix]) -> _Matrix:
        """Return a matrix of the workspace whose blocks of rows are what a function gives."""
        filled_NK = self.workspace.matrix(self.num_images, columns)
        for part in self.parts(columns):
            filled_NK[part] = rows_of(part)
        return filled_NK

    @property
    def streamed(self) -> bool:
        """Whether float64 features do not fit into memory, and are kept in temporary files."""
        return not self.workspace.holds(self.num_images, self.num_dimensions)

    def parts(self, columns: int | None = None) -> Iterator[slice]:
        """Yield the images in blocks whose rows, of as many columns as the features, may be copied."""
        return self.workspace.parts(self.num_images, columns or self.num_dimensions)

    @cached_property
    def constant(self) -> bool:
        """Whether all images have the same features."""
        return bool(self._same_D.all())

    @cached_property
    def squared_norms_N(self) -> _Matrix:
        """Squared length of every centred row."""
        rows = map(self.centred_rows, self._row_blocks())
        return frozen(np.concatenate([np.einsum("bd,bd->b", rows_BD, rows_BD) for rows_BD in rows]))


def frozen(array: _Matrix) -> _Matrix:
    """Return an array that cannot be written to any more."""
    array.flags.writeable = False
    return array
