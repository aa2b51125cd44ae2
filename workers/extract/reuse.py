"""Features of a subset of a data set's images: those that are kept are taken, and the network runs on the rest.

Features of different precisions never come together: they are kept under different names, and what is wanted in a
reduced precision is made of float32 features where these are kept, or where the network fails the precision's check.

Legend: N images of an extraction, E images that are asked for, P images before them, D features, Z source classes.
"""

import dataclasses

import numpy as np
import structlog
from numpy.typing import NDArray

from app.domain.errors import EvaluationFailed
from workers.extract.features import Extraction, extract
from workers.extract.precision import PrecisionCheck
from workers.extract.precision_check import CHECKED_IMAGES, check_precision
from workers.feature_cache import CacheKey, load_extraction, store_extraction
from workers.metrics import STAGE_SECONDS, look_up
from workers.subject import Subject

log = structlog.get_logger()


def features_of(subject: Subject, earlier: tuple[CacheKey, ...]) -> Extraction:
    """Return the features of the evaluated images, and keep them; settle the subject on their precision.

    Args:
        subject: the model and the data set.
        earlier: keys of subsets of these images, the smallest first, the last of them in the subject's precision. Once
            the larger one is kept, that is deleted.

    Raises:
        Interrupted: the worker is to stop.
        EvaluationFailed: as ``extract`` says.
    """
    objects = subject.runtime.objects
    kept = _kept(subject)
    look_up("features", hit=kept is not None)
    if kept is not None:
        return kept
    before = load_extraction(objects, earlier[-1]) if earlier else None
    check = _check(subject) if before is None else before.check
    if check is not None:
        subject.settle(check.used)
    try:
        extraction = _computed(subject, before, earlier)
    except EvaluationFailed as error:
        if check is None or check.used == "float32" or error.code != "non_finite_features":
            raise
        check = dataclasses.replace(check, used="float32", reason=f"in {check.used}, {error.message}")
        log.warning("features.overflow", model=subject.spec.name, reason=check.reason)
        subject.settle("float32")
        extraction = _computed(subject, None, ())
    extraction = dataclasses.replace(extraction, check=check)
    subject.ran.add("features")
    store_extraction(objects, subject.key, extraction)
    if before is not None:
        objects.delete(earlier[-1].extraction)
    return extraction


def _kept(subject: Subject) -> Extraction | None:
    """Return features of these images, or these of features of more images, that are kept."""
    objects, most = subject.runtime.objects, subject.runtime.settings.max_images
    for key in subject.key.alternatives:
        everything = dataclasses.replace(key, max_images=most)
        kept = load_extraction(objects, key)
        if kept is None and everything != key:
            whole = load_extraction(objects, everything)
            if whole is not None:
                all_rows_N = subject.chosen(most).rows_E
                kept = _part(whole, np.searchsorted(all_rows_N, subject.evaluated.rows_E))
        if kept is not None:
            subject.settle(key.precision)
            return kept
    return None


def _check(subject: Subject) -> PrecisionCheck | None:
    """Return how the model does in the wanted precision on images from all over the data set; None for float32."""
    wanted = subject.key.precision
    if wanted == "float32":
        return None
    rows_E = subject.evaluated.rows_E
    places = np.unique(np.linspace(0, len(rows_E) - 1, min(CHECKED_IMAGES, len(rows_E))).astype(np.intp))
    subject.held.report("loading", 0, len(rows_E))
    check = check_precision(
        subject.network,
        list(subject.files(rows_E[places].tolist())),
        wanted,
        part_sizes=subject.part_size,
        should_stop=subject.held.should_stop,
    )
    log.info("features.precision_checked", model=subject.spec.name, **check.as_dict())
    return check


def _computed(subject: Subject, before: Extraction | None, earlier: tuple[CacheKey, ...]) -> Extraction:
    """Run the network on the images whose features are not in ``before``, which is that of the last earlier key."""
    runtime, held, precision = subject.runtime, subject.held, subject.key.precision
    rows_E = subject.evaluated.rows_E
    known_P = subject.chosen(earlier[-1].max_images).rows_E if before is not None else np.empty(0, np.intp)
    held.report("loading", len(known_P), len(rows_E))
    network = subject.network
    with runtime.stage("features"):
        extraction = extract(
            network,
            subject.files(np.setdiff1d(rows_E, known_P).tolist()),
            batch_size=runtime.settings.batch_size,
            precision=precision,
            part_size=subject.part_size(precision),
            decode_threads=runtime.decode_threads,
            on_progress=runtime.counting(lambda done: held.report("extracting", len(known_P) + done, len(rows_E))),
            should_stop=held.should_stop,
        )
    STAGE_SECONDS.labels("decode", runtime.device_name).observe(extraction.seconds["decode"])
    if before is None:
        return extraction
    return _merged(before, extraction, np.searchsorted(rows_E, known_P), len(rows_E))


def _part(whole: Extraction, places_E: NDArray[np.intp]) -> Extraction:
    logits_NZ = whole.logits_NZ
    return dataclasses.replace(
        whole,
        features_ND=whole.features_ND[places_E],
        logits_NZ=None if logits_NZ is None else logits_NZ[places_E],
    )


def _merged(before: Extraction, new: Extraction, places_P: NDArray[np.intp], images: int) -> Extraction:
    """Return both extractions as one, ``before`` at its places among all images; seconds add up."""
    assert before.precision == new.precision
    is_known_E = np.zeros(images, dtype=bool)
    is_known_E[places_P] = True

    def together(known_PD: NDArray[np.float32], new_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        both_ED = np.empty((images, known_PD.shape[1]), known_PD.dtype)
        both_ED[is_known_E], both_ED[~is_known_E] = known_PD, new_ND
        return both_ED

    has_head = before.logits_NZ is not None and new.logits_NZ is not None
    return dataclasses.replace(
        new,
        features_ND=together(before.features_ND, new.features_ND),
        logits_NZ=together(before.logits_NZ, new.logits_NZ) if has_head else None,  # type: ignore[arg-type]
        seconds={name: seconds + before.seconds.get(name, 0.0) for name, seconds in new.seconds.items()},
    )
