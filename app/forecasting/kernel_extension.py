"""The kernel of images whose gradients were not measured, from their features.

Legend: N images of the kernel, M all images (the first N are those of the kernel), Q directions.

Few images are easy to fit: simulated on 100 of 200 to 240 images, trainings of packaged networks took as little as a
half of their real steps. Gradients cost many times what features do, so those of further images are filled in.

The gradients J_i of the features (Q x parameters) are taken for a Gaussian process over images, whose covariance is
m(i, j) A: m is the cosine of the centred features plus a ridge for what each image has of its own, A (Q x Q) says how
the directions go together. Both follow from the measured kernel alone by maximum likelihood: A = sum_ij (m^-1)_ij K_ij
/ N, and the ridge is the least of log det A / Q + log det m / N. The kernel of all images is then the mean of J J'
given the measured gradients,

    K_MM = P K P' + R (x) A    with P = m_MN m_NN^-1 and R = m_MM - P m_NM,

which leaves the measured part as it is and cannot be indefinite. It says nothing of labels.
"""

import dataclasses

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from app.forecasting.feature_kernel import ClassKernel, ExtendedKernel, FeatureKernel, TraceKernel
from app.forecasting.linearisation import Linearisation

_Array = NDArray[np.float64]

LARGEST = 1000
"""Images that are simulated."""

_RIDGES = (1e-3, 1e2)


def extended(linearisation: Linearisation, *, largest: int = LARGEST) -> Linearisation:
    """Return the network with its further images among those of the kernel, as many as there is room for.

    Args:
        linearisation: with or without further images; without, or with a frozen backbone, or extended already, it comes
            back as it is.
        largest: number of images; further ones are taken class by class, and so are the measured ones if these alone
            are more.
    """
    room = largest - linearisation.num_images
    if room < 0:
        return linearisation.subset(_balanced(linearisation.labels_N, largest))
    kernel = linearisation.kernel
    if kernel is None or isinstance(kernel, ExtendedKernel) or not len(linearisation.further_labels_M) or room < 1:
        return linearisation
    chosen = _balanced(linearisation.further_labels_M, room)
    features_MD = np.vstack([linearisation.features_ND, linearisation.further_MD[chosen]])
    weight_MN, rest_MM, across_QQ = _fitted(kernel, features_MD)
    if isinstance(kernel, TraceKernel):
        across_QQ = across_QQ * np.eye(linearisation.num_directions)
    decay = linearisation.decay_QN
    return dataclasses.replace(
        linearisation,
        features_ND=features_MD,
        labels_N=np.concatenate([linearisation.labels_N, linearisation.further_labels_M[chosen]]),
        kernel=ExtendedKernel(kernel, weight_MN, rest_MM, across_QQ),
        decay_QN=None if decay is None else decay @ weight_MN.T,
        further_MD=np.delete(linearisation.further_MD, chosen, axis=0),
        further_labels_M=np.delete(linearisation.further_labels_M, chosen),
    )


def similarity(features_MD: _Array, images: int) -> _Array:
    """Return the cosines (M, M) of all images' features, centred and scaled by the first ``images`` of them.

    A coordinate of 1 beside the scaled features keeps an image near the centre from pointing anywhere.
    """
    centred_MD = features_MD - features_MD[:images].mean(axis=0)
    size = np.sqrt((centred_MD[:images] ** 2).sum(axis=1).mean())
    rows = np.hstack([centred_MD / max(size, np.finfo(np.float64).tiny), np.ones((len(features_MD), 1))])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows @ rows.T)


def _fitted(kernel: FeatureKernel, features_MD: _Array) -> tuple[_Array, _Array, _Array]:
    """Return P (M, N), what it leaves unexplained of m (M, M), and A (Q, Q); 1 x 1 of a trace kernel."""
    images = kernel.num_images
    cosine_MM = similarity(features_MD, images)
    values_K, vectors_NK = np.linalg.eigh(cosine_MM[:images, :images])
    values_K = values_K.clip(min=0)
    along_KQQ = np.einsum("ik,ijab,jk->kab", vectors_NK, _blocks(kernel), vectors_NK, optimize=True)

    def across_QQ(ridge: float) -> _Array:
        return np.asarray(np.einsum("k,kab->ab", 1 / (values_K + ridge), along_KQQ) / images)

    def surprise(log_ridge: float) -> float:
        ridge = float(np.exp(log_ridge))
        # The kernel of fewer parameters than directions, or of equal directions, is singular: its null space is left.
        spread = np.linalg.eigvalsh(across_QQ(ridge))
        spread = spread[spread > 1e-12 * spread[-1]]
        return float(np.log(spread).mean() + np.log(values_K + ridge).mean())

    best = scipy.optimize.minimize_scalar(surprise, bounds=np.log(_RIDGES), method="bounded")
    ridge = float(np.exp(best.x))
    own_MM = cosine_MM + ridge * np.eye(len(cosine_MM))
    inverse_NN = vectors_NK / (values_K + ridge) @ vectors_NK.T
    weight_MN = own_MM[:, :images] @ inverse_NN
    rest_MM = own_MM - weight_MN @ own_MM[:images]
    return weight_MN, (rest_MM + rest_MM.T) / 2, across_QQ(ridge)


def _blocks(kernel: FeatureKernel) -> _Array:
    """Return the kernel as a Q x Q block for every pair of images (N, N, Q, Q); 1 x 1 of a trace kernel."""
    if isinstance(kernel, ClassKernel):
        return kernel.values_QNQN.transpose(1, 3, 0, 2).astype(np.float64)
    assert isinstance(kernel, TraceKernel)  # what was measured is one of the two
    return kernel.values_NN[:, :, None, None].astype(np.float64)


def _balanced(labels_M: NDArray[np.intp], images: int) -> NDArray[np.intp]:
    """Return ascending places of at most so many images, the first of every class before the second of any."""
    place_M = np.zeros(len(labels_M), dtype=np.intp)
    for label in np.unique(labels_M):
        members = np.flatnonzero(labels_M == label)
        place_M[members] = np.arange(len(members))
    return np.sort(np.argsort(place_M, kind="stable")[:images])
