"""NCE: how well the labels follow from the source class that the pretrained classifier gives each image.

Legend: N images, C classes, Z source classes that are predicted at all, U distinct class sizes, K overlaps.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Array = NDArray[np.float64]


def nce(panel: Panel) -> Result:
    """Return -H(label | predicted source class) of the empirical joint distribution, in nats; 0 log 0 = 0.

    Source: Tran, Nguyen and Hassner 2019, arXiv:1908.08142, Section 3, with the most probable source class (the first
    of equals) as the image's source label.
    """
    images = panel.num_images
    predicted_N = np.unique(panel.source_predictions_N, return_inverse=True)[1].reshape(-1)
    source_classes = int(predicted_N.max()) + 1
    joint_CZ = (
        np.bincount(panel.labels_N * source_classes + predicted_N, minlength=panel.num_classes * source_classes)
        .reshape(panel.num_classes, source_classes)
        .astype(np.float64)
    )
    counts_Z = joint_CZ.sum(axis=0)
    log_N = np.log(joint_CZ[panel.labels_N, predicted_N] / counts_Z[predicted_N])
    value = float(log_N.mean())
    warnings = ("every_prediction_unique",) * (source_classes == images)
    # The tables' own change cancels: sum N_yz d log N_yz = sum d N_yz = sum N_z d log N_z.
    return Result(
        value=value,
        null_value=_expected(panel.counts_C, counts_Z.astype(np.intp)),
        warnings=warnings,
        influence_N=(log_N - value) / images,
    )


def _expected(counts_C: NDArray[np.intp], counts_Z: NDArray[np.intp]) -> float:
    """Return the mean of the score over all permutations of the labels.

    An entry of the table of counts is then hypergeometric; its expectation depends on the two totals alone.
    """
    images = int(counts_C.sum())
    log_factorial_K = gammaln(np.arange(images + 1) + 1.0)
    sizes_U, repeats_U = np.unique(counts_C, return_counts=True)
    expected = 0.0
    for total, repeats in zip(*np.unique(counts_Z, return_counts=True), strict=True):
        for size, classes in zip(sizes_U, repeats_U, strict=True):
            overlap_K = np.arange(max(1, size + total - images), min(size, total) + 1)
            log_probability_K = (
                log_factorial_K[size]
                + log_factorial_K[images - size]
                + log_factorial_K[total]
                + log_factorial_K[images - total]
                - log_factorial_K[images]
                - log_factorial_K[overlap_K]
                - log_factorial_K[size - overlap_K]
                - log_factorial_K[total - overlap_K]
                - log_factorial_K[images - size - total + overlap_K]
            )
            expected += float(repeats * classes * (np.exp(log_probability_K) @ xlogy(overlap_K, overlap_K / total)))
    return expected / images
