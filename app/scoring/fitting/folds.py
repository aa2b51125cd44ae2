"""Which images are predicted together, by models that have not seen them.

Legend: N images, C classes.
"""

import numpy as np
from numpy.typing import NDArray

NEVER_HELD_OUT = -1
_SEED = 0


def stratified_folds(labels_N: NDArray[np.intp], folds: int) -> NDArray[np.intp]:
    """Return the fold of every image, 0..folds-1, or ``NEVER_HELD_OUT`` for the only image of a class.

    Images are laid out class by class, shuffled within their class, and dealt round robin, so that fold sizes, overall
    and within a class, differ by at most one, and two images of a small class never share a fold: every training set
    keeps all classes. Unshuffled, classes that list the same objects in the same order would have them held out
    together. Classes come in the order of their first image: names and numbers of classes have no influence, and
    neither does the way classes are interleaved.
    """
    classes_C, first_C, compact_N, counts_C = np.unique(
        labels_N, return_index=True, return_inverse=True, return_counts=True
    )
    order_of_class_C = np.empty(len(classes_C), dtype=np.intp)
    order_of_class_C[np.argsort(first_C)] = np.arange(len(classes_C))
    by_class_N = np.argsort(order_of_class_C[compact_N], kind="stable")
    images_of_class = np.split(by_class_N, np.cumsum(counts_C[np.argsort(first_C)])[:-1])
    random = np.random.default_rng(_SEED)
    shuffled_N = np.concatenate([random.permutation(images_I) for images_I in images_of_class])
    dealt_N = shuffled_N[counts_C[compact_N[shuffled_N]] > 1]
    folds_N = np.full(len(labels_N), NEVER_HELD_OUT, dtype=np.intp)
    folds_N[dealt_N] = np.arange(len(dealt_N)) % folds
    return folds_N
