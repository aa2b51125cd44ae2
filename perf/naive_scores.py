"""The scores as their papers write them, with the routines a reader would reach for first.

They are what a published implementation does, without its mistakes, and what the product is timed against where no
package can be installed. Float32 features are used as they come, as the published code does.

Legend: N images, D feature dimensions, C classes, Z source classes.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.special import logsumexp, softmax
from scipy.stats import spearmanr

Array = NDArray[np.floating]
Labels = NDArray[np.intp]


def lfc(features_ND: Array, labels_N: Labels) -> float:
    gram_NN = features_ND @ features_ND.T
    same_NN = np.where(labels_N[:, None] == labels_N, 1.0, -1.0).astype(features_ND.dtype)
    gram_NN = gram_NN - gram_NN.mean()
    same_NN = same_NN - same_NN.mean()
    return float((gram_NN * same_NN).sum() / (np.linalg.norm(gram_NN) * np.linalg.norm(same_NN)))


def hscore(features_ND: Array, labels_N: Labels) -> float:
    f_ND = features_ND.astype(np.float64)
    centred_ND = f_ND - f_ND.mean(axis=0)
    means_ND = np.zeros_like(centred_ND)
    for label in np.unique(labels_N):
        means_ND[labels_N == label] = centred_ND[labels_N == label].mean(axis=0)
    return float(np.trace(np.linalg.pinv(np.cov(centred_ND.T), rcond=1e-15) @ np.cov(means_ND.T)))


def hscore_regularized(features_ND: Array, labels_N: Labels) -> float:
    f_ND = features_ND.astype(np.float64)
    n, d = f_ND.shape
    x_ND = f_ND - f_ND.mean(axis=0)
    covariance_DD = x_ND.T @ x_ND / n
    mean = np.trace(covariance_DD) / d
    beta = ((x_ND**2).T @ (x_ND**2) / n - covariance_DD**2).sum() / (d * n)
    delta = (covariance_DD**2).sum() / d - mean**2
    alpha = min(1.0, beta / delta)
    means_ND = np.zeros_like(x_ND)
    for label in np.unique(labels_N):
        means_ND[labels_N == label] = x_ND[labels_N == label].mean(axis=0)
    shrunk_DD = (1 - alpha) * covariance_DD + alpha * mean * np.eye(d)
    return float((1 - alpha) * np.trace(np.linalg.pinv(shrunk_DD) @ (means_ND.T @ means_ND / (n - 1))))


def logme(features_ND: Array, labels_N: Labels) -> float:
    f_ND = features_ND.astype(np.float64)
    n = len(f_ND)
    u_NM, s_M, _ = np.linalg.svd(f_ND, full_matrices=False)
    sigma_M = s_M**2
    total = 0.0
    classes = np.unique(labels_N)
    for label in classes:
        y_N = (labels_N == label).astype(np.float64)
        x2_M = (u_NM.T @ y_N) ** 2
        beyond = max(float(y_N @ y_N - x2_M.sum()), 0.0)
        alpha, beta = 1.0, 1.0
        for _ in range(100):
            t = alpha / beta
            gamma = (sigma_M / (sigma_M + t)).sum()
            m2 = (sigma_M * x2_M / (t + sigma_M) ** 2).sum()
            residual = (x2_M / (1 + sigma_M / t) ** 2).sum() + beyond
            alpha, beta = gamma / (m2 + 1e-12), (n - gamma) / (residual + 1e-12)
            if abs(alpha / beta - t) <= 1e-3 * t:
                break
        evidence = len(s_M) * np.log(alpha) + n * np.log(beta) - np.log(alpha + beta * sigma_M).sum()
        total += 0.5 * (evidence - beta * residual - alpha * m2 - n * np.log(2 * np.pi)) / n
    return float(total / len(classes))


def transrate(features_ND: Array, labels_N: Labels, eps: float = 1e-4) -> float:
    f_ND = features_ND.astype(np.float64)
    z_ND = f_ND - f_ND.mean(axis=0)

    def rate(rows_ND: Array) -> float:
        d = rows_ND.shape[1]
        return 0.5 * float(np.linalg.slogdet(np.eye(d) + rows_ND.T @ rows_ND / (len(rows_ND) * eps))[1])

    return rate(z_ND) - float(np.mean([rate(z_ND[labels_N == label]) for label in np.unique(labels_N)]))


def gbc_diagonal(features_ND: Array, labels_N: Labels) -> float:
    f_ND = features_ND.astype(np.float64)
    classes = np.unique(labels_N)
    means = [f_ND[labels_N == label].mean(axis=0) for label in classes]
    variances = [f_ND[labels_N == label].var(axis=0) + 1e-12 for label in classes]
    total = 0.0
    for i in range(len(classes)):
        for j in range(len(classes)):
            if i != j:
                middle_D = (variances[i] + variances[j]) / 2
                distance = ((means[i] - means[j]) ** 2 / middle_D).sum() / 8
                distance += 0.5 * np.log(middle_D / np.sqrt(variances[i] * variances[j])).sum()
                total -= np.exp(-distance)
    return float(total)


def parc(features_ND: Array, labels_N: Labels) -> float:
    f_ND = features_ND.astype(np.float64)
    f_ND = (f_ND - f_ND.mean(axis=0)) / (f_ND.std(axis=0) + 1e-12)
    upper = np.triu_indices(len(f_ND), 1)
    return 100 * float(spearmanr((1 - np.corrcoef(f_ND))[upper], (labels_N[:, None] != labels_N)[upper]).statistic)


def knn(features_ND: Array, labels_N: Labels) -> float:
    from scipy.spatial.distance import cdist

    distance_NN = cdist(features_ND, features_ND)
    np.fill_diagonal(distance_NN, np.inf)
    return float((labels_N[distance_NN.argmin(axis=1)] == labels_N).mean())


def sfda(features_ND: Array, labels_N: Labels) -> float:
    x_ND = features_ND.astype(np.float64)
    classes = np.unique(labels_N)

    def posterior(rows_ND: Array) -> Array:
        centred_ND = rows_ND - rows_ND.mean(axis=0)
        means_CD = np.stack([rows_ND[labels_N == label].mean(axis=0) for label in classes])
        about_ND = rows_ND - means_CD[labels_N]
        within_DD = about_ND.T @ about_ND / len(rows_ND)
        between_DD = centred_ND.T @ centred_ND / len(rows_ND) - within_DD
        largest = np.linalg.eigvalsh(within_DD)[-1]
        shrink = max(np.exp(-5 * largest), 1e-10)
        d = len(within_DD)
        within_DD = (1 - shrink) * within_DD + shrink * np.trace(within_DD) / d * np.eye(d)
        _, vectors_DD = eigh(between_DD, within_DD)
        projected_CD = means_CD @ vectors_DD
        prior_C = np.log(np.bincount(labels_N) / len(labels_N))
        scores_NC = rows_ND @ vectors_DD @ projected_CD.T - 0.5 * (projected_CD**2).sum(axis=1) + prior_C
        return softmax(scores_NC, axis=1)

    first_NC = posterior(x_ND)
    mixed_ND = x_ND.copy()
    confidence_NC = softmax(first_NC, axis=1)
    for label in classes:
        rows = labels_N == label
        own = confidence_NC[rows, label][:, None]
        mixed_ND[rows] = own * x_ND[rows] + (1 - own) * x_ND[~rows].mean(axis=0)
    return float(posterior(mixed_ND)[np.arange(len(labels_N)), labels_N].mean())


def etran_class(features_ND: Array, labels_N: Labels) -> float:
    x_ND = features_ND.astype(np.float64)
    classes = np.unique(labels_N)
    means_CD = np.stack([x_ND[labels_N == label].mean(axis=0) for label in classes])
    about_ND = x_ND - means_CD[labels_N]
    within_DD = about_ND.T @ about_ND / len(x_ND)
    between_DD = np.cov(x_ND.T, bias=True) - within_DD
    _, vectors_DD = np.linalg.eigh(np.linalg.pinv(within_DD) @ between_DD)
    projected_CD = means_CD @ vectors_DD
    scores_NC = x_ND @ vectors_DD @ projected_CD.T - 0.5 * (projected_CD**2).sum(axis=1)
    scores_NC += np.log(np.bincount(labels_N) / len(labels_N))
    return float(softmax(scores_NC, axis=1)[np.arange(len(labels_N)), labels_N].mean())


def dds(features_ND: Array, reference_NR: Array) -> float:
    def dissimilarity(x: Array) -> Array:
        unit = x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True)
        k_NN = 1 - unit @ unit.T
        np.fill_diagonal(k_NN, 0)
        n = len(k_NN)
        rows_N = k_NN.sum(axis=1) / (n - 2)
        centred_NN = k_NN - rows_N - rows_N[:, None] + k_NN.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(centred_NN, 0)
        return centred_NN

    a_NN, b_NN = dissimilarity(features_ND), dissimilarity(reference_NR)
    return float((a_NN * b_NN).sum() / np.sqrt((a_NN**2).sum() * (b_NN**2).sum()))


def rsa(features_ND: Array, reference_NR: Array) -> float:
    upper = np.triu_indices(len(features_ND), 1)
    return float(spearmanr((1 - np.corrcoef(features_ND))[upper], (1 - np.corrcoef(reference_NR))[upper]).statistic)


def leep(labels_N: Labels, probabilities_NZ: Array) -> float:
    n, classes = len(labels_N), labels_N.max() + 1
    joint_CZ = np.zeros((classes, probabilities_NZ.shape[1]))
    for image in range(n):
        joint_CZ[labels_N[image]] += probabilities_NZ[image]
    conditional_CZ = joint_CZ / joint_CZ.sum(axis=0)
    return float(np.log((probabilities_NZ @ conditional_CZ.T)[np.arange(n), labels_N]).mean())


def nce(labels_N: Labels, probabilities_NZ: Array) -> float:
    source_N = probabilities_NZ.argmax(axis=1)
    value = 0.0
    for z in np.unique(source_N):
        share = (source_N == z).mean()
        given = labels_N[source_N == z]
        for label in np.unique(given):
            p = (given == label).mean()
            value += share * p * np.log(p)
    return float(value)


def etran_energy(features_ND: Array) -> float:
    energy_N = np.sort(logsumexp(features_ND.astype(np.float64), axis=1))
    return float(energy_N[: max(1, 5 * len(energy_N) // 1000)].mean())
