"""Gradients as rows of a matrix: what a score reads in place of features.

Legend: P probes, N images, S numbers of a gradient or of its sketch, K <= N + 1 coordinates.

Scores of features that do not change under rotations read nothing of a matrix but its inner products, the kernel. The
mean kernel of some probes is that of rows with few coordinates, found by one decomposition: every such score is then a
score of gradients, its uncertainty included.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from app.domain.errors import EvaluationFailed
from app.scoring.gradient_kernels import GradientKernels

_Matrix = NDArray[np.float64]
_NEGLIGIBLE = 1e-13  # share of the largest eigenvalue below which one is rounding
_NEGATIVE = 1e-6  # the same below which minus an eigenvalue is


def checked_gradients(gradients: GradientKernels | ArrayLike, images: int) -> GradientKernels:
    """Return the kernels of gradients, or kernels as they are.

    Args:
        gradients: kernels; or gradients, or sketches of them, (P, N, S) in any real type, (N, S) for a single probe.
        images: N.

    Raises:
        EvaluationFailed: ``invalid_gradients`` or ``non_finite_gradients``.
    """
    kernels = gradients if isinstance(gradients, GradientKernels) else kernels_of(gradients)
    probes = len(kernels.centred_PNN)
    shapes = (kernels.centred_PNN.shape, kernels.towards_mean_PN.shape, kernels.mean_square_P.shape)
    if probes == 0 or shapes != ((probes, images, images), (probes, images), (probes,)):
        raise _invalid(f"expected those of {images} images, got kernels of shapes {', '.join(map(str, shapes))}")
    if not all(np.isfinite(part).all() for part in (kernels.centred_PNN, *_means(kernels))):
        raise EvaluationFailed(
            "non_finite_gradients",
            "Some gradients are NaN or infinite, or too large for their inner products.",
            param="gradients",
            hint="Run the model in float32, and look for the image whose features have no finite gradient.",
        )
    return kernels


def kernels_of(gradients: ArrayLike) -> GradientKernels:
    """Return the inner products of gradients, or of sketches of them, (P, N, S) or (N, S).

    Raises:
        EvaluationFailed: ``invalid_gradients``.
    """
    try:
        given = np.asarray(gradients)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _invalid(f"numpy cannot read them as an array: {error}") from error
    if given.ndim not in (2, 3) or given.size == 0 or given.dtype.kind not in "fiub":
        raise _invalid(f"expected real numbers, probes x images x parameters; got {given.dtype} of {given.shape}")
    sketches_PNS = given.astype(np.float64).reshape(-1, *given.shape[-2:])
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by whoever asked
        mean_PS = sketches_PNS.mean(axis=1)
        centred_PNS = sketches_PNS - mean_PS[:, None]
        return GradientKernels(
            centred_PNN=centred_PNS @ centred_PNS.transpose(0, 2, 1),
            towards_mean_PN=np.einsum("pns,ps->pn", centred_PNS, mean_PS),
            mean_square_P=np.einsum("ps,ps->p", mean_PS, mean_PS),
        )


def coordinates(kernels: GradientKernels, probes: NDArray[np.intp]) -> _Matrix:
    """Return rows (N x K) whose inner products are the mean kernel of some probes.

    Raises:
        EvaluationFailed: ``invalid_gradients``: the kernel is not that of any rows.
    """
    centred_NN = kernels.centred_PNN[probes].mean(axis=0)
    towards_N, square = kernels.towards_mean_PN[probes].mean(axis=0), float(kernels.mean_square_P[probes].mean())
    values_N, vectors_NN = eigh((centred_NN + centred_NN.T) / 2, check_finite=False)
    largest = max(float(values_N[-1]), 0.0)
    if values_N[0] < -_NEGATIVE * largest or square < 0:
        raise _invalid("the kernel has a negative eigenvalue, as no inner products have")
    kept_N = values_N > _NEGLIGIBLE * largest
    lengths_K, axes_NK = np.sqrt(values_N[kept_N]), vectors_NN[:, kept_N]
    mean_K = axes_NK.T @ towards_N / lengths_K
    beside = np.sqrt(max(square - float(mean_K @ mean_K), 0.0))  # the mean's part across all differences
    rows_NK = np.full((len(centred_NN), len(lengths_K) + 1), beside)
    rows_NK[:, :-1] = axes_NK * lengths_K + mean_K
    return rows_NK


def _means(kernels: GradientKernels) -> tuple[_Matrix, _Matrix]:
    return kernels.towards_mean_PN, kernels.mean_square_P


def _invalid(problem: str) -> EvaluationFailed:
    return EvaluationFailed(
        "invalid_gradients",
        f"Gradients: {problem}.",
        param="gradients",
        hint="Pass an array of per-image gradients, or of sketches of them: probes x images x numbers.",
    )
