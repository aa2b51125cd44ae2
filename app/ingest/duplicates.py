"""Equal pictures under several paths: counted once, or not at all where their labels differ."""

from collections import defaultdict
from collections.abc import Sequence

from app.domain.errors import DatasetRejected
from app.ingest.limits import Limits
from app.ingest.report import Outcome, Row, Warnings

_NAMED = 4  # paths of one group of equal pictures that a message names


def without_duplicates(rows: Sequence[Row], limits: Limits, warnings: Warnings) -> tuple[list[Row], list[Outcome]]:
    """Return the rows that count, in their order, and an outcome for each of the others.

    Pictures are equal when their stored pixels are. The first row of equal ones counts: by the order of the rows the
    copy in train rather than the one in test, which would make every held-out number too good. A picture in two
    classes has no label that could be trusted: none of its copies counts.

    Raises:
        DatasetRejected: ``label_conflict``, when more than ``limits.max_conflict_share`` of the images are in conflict.
    """
    copies: dict[bytes, list[Row]] = defaultdict(list)
    for row in rows:
        copies[row.pixels_sha256].append(row)
    conflicts = [group for group in copies.values() if len({row.class_name for row in group}) > 1]
    _check_conflicts(conflicts, len(rows), limits)

    outcomes = [_conflict(row, group) for group in conflicts for row in group]
    kept = []
    for group in copies.values():
        if len({row.class_name for row in group}) > 1:
            continue
        first, *others = group
        kept.append(first)
        for row in others:
            outcomes.append(Outcome(row.path, "excluded", "duplicate", f"the same picture as {first.path}"))
            if row.split != first.split:
                detail = "The same picture in two splits: the copy in the later split does not count."
                warnings.add("split_leak", detail, [row.path])
    return kept, outcomes


def _conflict(row: Row, group: list[Row]) -> Outcome:
    other = next(candidate for candidate in group if candidate.class_name != row.class_name)
    return Outcome(row.path, "excluded", "label_conflict", f"the same picture as {other.path}, in another class")


def _check_conflicts(conflicts: list[list[Row]], total: int, limits: Limits) -> None:
    paths = [row.path for group in conflicts for row in group]
    if len(paths) <= limits.max_conflict_share * total:
        return
    examples = "; ".join(_named(group) for group in conflicts[:3])
    raise DatasetRejected(
        "label_conflict",
        f"{len(paths)} of {total} images are in more than one class, and {limits.max_conflict_share:.0%} may be: "
        f"{examples}{' ...' if len(conflicts) > 3 else ''}.",
        param=paths[0],
        hint="Keep each picture in one class folder. A data set with several labels an image cannot be ranked.",
    )


def _named(group: list[Row]) -> str:
    named = " = ".join(row.path for row in group[:_NAMED])
    return named if len(group) <= _NAMED else f"{named} and {len(group) - _NAMED} more"
