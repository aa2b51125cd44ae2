"""Selections: ask, watch, read the ranking."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from app.client.connection import Connection, may_pass, segment
from app.client.errors import ApiError, ServiceUnreachable
from app.client.events import read_events
from app.client.jobs import every, wait_for
from app.client.numbers import check_finite
from app.client.resources import Explanation, Forecast, Results, Selection

_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.5


class Selections:
    """The selections of the key's tenant."""

    def __init__(self, connection: Connection) -> None:
        """Work over a connection."""
        self._connection = connection

    def create(
        self,
        dataset_id: str,
        *,
        models: Sequence[str] | None = None,
        zoo: str | None = None,
        constraints: Mapping[str, Any] | None = None,
        watch: bool = False,
        scores: Sequence[str] | None = None,
        race: bool | Mapping[str, float] = False,
        budget_seconds: float | None = None,
        target: bool | Mapping[str, Any] = False,
        hardware: Mapping[str, Any] | None = None,
        verify: bool | Mapping[str, Any] = False,
        name: str | None = None,
        retention_days: float | None = None,
    ) -> Selection:
        """Ask for a ranking of models on a data set that is ready.

        Args:
            dataset_id: the data set.
            models: ids or names of active models; by default every active one.
            zoo: only members of this named part of the zoo.
            constraints: that every model satisfies: ``max_parameters``, ``max_gflops``, ``max_memory_bytes``,
                ``licenses``, ``families``, ``pretrained_on``, ``capabilities``, ``tags``.
            watch: rank models that join the zoo later, too, by selections that follow this one.
            scores: scores to compute; by default a dozen of every kind. The order is by the linear probe in any case.
            race: look at growing subsets of the images, and drop models that surely cannot be among the first any
                more: ``keep`` (3), how many of the first, and ``error_probability`` (0.05), of dropping one of those.
            budget_seconds: of worker time; the ranking is then of what was known when it was spent.
            target: forecast fine-tuning for every model: ``kind``, ``value``, ``recipe`` of the training
                whose time is asked for; True takes the defaults.
            hardware: whose seconds and costs are forecast: ``name``, ``speed`` (1) against the worker's device,
                ``price_per_hour``.
            verify: fine-tune the first models for real once all are ranked: ``k`` (3), how many, ``budget_seconds`` and
                ``recipe``; True takes the defaults.
            name: for people; by default the data set's.
            retention_days: after how many days it is deleted; by default as the service is set up to.

        Raises:
            ApiError: such as ``dataset_not_ready``, ``no_model_satisfies_constraints``, ``unknown_model``.
            Failure: ``invalid_number``: a number of the constraints, the race, the budget, the target or the proof is
                not finite.
        """
        rules = {} if isinstance(race, bool) else dict(race)
        numbers = {"race": rules, "budget_seconds": budget_seconds, "target": target, "verify": verify}
        check_finite(numbers | {"hardware": hardware, "constraints": constraints, "retention_days": retention_days})
        asked = {
            "dataset": dataset_id,
            "models": list(models) if models else None,
            "zoo": zoo,
            "constraints": dict(constraints) if constraints else None,
            "watch": watch or None,
            "scores": list(scores) if scores else None,
            "race": None if race is False else rules,
            "budget": {"worker_seconds": budget_seconds} if budget_seconds is not None else None,
            "target": None if target is False else {} if target is True else dict(target),
            "hardware": dict(hardware) if hardware else None,
            "verify": None if verify is False else {} if verify is True else dict(verify),
            "name": name,
            "retention_days": retention_days,
        }
        response = self._connection.send(
            "POST",
            "/v1/selections",
            headers={"Idempotency-Key": uuid.uuid4().hex},
            repeatable=True,
            json={field: value for field, value in asked.items() if value is not None},
        )
        return self._connection.read(response, Selection)

    def get(self, selection_id: str) -> Selection:
        """Return one selection."""
        return self._connection.get(f"/v1/selections/{segment(selection_id)}", Selection)

    def list(self) -> Iterator[Selection]:
        """Yield every selection, newest first."""
        return every(self._connection, "/v1/selections", Selection)

    def wait(
        self, selection_id: str, *, timeout: float | None = None, on_change: Callable[[Selection], None] | None = None
    ) -> Selection:
        """Return a selection once it is done or cancelled; ``on_change`` sees it whenever something changed.

        Raises:
            JobFailed: no model could be ranked.
            WaitTimedOut: it has not ended within ``timeout`` seconds.
        """
        return wait_for(
            self._connection,
            f"/v1/selections/{segment(selection_id)}",
            Selection,
            timeout=timeout,
            on_change=on_change,
        )

    def watch(self, selection_id: str) -> Iterator[Selection]:
        """Yield a selection now and whenever its revision has grown, until it has ended.

        A connection that breaks off is opened anew after the last event seen, for up to a minute.

        Raises:
            ApiError: there is no such selection.
            ServiceUnreachable: the service stayed away for more than a minute.
        """
        last_id: str | None = None
        away_since: float | None = None
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
            try:
                with self._connection.stream(f"/v1/selections/{segment(selection_id)}/events", headers) as chunks:
                    away_since = None
                    for event in read_events(chunks):
                        last_id = event.id
                        yield Selection.model_validate_json(event.data)
                        if event.name == "end":
                            return
            except (ServiceUnreachable, ApiError) as error:
                away_since = away_since or time.monotonic()
                if not may_pass(error) or time.monotonic() - away_since > _PATIENCE_SECONDS:
                    raise
            time.sleep(_PAUSE_SECONDS)

    def results(self, selection_id: str, *, sort: str | None = None, max_seconds: float | None = None) -> Results:
        """Return the ranking as far as it has come.

        Args:
            selection_id: the selection.
            sort: ``seconds`` for the order of the forecast times in place of the ranks.
            max_seconds: only models that are forecast to reach the target within this time.
        """
        path = f"/v1/selections/{segment(selection_id)}/results"
        return self._connection.get(path, Results, sort=sort, max_seconds=max_seconds)

    def explain(self, selection_id: str, model: str, *, against: str | None = None) -> Explanation:
        """Return why a model stands where it stands, compared with another one.

        Args:
            selection_id: the selection.
            model: id or name of a ranked model.
            against: id or name of the other one; by default the next in rank.
        """
        path = f"/v1/selections/{segment(selection_id)}/models/{segment(model)}/explain"
        response = self._connection.send("GET", path, params={"against": against} if against else None)
        return self._connection.read(response, Explanation)

    def forecast(self, selection_id: str, model: str, **changes: float | str) -> Forecast:
        """Return how long a model's fine-tuning takes; ``changes`` ask what if.

        Args:
            selection_id: a selection with a target.
            model: id or name of a model that was measured.
            changes: of the selection's target: ``lr``, ``batch``, ``epochs``, ``momentum``, ``weight_decay``,
                ``schedule``, ``loss``, ``target``, ``kind``, ``speed``, ``price_per_hour``,
                ``method``.
        """
        path = f"/v1/selections/{segment(selection_id)}/models/{segment(model)}/forecast"
        return self._connection.read(self._connection.send("GET", path, params=changes or None), Forecast)

    def results_csv(self, selection_id: str) -> str:
        """Return the ranking as CSV."""
        path = f"/v1/selections/{segment(selection_id)}/results"
        return self._connection.send("GET", path, params={"format": "csv"}, headers={"Accept": "text/csv"}).text

    def cancel(self, selection_id: str) -> Selection:
        """End a selection; what was ranked stays readable."""
        response = self._connection.send("POST", f"/v1/selections/{segment(selection_id)}/cancel", repeatable=True)
        return self._connection.read(response, Selection)
