"""Checks of what a worker measured of a network, before a forecast is built on it.

Legend: M images, N images of a kernel, P rows of a kernel, D feature dimensions, Q directions.
"""

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from app.domain.errors import EvaluationFailed

_Array = NDArray[np.float64]
_Kernel = NDArray[np.floating[Any]]
_ROUNDING = 1e-6  # of the Frobenius norm: what single precision leaves of a zero eigenvalue
_OFF = 1e-3  # relative asymmetry of a kernel, or inner product of two directions, that is no rounding
_INDEFINITE = 0.1  # negative eigenvalues over positive ones, both summed, at which a kernel is no kernel


def finite(name: str, values: ArrayLike, axes: int) -> _Array:
    array = np.asarray(values, dtype=np.float64)
    expect(array.ndim == axes, name, array.shape, f"{axes} axes")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise EvaluationFailed(
            "forecast_not_finite",
            f"{name} holds {bad} numbers that are infinite or not a number.",
            param=name,
            hint="The model overflows on these images: check its weights and preprocessing, and use single precision.",
        )
    return array


def checked_labels(labels_M: ArrayLike, count: int, num_classes: int | None) -> tuple[NDArray[np.intp], int]:
    labels = np.asarray(labels_M)
    expect(labels.shape == (count,), "labels_M", labels.shape, (count,))
    whole = np.issubdtype(labels.dtype, np.integer)
    classes = num_classes if num_classes is not None or not whole or not count else int(labels.max()) + 1
    if not whole or (count and (labels.min() < 0 or labels.max() >= (classes or 0))):
        raise EvaluationFailed(
            "forecast_labels",
            f"Labels must be whole numbers from 0 to below {classes}.",
            param="labels_M",
            hint="Number the classes from 0.",
        )
    return labels.astype(np.intp), classes or 0


def check_classes(labels_N: NDArray[np.intp], classes: int) -> None:
    if classes < 2 or len(np.unique(labels_N)) < 2:
        raise EvaluationFailed(
            "forecast_one_class",
            "All images of the forecast are of one class, so there is nothing to learn.",
            param="labels_M",
            hint="Give images of at least two classes.",
        )
    if len(labels_N) < classes:
        raise EvaluationFailed(
            "forecast_few_images",
            f"{len(labels_N)} images cannot stand for {classes} classes.",
            param="labels_M",
            hint="Measure gradients for at least one image of each class; ten or more are better.",
        )


def checked_basis(basis_DQ: ArrayLike, dimensions: int) -> _Array:
    basis = finite("basis_DQ", basis_DQ, 2)
    expect(basis.shape[0] == dimensions, "basis_DQ", basis.shape, (dimensions, "directions"))
    error = np.abs(basis.T @ basis - np.eye(basis.shape[1])).max(initial=0.0)
    if error > _OFF:
        raise EvaluationFailed(
            "forecast_basis",
            f"The directions are not orthonormal: their inner products are off by up to {error:.2g}.",
            param="basis_DQ",
            hint="Orthonormalise the directions (QR) before the gradients are measured.",
        )
    return basis


def checked_kernel(name: str, values: ArrayLike) -> tuple[_Kernel, list[str]]:
    """Return a symmetric kernel without negative eigenvalues beyond rounding, and what was mended."""
    kernel = finite(name, values, 2)
    precision = np.float32 if np.asarray(values).dtype == np.float32 else np.float64
    expect(kernel.shape[0] == kernel.shape[1] > 0, name, kernel.shape, "a square")
    norm = float(np.linalg.norm(kernel))
    if np.linalg.norm(kernel - kernel.T) > _OFF * norm:
        raise EvaluationFailed(
            "forecast_asymmetric",
            f"{name} is not symmetric, so it holds no inner products.",
            param=name,
            hint="Build it as G G' from one matrix of gradients.",
        )
    kernel = (kernel + kernel.T) / 2
    shifted = kernel + _ROUNDING * norm * np.eye(len(kernel))
    if norm == 0 or scipy.linalg.lapack.dpotrf(shifted, overwrite_a=1, clean=0)[1] == 0:
        return kernel.astype(precision), []
    values_P, vectors_PP = scipy.linalg.eigh(kernel)
    negative = float(-values_P[values_P < 0].sum())
    if negative > _INDEFINITE * float(values_P[values_P > 0].sum()):
        raise EvaluationFailed(
            "forecast_indefinite",
            f"{name} is not positive: its negative eigenvalues sum to {negative:.2g}.",
            param=name,
            hint="Build it as G G' from one matrix of gradients, in double precision.",
        )
    kept = values_P > 0
    clipped = (vectors_PP[:, kept] * values_P[kept]) @ vectors_PP[:, kept].T
    return clipped.astype(precision), ["negative_eigenvalues_clipped"]


def expect(condition: bool, name: str, found: Any, expected: Any) -> None:
    if not condition:
        raise EvaluationFailed(
            "forecast_shape",
            f"{name}: found {found}, expected {expected}.",
            param=name,
            hint="Measure features, gradients and labels of the same images, in the same order.",
        )
