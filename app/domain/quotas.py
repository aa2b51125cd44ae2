"""What a tenant may have at most, by the names that the REST interface uses."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Quotas:
    """How much of everything; None is no limit.

    Attributes:
        bytes: of uploaded archives, for as long as their data sets exist.
        datasets: data sets.
        open_selections: selections that have not ended.
        open_finetunes: fine-tunes that have not ended, besides those that prove a selection.
        worker_seconds_per_day: time that workers hold jobs of the tenant, from midnight to midnight in UTC.
    """

    bytes: int | None = None
    datasets: int | None = None
    open_selections: int | None = None
    open_finetunes: int | None = None
    worker_seconds_per_day: float | None = None


NAMES = tuple(field.name for field in fields(Quotas))
