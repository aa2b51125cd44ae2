"""The classifier that ridge regression gives in closed form, as directions of the features.

Legend: N images, D features, C classes, P directions.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

_PENALTIES = np.logspace(-4, 4, 17)  # of the mean square of a centred feature vector's entries, times N
_EQUAL = 1e-20  # of their squares: features that differ by less are the same


def ridge_head_DP(
    features_ND: NDArray[np.floating], labels_N: NDArray[np.integer], directions: int
) -> NDArray[np.float32]:
    """Return the directions in which a ridge head reads the features most, as columns.

    The head W (C x D) fits one-hot labels, its penalty chosen by leave-one-out. Its outputs' gradients have the summed
    kernel sum_c J'w_c w_c'J = sum_p s_p^2 J'v_p v_p'J, with s_p and v_p the singular values and right singular vectors
    of W: the columns are s_p v_p, scaled to a mean square length of 1.

    Args:
        features_ND: pooled features.
        labels_N: their classes.
        directions: how many at most; there are fewer than classes.
    """
    centred_ND = features_ND.astype(np.float64) - features_ND.mean(axis=0, dtype=np.float64)
    classes_C = np.unique(labels_N)
    one_hot_NC = (labels_N[:, None] == classes_C).astype(np.float64)
    size = len(centred_ND) * float(np.square(centred_ND).mean())
    if size <= _EQUAL * float(np.square(features_ND, dtype=np.float64).sum()):
        return np.eye(centred_ND.shape[1], 1, dtype=np.float32)  # the features tell nothing: any direction will do
    head_CD = RidgeCV(alphas=_PENALTIES * size).fit(centred_ND, one_hot_NC).coef_.reshape(len(classes_C), -1)
    _, sizes_K, rows_KD = np.linalg.svd(head_CD, full_matrices=False)
    kept = max(1, min(directions, int((sizes_K > 1e-9 * sizes_K[0]).sum())))
    columns_DP = rows_KD[:kept].T * sizes_K[:kept]
    return np.asarray(columns_DP / np.sqrt(np.square(columns_DP).sum(axis=0).mean()), dtype=np.float32)
