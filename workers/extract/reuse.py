"""Features of a subset of a data set's images: those that are kept are taken, and the network runs on the rest.

Legend: N images of an extraction, E images that are asked for, P images before them, D features, Z source classes.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from workers.extract.features import Extraction, extract
from workers.feature_cache import CacheKey, load_extraction, store_extraction
from workers.subject import Subject


def features_of(subject: Subject, earlier: tuple[CacheKey, ...]) -> Extraction:
    """Return the features of the evaluated images, and keep them.

    Args:
        subject: the model and the data set.
        earlier: keys of subsets of these images, the smallest first. Once the larger one is kept, the last of them is
            deleted.

    Raises:
        Interrupted: the worker is to stop.
        EvaluationFailed: as ``extract`` says.
    """
    runtime, key, held = subject.runtime, subject.key, subject.held
    kept = load_extraction(runtime.objects, key)
    if kept is not None:
        return kept
    everything = dataclasses.replace(key, max_images=runtime.settings.max_images)
    whole = load_extraction(runtime.objects, everything) if everything != key else None
    rows_E = subject.evaluated.rows_E
    if whole is not None:
        all_rows_N = subject.chosen(everything.max_images).rows_E
        return _part(whole, np.searchsorted(all_rows_N, rows_E))
    before = load_extraction(runtime.objects, earlier[-1]) if earlier else None
    known_P = subject.chosen(earlier[-1].max_images).rows_E if before else np.empty(0, np.intp)
    new_rows = np.setdiff1d(rows_E, known_P).tolist()
    held.report("loading", len(known_P), len(rows_E))
    extraction = extract(
        subject.network,
        subject.decoded(new_rows),
        batch_size=runtime.settings.batch_size,
        on_progress=lambda done: held.report("extracting", len(known_P) + done, len(rows_E)),
        should_stop=held.should_stop,
    )
    subject.ran.add("features")
    if before is not None:
        extraction = _merged(before, extraction, np.searchsorted(rows_E, known_P), len(rows_E))
    store_extraction(runtime.objects, key, extraction)
    if before is not None:
        runtime.objects.delete(earlier[-1].extraction)
    return extraction


def _part(whole: Extraction, places_E: NDArray[np.intp]) -> Extraction:
    logits_NZ = whole.logits_NZ
    return Extraction(
        features_ND=whole.features_ND[places_E],
        logits_NZ=None if logits_NZ is None else logits_NZ[places_E],
        seconds=whole.seconds,
        batch_size=whole.batch_size,
    )


def _merged(before: Extraction, new: Extraction, places_P: NDArray[np.intp], images: int) -> Extraction:
    """Return both extractions as one, ``before`` at its places among all images; seconds add up."""
    is_known_E = np.zeros(images, dtype=bool)
    is_known_E[places_P] = True

    def together(known_PD: NDArray[np.float32], new_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        both_ED = np.empty((images, known_PD.shape[1]), known_PD.dtype)
        both_ED[is_known_E], both_ED[~is_known_E] = known_PD, new_ND
        return both_ED

    has_head = before.logits_NZ is not None and new.logits_NZ is not None
    return Extraction(
        features_ND=together(before.features_ND, new.features_ND),
        logits_NZ=together(before.logits_NZ, new.logits_NZ) if has_head else None,  # type: ignore[arg-type]
        seconds={name: seconds + before.seconds.get(name, 0.0) for name, seconds in new.seconds.items()},
        batch_size=new.batch_size,
    )
