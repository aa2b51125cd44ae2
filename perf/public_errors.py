"""Where published implementations of the scores differ from their papers: every row of the table in docs/scores.md.

Each row computes the product's value and that of an installable package, or of the few lines in question as they are
commonly written, on the same arrays. Nothing is timed.

Legend: N images, D feature dimensions, C classes, Z source classes.
"""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import spearmanr

from app.scoring import Panel, compute, measure
from perf import naive_scores as naive
from perf.scores import Arrays, ranker

Array = NDArray[np.floating]
Labels = NDArray[np.intp]
Row = tuple[str, str, float, float, str]


def blobs(images: int, dimensions: int, classes: int, spread: float = 0.5, seed: int = 0) -> tuple[Array, Labels]:
    random = np.random.default_rng(seed)
    labels_N = np.arange(images) % classes
    centres_CD = random.normal(size=(classes, dimensions)) * spread
    return random.normal(size=(images, dimensions)) + centres_CD[labels_N], labels_N


def logme(public: dict[str, Callable[..., float]]) -> Iterator[Row]:
    """The fixed point sums log(alpha + beta sigma^2) over min(N, D) singular values, but counts D of log alpha."""
    x_ND, labels_N = blobs(200, 2048, 10)
    for name, features_ND in (
        ("LogME, 200 images, 2048 dimensions", x_ND),
        ("the same with half of the columns zero", np.hstack([x_ND[:, :1024], np.zeros((200, 1024))])),
        ("the same without these columns", x_ND[:, :1024]),
    ):
        theirs = public["LogME"](arrays_of(features_ND, labels_N))
        yield name, "transformer-ranker", theirs, compute("logme", features_ND, labels_N).value, "drops (d-n) log alpha"


def parc() -> Iterator[Row]:
    """The distance between two one-hot rows has two values; np.corrcoef returns several, and Spearman ranks them."""
    for classes in (4, 7, 37):
        x_ND, labels_N = blobs(300, 24, classes, 0.7)
        z_ND = (x_ND - x_ND.mean(axis=0)) / x_ND.std(axis=0)
        upper = np.triu_indices(len(z_ND), 1)
        label_distance = (1 - np.corrcoef(np.eye(classes)[labels_N]))[upper]
        theirs = 100 * float(spearmanr((1 - np.corrcoef(z_ND))[upper], label_distance).statistic)
        why = f"{len(np.unique(label_distance))} label distances in place of 2"
        yield f"PARC, {classes} classes", "one-hot np.corrcoef", theirs, compute("parc", x_ND, labels_N).value, why


def lfc() -> Iterator[Row]:
    for dimensions in (128, 2048):
        x_ND = np.random.default_rng(1).normal(size=(500, dimensions))
        labels_N = np.arange(500) % 10
        panel = Panel(x_ND, labels_N)
        theirs, ours = measure("lfc", panel).value, measure("lfc_offdiagonal", panel).value
        why = f"the diagonal; shuffled labels give {measure('lfc', panel).null_value:.3f}"
        yield f"LFC of pure noise, {dimensions} dimensions", "Eq. 8; off-diagonal", theirs, ours, why
    labels_N = np.arange(400) % 20
    perfect_ND = np.eye(20)[labels_N]
    gram_NN, same_NN = perfect_ND @ perfect_ND.T, (labels_N[:, None] == labels_N) * 2.0 - 1
    gram_NN, same_NN = gram_NN - gram_NN.mean(), same_NN - same_NN.mean()
    spectral = float((gram_NN * same_NN).sum() / (np.linalg.norm(gram_NN, 2) * np.linalg.norm(same_NN, 2)))
    ours = compute("lfc", perfect_ND, labels_N).value
    yield "LFC of perfect features", "np.linalg.norm(., 2)", spectral, ours, "the spectral norm: no correlation"


def gbc() -> Iterator[Row]:
    """For spherical covariances s I the log-determinant term counts once per dimension."""
    random = np.random.default_rng(2)
    labels_N = np.arange(600) % 3
    x_ND = random.normal(size=(600, 16)) * np.array([0.5, 1.0, 2.0])[labels_N][:, None]
    x_ND[np.arange(600), labels_N] += 1.0
    means = [x_ND[labels_N == c].mean(axis=0) for c in range(3)]
    variances = [x_ND[labels_N == c].var(axis=0).mean() for c in range(3)]
    total = 0.0
    for i in range(3):
        for j in range(3):
            if i != j:
                middle = (variances[i] + variances[j]) / 2
                distance = ((means[i] - means[j]) ** 2).sum() / middle / 8
                distance += 0.5 * np.log(middle / np.sqrt(variances[i] * variances[j]))
                total -= np.exp(-distance)
    ours = compute("gbc_spherical", x_ND, labels_N).value
    yield "GBC, spherical, unequal variances", "log-term of one scalar", float(total), ours, "misses the factor d"


def etran() -> Iterator[Row]:
    """eigh of the non-symmetric S_w^-1 S_b gives orthonormal vectors, and means V V^T = means: no LDA at all."""
    x_ND, labels_N = blobs(400, 30, 5, 0.6)
    x_ND[:, 0] *= 8  # a loud dimension without meaning, which the metric S_w^-1 would take out
    means_CD = np.stack([x_ND[labels_N == c].mean(axis=0) for c in range(5)])
    scores_NC = x_ND @ means_CD.T - 0.5 * (means_CD**2).sum(axis=1) + np.log(np.bincount(labels_N) / 400)
    theirs = float(softmax(scores_NC, axis=1)[np.arange(400), labels_N].mean())
    ours = compute("etran_mended_class", x_ND, labels_N).value
    yield "ETran's class part", "softmax of the nearest mean", theirs, ours, "eigh of a matrix that is not symmetric"


def heads() -> Iterator[Row]:
    random = np.random.default_rng(3)
    labels_N = np.arange(500) % 100
    probabilities_NZ = softmax(random.normal(size=(500, 1000)) * 3 + np.eye(1000)[labels_N * 7] * 9, axis=1)
    unused_NZ = probabilities_NZ.copy()
    unused_NZ[:, 5] = 0.0
    unused_NZ /= unused_NZ.sum(axis=1, keepdims=True)
    features_ND = random.normal(size=(500, 4))

    def naive_leep(p_NZ: Array) -> float:
        joint_CZ = np.eye(100)[labels_N].T @ p_NZ / 500
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(np.log((p_NZ @ (joint_CZ / joint_CZ.sum(axis=0)).T)[np.arange(500), labels_N]).mean())

    ours = compute("leep", features_ND, labels_N, source_probabilities=unused_NZ).value
    yield "LEEP with a source class nobody uses", "joint / marginal", naive_leep(unused_NZ), ours, "0 / 0"
    joint_CZ = np.zeros((100, 1000))
    np.add.at(joint_CZ, (labels_N, probabilities_NZ.argmax(axis=1)), 1 / 500)
    joint_CZ += 1e-5
    theirs = float((joint_CZ * np.log(joint_CZ / joint_CZ.sum(axis=0))).sum())
    ours = compute("nce", features_ND, labels_N, source_probabilities=probabilities_NZ).value
    yield (
        "NCE, 100 classes, 1000 source classes",
        "joint + 1e-5",
        theirs,
        ours,
        "1e-5 times 100,000 cells is 1",
    )


def hscore(public: dict[str, Callable[..., float]]) -> Iterator[Row]:
    for dimensions in (512, 2048):
        x_ND = np.random.default_rng(4).normal(size=(300, dimensions))
        panel = Panel(x_ND, np.arange(300) % 10)
        theirs, ours = measure("hscore", panel).value, measure("hscore_regularized", panel).value
        why = f"C - 1 for n <= d, whatever the labels; {', '.join(measure('hscore', panel).warnings)}"
        yield f"H-score of pure noise, {dimensions} dimensions", "paper; regularised", theirs, ours, why
    x_ND, labels_N = blobs(400, 256, 10)
    theirs = public["HScore"](arrays_of(x_ND, labels_N))
    ours = compute("hscore_regularized", x_ND.astype(np.float32), labels_N).value
    yield "regularised H-score", "transformer-ranker", theirs, ours, "divides one covariance by n, the other by n - 1"


def neighbours() -> Iterator[Row]:
    x_ND, labels_N = blobs(120, 20, 3, 0.6)
    doubled_ND, doubled_N = np.repeat(x_ND, 2, axis=0), np.repeat(labels_N, 2)
    theirs = naive.knn(doubled_ND, doubled_N)
    ours = compute("separation_index", doubled_ND, doubled_N).value
    yield "1-NN, every image there twice", "the nearest other row", theirs, ours, "the copy gives the answer away"


def arrays_of(features_ND: Array, labels_N: Labels) -> Arrays:
    """Return features and labels as the packages get them."""
    empty = np.zeros((len(labels_N), 1), dtype=np.float32)
    return Arrays(features_ND.astype(np.float32), labels_N, empty, empty)


def main() -> None:
    """Print the table."""
    public = ranker()
    print("| input | written as | theirs | ours | why |\n|---|---|--:|--:|---|")
    for rows in (logme(public), hscore(public), parc(), lfc(), gbc(), etran(), heads(), neighbours()):
        for name, who, theirs, ours, why in rows:
            print(f"| {name} | {who} | {theirs:.6g} | {ours:.6g} | {why} |")


if __name__ == "__main__":
    main()
