"""Linear probe: what a linear classifier on the frozen features gets right on images it has not seen.

Legend: N images, C classes, M principal axes, F folds, S penalties tried.
"""

import numpy as np
from numpy.typing import NDArray

from app.domain.ranking import accuracy_stderr
from app.scoring.contract import Result
from app.scoring.features.held_out import held_out
from app.scoring.fitting.folds import NEVER_HELD_OUT, stratified_folds
from app.scoring.fitting.softmax_regression import SoftmaxPath
from app.scoring.panel import Panel

FOLDS = 5
RELATIVE_PENALTIES = tuple(10.0**power for power in range(1, -7, -1))
_PATIENCE = 2  # the path ends after this many penalties without a worthwhile gain
_WORTHWHILE = 0.002  # nats per image
_TIE = 1e-9  # log-probabilities closer than this are equal: rounding must not decide
_NEGLIGIBLE = 1e-12  # share of the largest eigenvalue below which an axis is rounding noise


def linear_probe(panel: Panel) -> Result:
    """Return the out-of-fold accuracy of multinomial logistic regression, and each image's part in it.

    Features are centred and rotated to their principal axes, which reads no label; their unit does not count. The
    penalty of each fold's model is the one whose models predict the images of the *other* folds best, by
    log-likelihood: no image has a say in the penalty of the model it is judged by, except as one of the training images
    of the models for other folds. An image whose class ties with another counts as wrong.

    Raises:
        EvaluationFailed: ``no_held_out_images``: no class has two images.
    """
    folds_N = stratified_folds(panel.labels_N, FOLDS)
    held_out_N = held_out(panel)
    folds = np.unique(folds_N[held_out_N])
    path = SoftmaxPath(_axes(panel), panel.labels_N, panel.num_classes, folds_N != folds[:, None])
    likelihoods, outcomes = [], []
    converged, best, waited = True, -np.inf, 0
    for relative in RELATIVE_PENALTIES:
        converged &= path.fit(relative * path.unit_penalty)
        likelihood_N, predicted_N = _out_of_fold(path, panel.labels_N, folds_N, folds)
        likelihoods.append(likelihood_N)
        outcomes.append(predicted_N)
        mean = float(likelihood_N[held_out_N].mean())
        waited = 0 if mean > best + _WORTHWHILE else waited + 1
        best = max(best, mean)
        if waited == _PATIENCE or best > -_WORTHWHILE:
            break
    chosen_N = _penalty_by_other_folds(np.array(likelihoods), folds_N, folds)
    images_N = np.arange(panel.num_images)
    predicted_N = np.array(outcomes)[chosen_N, images_N]
    right_N = predicted_N == panel.labels_N
    total, right = int(held_out_N.sum()), int(right_N.sum())
    warnings = (
        ("constant_features",) * panel.constant
        + ("singleton_class",) * bool((panel.counts_C == 1).any())
        + ("not_converged",) * (not converged)
    )
    return Result(
        value=right / total,
        stderr=accuracy_stderr(right, total),
        warnings=warnings,
        influence_N=np.where(held_out_N, (right_N - right / total) / total, 0.0),
        per_image_N=right_N,
        predicted_N=predicted_N,
        held_out_N=held_out_N,
        log_likelihood_N=np.array(likelihoods)[chosen_N, images_N],
    )


def _axes(panel: Panel) -> NDArray[np.float64]:
    if panel.constant:
        return np.zeros((panel.num_images, 1))
    values_M, _ = panel.spectrum
    kept_M = values_M > _NEGLIGIBLE * values_M[0]
    return panel.principal_NM[:, : int(kept_M.sum())]


def _out_of_fold(
    path: SoftmaxPath, labels_N: NDArray[np.intp], folds_N: NDArray[np.intp], folds: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return (log-probability of the true class, the single most probable class); 0 and -1 elsewhere and for ties."""
    likelihood_N = np.zeros(len(labels_N))
    predicted_N = np.full(len(labels_N), -1)
    for index, fold in enumerate(folds):
        images = np.flatnonzero(folds_N == fold)
        log_probability = path.log_probabilities(index, images)
        likelihood_N[images] = log_probability[np.arange(len(images)), labels_N[images]]
        best = log_probability.max(axis=1, keepdims=True)
        single = (log_probability > best - _TIE).sum(axis=1) == 1
        predicted_N[images] = np.where(single, log_probability.argmax(axis=1), -1)
    return likelihood_N, predicted_N


def _penalty_by_other_folds(
    likelihood_SN: NDArray[np.float64], folds_N: NDArray[np.intp], folds: NDArray[np.intp]
) -> NDArray[np.intp]:
    chosen_N = np.zeros(len(folds_N), dtype=np.intp)
    for fold in folds:
        others_N = (folds_N != fold) & (folds_N != NEVER_HELD_OUT)
        chosen_N[folds_N == fold] = np.argmax(likelihood_SN[:, others_N].sum(axis=1))
    return chosen_N
