"""PACTran: PAC-Bayes bounds on the loss of a probabilistic map from source classes to the labels.

Legend: N images, C classes, Z source classes.

Both models explain a label by a hidden source class, drawn with the classifier's probabilities P_iz. A loop that never
lowers the bound alternates between the posterior q_iz of the hidden class and that of the map. It ends with the latter:
the published code ends with the former, and what it returns is a bound only once the loop has settled.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, softmax, xlogy

from app.scoring.contract import Result
from app.scoring.panel import Panel

_Matrix = NDArray[np.float64]

STEPS = 10  # as published
ALPHA = 1.0
BETA = 1.0
_FLOOR = 1e-300  # a source class without probability stays without


def pactran_dirichlet(panel: Panel) -> Result:
    """Return minus the bound per image and class, the map's rows being Dirichlet: p(y|z) for each z.

    Source: Ding et al. 2022, arXiv:2203.05126, Section 3, with the class shares times alpha = 1 as prior.
    """
    log_p_NZ = np.log(np.maximum(panel.source_probabilities_NZ, _FLOOR))
    prior_C1 = ALPHA * panel.counts_C[:, None] / panel.num_images
    hidden_NZ = np.array(panel.source_probabilities_NZ)
    posterior_CZ = prior_C1 + panel.one_hot_NC.T @ hidden_NZ
    for _ in range(STEPS):
        expected_CZ = digamma(posterior_CZ) - digamma(posterior_CZ.sum(axis=0))
        hidden_NZ = softmax(log_p_NZ + expected_CZ[panel.labels_N], axis=1)
        posterior_CZ = prior_C1 + panel.one_hot_NC.T @ hidden_NZ
    log_prior = gammaln(prior_C1.sum()) - gammaln(prior_C1).sum()
    log_posterior_Z = gammaln(posterior_CZ.sum(axis=0)) - gammaln(posterior_CZ).sum(axis=0)
    bound = (log_prior - log_posterior_Z).sum() - _divergence(hidden_NZ, log_p_NZ)
    return Result(value=float(bound) / (panel.num_images * panel.num_classes))


def pactran_gamma(panel: Panel) -> Result:
    """Return minus the bound per image and class, the map's entries being Gamma, normalised over classes per image.

    With V_yz ~ Gamma(a_y, rate 1), p(y|x) = sum_z P_z V_yz / sum_yz P_z V_yz. The normaliser L_i is bounded by
    log L <= L / l + log l - 1, tight where l_i is the posterior mean of L_i.

    Source: Ding et al. 2022, arXiv:2203.05126, Section 3, with the class shares times alpha = 1 as prior.
    """
    p_NZ = panel.source_probabilities_NZ
    log_p_NZ = np.log(np.maximum(p_NZ, _FLOOR))
    prior_C1 = ALPHA * panel.counts_C[:, None] / panel.num_images
    hidden_NZ, rate_Z = np.array(p_NZ), np.full(p_NZ.shape[1], BETA)
    posterior_CZ = prior_C1 + panel.one_hot_NC.T @ hidden_NZ
    for _ in range(STEPS):
        rate_Z = BETA + (1 / _normaliser(p_NZ, posterior_CZ, rate_Z)) @ p_NZ
        expected_CZ = digamma(posterior_CZ) - np.log(rate_Z)
        hidden_NZ = softmax(log_p_NZ + expected_CZ[panel.labels_N], axis=1)
        posterior_CZ = prior_C1 + panel.one_hot_NC.T @ hidden_NZ
    normaliser_N = _normaliser(p_NZ, posterior_CZ, rate_Z)
    rate_Z = BETA + (1 / normaliser_N) @ p_NZ
    bound = (
        p_NZ.shape[1] * (prior_C1.sum() * np.log(BETA) - gammaln(prior_C1).sum())
        + gammaln(posterior_CZ).sum()
        - (posterior_CZ.sum(axis=0) * np.log(rate_Z)).sum()
        + (1 - np.log(normaliser_N)).sum()
        - _divergence(hidden_NZ, log_p_NZ)
    )
    return Result(value=float(bound) / (panel.num_images * panel.num_classes))


def _normaliser(p_NZ: _Matrix, posterior_CZ: _Matrix, rate_Z: _Matrix) -> _Matrix:
    return np.asarray(p_NZ @ (posterior_CZ.sum(axis=0) / rate_Z))


def _divergence(hidden_NZ: _Matrix, log_p_NZ: _Matrix) -> float:
    return float(xlogy(hidden_NZ, hidden_NZ).sum() - (hidden_NZ * log_p_NZ).sum())
