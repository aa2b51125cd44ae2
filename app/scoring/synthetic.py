"""Made-up data with every input that a score may read, and changes of it that a score may or may not notice.

Legend: N images, D feature dimensions, C classes, Z source classes, R dimensions of a reference model,
P probes, S numbers of a gradient.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.scoring.contract import Invariance
from app.scoring.inputs import SourceClasses
from app.scoring.panel import Panel

_Matrix = NDArray[np.float64]

SOURCE_CLASSES = 6
_REFERENCE_DIMENSIONS = 5
_GRADIENTS = (3, 9)  # probes, numbers
FACTS = {"parameters": 2.5e7, "flops": 4e9, "source_accuracy": 0.76}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The arrays of one model on one data set.

    Attributes:
        features_ND: of the model.
        labels_N: class of each image.
        gradients_PNS: of the model.
        probabilities_NZ: of the classifier the model was pretrained with.
        reference_NR: features of another model.
        means_ZD: mean features of the source classes.
        facts: what is known of the model.
    """

    features_ND: _Matrix
    labels_N: NDArray[Any]
    gradients_PNS: _Matrix
    probabilities_NZ: _Matrix
    reference_NR: _Matrix
    means_ZD: _Matrix
    facts: Mapping[str, float] = field(default_factory=lambda: FACTS)

    def panel(self) -> Panel:
        """Return a new panel of these arrays."""
        return Panel(
            self.features_ND,
            self.labels_N,
            gradients=self.gradients_PNS,
            source_probabilities=self.probabilities_NZ,
            reference_features=self.reference_NR,
            source_classes=SourceClasses(self.means_ZD, np.arange(1.0, len(self.means_ZD) + 1)),
            facts=self.facts,
        )

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Return every array."""
        return (
            self.features_ND,
            self.labels_N,
            self.gradients_PNS,
            self.probabilities_NZ,
            self.reference_NR,
            self.means_ZD,
        )

    def changed(self, change: Invariance, seed: int = 0) -> "Sample":
        """Return the sample after one of the changes that a statement speaks of.

        Gradients are changed as features are. Source class means live in the model's feature space and move with it.
        The classifier's probabilities and the other model's features are measured apart: only the order of the images
        reaches them.
        """
        random = np.random.default_rng(seed)
        x_ND, g_PNS, z_ZD = self.features_ND, self.gradients_PNS, self.means_ZD
        dimensions = x_ND.shape[1]
        if change == "scale":
            factor = 1 / 37.3 if seed % 2 else 37.3
            return dataclasses.replace(
                self, features_ND=x_ND * factor, gradients_PNS=g_PNS * factor, means_ZD=z_ZD * factor
            )
        if change == "offset":
            offset_D = random.normal(size=dimensions) * 3
            offset_PS = random.normal(size=(g_PNS.shape[0], g_PNS.shape[2]))
            return dataclasses.replace(
                self, features_ND=x_ND + offset_D, gradients_PNS=g_PNS + offset_PS[:, None], means_ZD=z_ZD + offset_D
            )
        if change == "rotation":
            rotation_DD = _rotation(dimensions, random)
            return dataclasses.replace(
                self,
                features_ND=x_ND @ rotation_DD,
                gradients_PNS=g_PNS @ _rotation(g_PNS.shape[2], random),
                means_ZD=z_ZD @ rotation_DD,
            )
        if change == "sample_permutation":
            return self.of(random.permutation(len(x_ND)))
        _, compact_N = np.unique(self.labels_N, return_inverse=True)
        return dataclasses.replace(self, labels_N=random.permutation(compact_N.max() + 1)[compact_N.reshape(-1)])

    def of(self, images_I: NDArray[np.intp]) -> "Sample":
        """Return the sample of these images, in this order; an image may come more than once."""
        return dataclasses.replace(
            self,
            features_ND=self.features_ND[images_I],
            labels_N=self.labels_N[images_I],
            gradients_PNS=self.gradients_PNS[:, images_I],
            probabilities_NZ=self.probabilities_NZ[images_I],
            reference_NR=self.reference_NR[images_I],
        )


def _rotation(dimensions: int, random: np.random.Generator) -> _Matrix:
    return np.asarray(np.linalg.qr(random.normal(size=(dimensions, dimensions)))[0])


def noisy_classes(
    images: int, dimensions: int, classes: int = 3, spread: float = 0.8, seed: int = 0, remoteness: float = 0.5
) -> Sample:
    """Return classes with normal noise of variance one about centres whose distance grows with ``spread``.

    Args:
        remoteness: how far the source classes are from the classes, in the unit of the features' length.
    """
    random = np.random.default_rng(seed)
    labels_N = random.permutation(np.arange(images) % classes)
    centres_CD = random.normal(size=(classes, dimensions)) * spread
    features_ND = random.normal(size=(images, dimensions)) + centres_CD[labels_N] + 0.5
    return sample_of(features_ND, labels_N, seed=seed, remoteness=remoteness)


def sample_of(features_ND: _Matrix, labels_N: NDArray[Any], *, seed: int = 0, remoteness: float = 0.5) -> Sample:
    """Return a sample of these features and labels; the other inputs are made to go with the features.

    They do not change, up to rounding, when the features are multiplied by a number or get columns of zeros.
    """
    features_ND, labels_N = np.asarray(features_ND), np.asarray(labels_N)
    images, dimensions = features_ND.shape
    largest = float(np.abs(features_ND.astype(np.float64)).max(initial=0.0)) or 1.0
    x_ND = features_ND.astype(np.float64) / largest
    length = math.sqrt(float((x_ND**2).sum()) / images) or 1.0
    x_ND = x_ND / length
    used_D = np.abs(x_ND).max(axis=0) > 0

    noise = np.random.default_rng([seed, 1])
    noise_NZ, noise_NR = noise.normal(size=(images, SOURCE_CLASSES)), noise.normal(size=(images, _REFERENCE_DIMENSIONS))
    # Drawn row after row, so that a further column leaves the maps of those before it as they are.
    map_DZ = np.random.default_rng([seed, 2]).normal(size=(dimensions, SOURCE_CLASSES))
    map_DR = np.random.default_rng([seed, 3]).normal(size=(dimensions, _REFERENCE_DIMENSIONS))
    map_PDS = np.random.default_rng([seed, 5]).normal(size=(dimensions, *_GRADIENTS)).transpose(1, 0, 2)
    noise_PNS = np.random.default_rng([seed, 6]).normal(size=(_GRADIENTS[0], images, _GRADIENTS[1]))
    away_DZ = np.random.default_rng([seed, 4]).normal(size=(dimensions, SOURCE_CLASSES)) * used_D[:, None]

    logits_NZ = 3 * x_ND @ map_DZ + 0.5 * noise_NZ
    weights_NZ = np.exp(logits_NZ - logits_NZ.max(axis=1, keepdims=True))
    compact_N = np.unique(labels_N, return_inverse=True)[1].reshape(-1)
    own_Z = np.arange(SOURCE_CLASSES) % (compact_N.max() + 1)
    own_ZD = np.array([x_ND[compact_N == label].mean(axis=0) for label in own_Z])
    away_ZD = away_DZ.T / math.sqrt(max(int(used_D.sum()), 1))
    return Sample(
        features_ND=features_ND,
        labels_N=labels_N,
        gradients_PNS=x_ND @ map_PDS + 0.3 * noise_PNS,
        probabilities_NZ=weights_NZ / weights_NZ.sum(axis=1, keepdims=True),
        reference_NR=x_ND @ map_DR + 0.3 * noise_NR,
        means_ZD=(own_ZD + remoteness * away_ZD) * length * largest,
    )
