"""Which images can be among the nearest to each image: found in single precision, with a bound on its error.

Legend: N images, D feature dimensions, T images of a tile, B images of a block, V pairs of an image and a candidate.

An image's neighbours are those of the smallest key, key_ij = bias_j - r_i . r_j, for rows r no longer than one. A sum
of D products in single precision is off by no more than (D + 1) 2^-24 |r_i| |r_j| in any order of summation, so that
whoever is beyond twice that of the k-th smallest key cannot be among the k nearest. What is left is computed again in
double precision where it matters: the answer is that of double precision, for half the time and memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.scoring.panel import Panel
from app.scoring.products import Products

_Vector = NDArray[np.float64]
_Single = NDArray[np.float32]
_Indices = NDArray[np.intp]
_Short = NDArray[np.int32]  # indices that are kept in numbers
_TILE = 1024
_PAIRS = 256  # pairs computed again at a time
_MOST_HELD = 500_000  # candidates, before those that others have overtaken are dropped; at least
_HELD_FOR_EACH = 4  # times as many as neighbours are asked for
_UNIT = 2.0**-24  # relative rounding error of single precision


@dataclass(frozen=True, eq=False)
class Candidates:
    """All that can be among the k nearest of each image, in the order of the images.

    Attributes:
        image_V: whose neighbour it may be.
        other_V: which image it is.
        key_V: the key, to within ``margin_N``.
        margin_N: bound on the error of an image's keys.
    """

    image_V: _Indices
    other_V: _Indices
    key_V: _Vector
    margin_N: _Vector

    def of(self, kept_V: NDArray[np.bool_]) -> "Candidates":
        """Return some of them."""
        return Candidates(self.image_V[kept_V], self.other_V[kept_V], self.key_V[kept_V], self.margin_N)


def nearest(panel: Panel, neighbours: int, *, cosine: bool) -> Candidates:
    """Return the candidates for the nearest images of every image, itself left out.

    Args:
        panel: the features, which are centred.
        neighbours: how many of the nearest are asked for; of equals at the last place all are candidates.
        cosine: with keys of minus the cosine. Otherwise half the squared distance less half the squared length of the
            image itself, both as a share of the largest squared length.
    """
    length_N = np.sqrt(panel.squared_norms_N)
    divisor_N = length_N if cosine else np.full(panel.num_images, length_N.max())
    rows_ND = _single_rows(panel, divisor_N)
    size_N = np.ones(panel.num_images) if cosine else length_N / divisor_N
    bias_N = np.zeros(panel.num_images) if cosine else size_N**2 / 2
    margin_N = 1.01 * _UNIT * ((panel.num_dimensions + 8) * size_N + 8)
    held = _screened(
        panel.products, rows_ND, bias_N.astype(np.float32), margin_N, min(neighbours, panel.num_images - 1)
    )
    return held.candidates(margin_N)


def inner_products(panel: Panel, image_V: _Indices, other_V: _Indices) -> _Vector:
    """Return the inner products of the centred features of pairs of images."""
    products_V = np.empty(len(image_V))
    for start in range(0, len(image_V), _PAIRS):
        block = slice(start, start + _PAIRS)
        left_BD, right_BD = panel.centred_rows(image_V[block]), panel.centred_rows(other_V[block])
        products_V[block] = np.einsum("bd,bd->b", left_BD, right_BD)
    return products_V


def counts(candidates: Candidates, images: int) -> _Indices:
    """Return how many candidates each image has."""
    return np.bincount(candidates.image_V, minlength=images)


def _single_rows(panel: Panel, divisor_N: _Vector) -> _Single:
    rows_ND = panel.workspace.matrix(panel.num_images, panel.num_dimensions, np.float32)
    for images_B in _blocks(panel.num_images, 128):
        rows_BD = panel.centred_rows(images_B)
        np.multiply(rows_BD, 1 / divisor_N[images_B, None], out=rows_ND[images_B], casting="same_kind")
    return rows_ND


def _blocks(images: int, size: int) -> Iterator[slice]:
    for start in range(0, images, size):
        yield slice(start, min(start + size, images))


class _Held:
    """Candidates found so far, and the largest key of interest for every image."""

    def __init__(self, images: int, neighbours: int, margin_N: _Vector) -> None:
        self._neighbours, self._margin_N = neighbours, margin_N
        self.limit_N = np.full(images, np.inf, dtype=np.float32)
        self._parts: list[tuple[_Short, _Short, _Single]] = []
        self._held = 0
        self._most = max(_MOST_HELD, _HELD_FOR_EACH * neighbours * images)

    def add(self, image_V: _Indices, other_V: _Indices, key_V: _Single) -> None:
        self._parts.append((image_V.astype(np.int32), other_V.astype(np.int32), key_V))
        self._held += len(key_V)
        if self._held > self._most:
            self._drop()

    def lower(self, images: slice, key_BT: _Single) -> None:
        """Lower the limits to the k-th smallest key of some that are known."""
        if key_BT.shape[1] <= self._neighbours:  # an image itself is among them
            return
        if self._neighbours == 1:
            last_B = key_BT.min(axis=1)
        else:
            last_B = np.partition(key_BT, self._neighbours - 1, axis=1)[:, self._neighbours - 1]
        np.minimum(self.limit_N[images], self._beyond(last_B, images), out=self.limit_N[images])

    def candidates(self, margin_N: _Vector) -> Candidates:
        self._drop()
        image_V, other_V, key_V = self._parts[0]
        return Candidates(image_V.astype(np.intp), other_V.astype(np.intp), key_V.astype(np.float64), margin_N)

    def _drop(self) -> None:
        image_V, other_V, key_V = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        self._parts.clear()
        order_V = np.lexsort((key_V, image_V))
        image_V = image_V[order_V]  # one after the other, so that no two of them are held twice
        other_V = other_V[order_V]
        key_V = key_V[order_V]
        first_N = np.searchsorted(image_V, np.arange(len(self.limit_N)))
        last_N = first_N + self._neighbours - 1
        known_N = last_N < len(image_V)
        known_N[known_N] = image_V[last_N[known_N]] == np.flatnonzero(known_N)
        limits = self._beyond(key_V[last_N[known_N]], known_N)
        self.limit_N[known_N] = np.minimum(self.limit_N[known_N], limits)
        kept_V = key_V <= self.limit_N[image_V]
        self._parts = [(image_V[kept_V], other_V[kept_V], key_V[kept_V])]
        self._held = int(kept_V.sum())

    def _beyond(self, last_B: _Single, images: slice | NDArray[np.bool_]) -> _Single:
        return np.nextafter((last_B + 2 * self._margin_N[images]).astype(np.float32), np.float32(np.inf))


def _screened(products: Products, rows_ND: _Single, bias_N: _Single, margin_N: _Vector, neighbours: int) -> _Held:
    """Go through the tiles on and above the diagonal; those above serve both their rows and their columns."""
    held = _Held(len(rows_ND), neighbours, margin_N)
    tiles = list(_blocks(len(rows_ND), _TILE))
    for tile in tiles:
        key_TT = bias_N[tile] - products.times(rows_ND[tile], rows_ND[tile].T)
        np.fill_diagonal(key_TT, np.inf)
        held.lower(tile, key_TT)
        row_V, column_V = np.nonzero(key_TT <= held.limit_N[tile, None])
        key_V = key_TT[row_V, column_V]
        finite_V = np.isfinite(key_V)
        held.add(row_V[finite_V] + tile.start, column_V[finite_V] + tile.start, key_V[finite_V])
    for index, rows in enumerate(tiles):
        for columns in tiles[index + 1 :]:
            product_TT = products.times(rows_ND[rows], rows_ND[columns].T)
            row_V, column_V = np.nonzero(product_TT >= bias_N[columns] - held.limit_N[rows, None])
            key_V = bias_N[columns][column_V] - product_TT[row_V, column_V]
            held.add(row_V + rows.start, column_V + columns.start, key_V)
            row_V, column_V = np.nonzero(product_TT >= bias_N[rows, None] - held.limit_N[columns])
            key_V = bias_N[rows][row_V] - product_TT[row_V, column_V]
            held.add(column_V + columns.start, row_V + rows.start, key_V)
    return held
