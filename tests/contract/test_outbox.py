"""Events are written by the transaction that makes them happen: none is lost, doubled, or told of what was undone."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select, update

from app.domain.errors import DatasetRejected
from app.domain.finetuning import Recipe
from app.domain.webhooks import REVISION_SECONDS, Event
from app.storage import leases
from app.storage.database import Database, database_now
from app.storage.leases import DATASET, FINETUNE
from app.storage.repositories import deliveries, selections
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.selections import Selections
from app.storage.repositories.webhooks import Webhooks, disable
from app.storage.tables import Selection, now
from app.storage.webhook_tables import Webhook, WebhookDelivery
from tests.contract.racing import race
from tests.fixtures.rows import TENANT, add_dataset, add_ready_dataset, add_selection

SECRET = b"of the service"


def add_webhook(database: Database, *events: str, tenant: str = TENANT, url: str = "https://example.com/hook") -> str:
    with database.write() as session:
        webhooks = Webhooks(session, tenant, SECRET)
        return webhooks.create(name="hook", url=url, events=events or [*Event])[0].id


def told(database: Database, webhook_id: str) -> list[dict[str, Any]]:
    """Return what was written for a webhook, oldest first."""
    with database.read() as session:
        mine = select(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook_id)
        rows = session.scalars(mine.order_by(WebhookDelivery.created_at, WebhookDelivery.revision))
        return [json.loads(row.body) for row in rows]


def types(database: Database, webhook_id: str) -> list[str]:
    return [one["type"] for one in told(database, webhook_id)]


def settle(database: Database, selection_id: str, ranked: int, *, ended: bool = False) -> bool:
    with database.write() as session:
        ranking = {"verdict": f"Of {ranked}.", "models": {}}
        return selections.settle(session, selection_id, ranked=ranked, ranking=ranking, ended=ended)


def send(database: Database, webhook_id: str) -> WebhookDelivery | None:
    """Deliver what is due next, and return it."""
    with database.write() as session:
        claimed = deliveries.claim(session, webhook_id, seconds=60)
        if claimed is None:
            return None
        assert deliveries.note_success(session, claimed, {"at": "2026-01-01T00:00:00+00:00"})
        return session.get(WebhookDelivery, claimed.id)


def let_time_pass(database: Database, seconds: float = 2 * REVISION_SECONDS) -> None:
    with database.write() as session:
        session.execute(
            update(WebhookDelivery).values(
                next_attempt_at=WebhookDelivery.next_attempt_at - seconds,
                attempted_at=WebhookDelivery.attempted_at - seconds,
                lease_expires_at=WebhookDelivery.lease_expires_at - seconds,
            )
        )


class TestWhatIsTold:
    def test_a_data_set_that_is_ready(self, database: Database) -> None:
        webhook_id, dataset_id = add_webhook(database), add_dataset(database)
        with database.write() as session:
            lease = leases.claim(session, DATASET, dataset_id, holder="host/0", seconds=60)
            assert lease is not None
            leases.finish(session, lease, digest="d", report={})
        (one,) = told(database, webhook_id)
        assert one["type"] == "dataset.ready"
        assert one["timestamp"].endswith("Z")
        assert one["data"] == {
            "id": dataset_id,
            "object": "dataset",
            "status": "ready",
            "revision": 4,
            "name": "shoes",
            "error": None,
            "links": {"self": f"/v1/datasets/{dataset_id}"},
        }

    def test_a_data_set_that_was_rejected(self, database: Database) -> None:
        webhook_id, dataset_id = add_webhook(database), add_dataset(database)
        with database.write() as session:
            lease = leases.claim(session, DATASET, dataset_id, holder="host/0", seconds=60)
            assert lease is not None
            leases.fail(session, lease, DatasetRejected("no_classes", "There is no class folder."))
        (one,) = told(database, webhook_id)
        assert (one["type"], one["data"]["status"]) == ("dataset.rejected", "rejected")
        assert one["data"]["error"]["code"] == "no_classes"

    def test_a_data_set_that_is_tried_again_is_no_event(self, database: Database) -> None:
        webhook_id, dataset_id = add_webhook(database), add_dataset(database)
        for lost in range(4):
            with database.write() as session:
                assert leases.claim(session, DATASET, dataset_id, holder="host/0", seconds=-1) is not None
            with database.write() as session:
                assert leases.free_expired(session, DATASET) == [dataset_id]
            assert types(database, webhook_id) == ([] if lost < 3 else ["dataset.rejected"])

    @pytest.mark.parametrize("ending", ["done", "cancelled"])
    def test_a_fine_tune_that_has_ended(self, database: Database, ending: str) -> None:
        webhook_id, dataset_id = add_webhook(database, "finetune.completed"), add_ready_dataset(database)
        with database.write() as session:
            finetune_id = Finetunes(session, TENANT).create(dataset_id, ["mdl_a"], Recipe().as_dict()).id
        with database.write() as session:
            lease = leases.claim(session, FINETUNE, finetune_id, holder="host/0", seconds=60)
            assert lease is not None
            if ending == "done":
                leases.finish(session, lease, result={"models": []})
            else:
                Finetunes(session, TENANT).cancel(finetune_id)
        with database.write() as session:
            Finetunes(session, TENANT).cancel(finetune_id)  # it has ended: no second event
        (one,) = told(database, webhook_id)
        assert (one["type"], one["data"]["status"]) == ("finetune.completed", ending)
        assert one["data"]["dataset"] == dataset_id

    def test_a_selection_from_its_beginning_to_its_end(self, database: Database) -> None:
        webhook_id = add_webhook(database)
        selection_id, _ = add_selection(database, "alpha", "beta")
        with database.write() as session:
            selections.begin(session, selection_id)
            selections.begin(session, selection_id)
        assert settle(database, selection_id, 1)
        assert not settle(database, selection_id, 1), "this ranking is known"
        (one,) = told(database, webhook_id)
        assert (one["type"], one["data"]["verdict"]) == ("selection.revision", "Of 1.")
        assert settle(database, selection_id, 2, ended=True)
        (one,) = told(database, webhook_id)
        assert (one["type"], one["data"]["status"], one["data"]["verdict"]) == ("selection.completed", "done", "Of 2.")
        with database.read() as session:
            assert one["data"]["revision"] == Selections(session, TENANT).revision(selection_id)[0]

    def test_a_cancelled_selection_is_told_once(self, database: Database) -> None:
        webhook_id = add_webhook(database)
        selection_id, _ = add_selection(database, "alpha")
        for _ in range(2):
            with database.write() as session:
                Selections(session, TENANT).cancel(selection_id)
        (one,) = told(database, webhook_id)
        assert (one["type"], one["data"]["status"]) == ("selection.completed", "cancelled")

    def test_nobody_hears_what_was_rolled_back(self, database: Database) -> None:
        webhook_id = add_webhook(database)
        selection_id, _ = add_selection(database, "alpha")

        def undone() -> None:
            with database.write() as session:
                Selections(session, TENANT).cancel(selection_id)
                raise InterruptedError

        with pytest.raises(InterruptedError):
            undone()
        assert told(database, webhook_id) == []

    def test_only_those_of_the_tenant_hear_and_only_what_they_want(self, database: Database) -> None:
        wanting = [add_webhook(database), add_webhook(database, "selection.completed")]
        others = [add_webhook(database, "dataset.ready"), add_webhook(database, tenant="rival")]
        disabled = add_webhook(database)
        with database.write() as session:
            Webhooks(session, TENANT, SECRET).change(disabled, state="disabled")
        selection_id, _ = add_selection(database, "alpha")
        settle(database, selection_id, 1, ended=True)
        assert [types(database, one) for one in wanting] == [["selection.completed"]] * 2
        assert [types(database, one) for one in [*others, disabled]] == [[]] * 3

    def test_many_who_settle_at_once_tell_it_once(self, database: Database) -> None:
        webhook_id = add_webhook(database, "selection.completed")
        selection_id, _ = add_selection(database, "alpha")
        news = race(*[lambda: settle(database, selection_id, 1, ended=True)] * 6)
        assert sorted(news) == [False] * 5 + [True]
        assert types(database, webhook_id) == ["selection.completed"]


class TestRevisions:
    def selection(self, database: Database) -> tuple[str, str]:
        webhook_id = add_webhook(database)
        return webhook_id, add_selection(database, *"abcdefgh")[0]

    def verdicts(self, database: Database, webhook_id: str) -> list[str]:
        return [one["data"]["verdict"] for one in told(database, webhook_id)]

    def test_of_those_that_wait_only_the_newest_is_told(self, database: Database) -> None:
        webhook_id, selection_id = self.selection(database)
        for ranked in (1, 2, 3):
            settle(database, selection_id, ranked)
        assert self.verdicts(database, webhook_id) == ["Of 3."]

    def test_one_in_five_seconds_is_told(self, database: Database) -> None:
        webhook_id, selection_id = self.selection(database)
        settle(database, selection_id, 1)
        assert send(database, webhook_id) is not None, "the first one at once"
        settle(database, selection_id, 2)
        assert send(database, webhook_id) is None
        with database.read() as session:
            mine = select(WebhookDelivery.next_attempt_at - database_now()).where(WebhookDelivery.state == "pending")
            assert REVISION_SECONDS - 3 < session.scalars(mine).one() <= REVISION_SECONDS
        settle(database, selection_id, 3)
        let_time_pass(database)
        sent = send(database, webhook_id)
        assert sent is not None
        assert json.loads(sent.body)["data"]["verdict"] == "Of 3."
        assert send(database, webhook_id) is None

    def test_the_end_is_told_at_once_and_in_place_of_what_waits(self, database: Database) -> None:
        webhook_id, selection_id = self.selection(database)
        settle(database, selection_id, 1)
        send(database, webhook_id)
        settle(database, selection_id, 2)
        settle(database, selection_id, 8, ended=True)
        sent = send(database, webhook_id)
        assert sent is not None
        assert sent.type == "selection.completed"
        assert self.verdicts(database, webhook_id) == ["Of 1.", "Of 8."]

    def test_nothing_overtakes_what_is_on_its_way(self, database: Database) -> None:
        webhook_id, selection_id = self.selection(database)
        settle(database, selection_id, 1)
        with database.write() as session:
            first = deliveries.claim(session, webhook_id, seconds=60)
        assert first is not None
        settle(database, selection_id, 8, ended=True)
        assert send(database, webhook_id) is None
        with database.write() as session:
            deliveries.note_success(session, first, {})
        sent = send(database, webhook_id)
        assert sent is not None
        assert sent.revision > first.revision

    def test_what_did_not_arrive_is_not_told_once_there_is_something_newer(self, database: Database) -> None:
        webhook_id, selection_id = self.selection(database)
        settle(database, selection_id, 1)
        with database.write() as session:
            first = deliveries.claim(session, webhook_id, seconds=60)
        assert first is not None
        settle(database, selection_id, 2)
        with database.write() as session:
            state = deliveries.note_failure(session, first, {}, retry_after=None, is_gone=False, patience_days=5)
        assert state == "superseded"
        let_time_pass(database)
        sent = send(database, webhook_id)
        assert sent is not None
        assert json.loads(sent.body)["data"]["verdict"] == "Of 2."

    def test_what_waits_for_another_attempt_gives_way_to_what_is_newer(self, database: Database) -> None:
        webhook_id, selection_id = self.selection(database)
        settle(database, selection_id, 1)
        with database.write() as session:
            first = deliveries.claim(session, webhook_id, seconds=60)
            assert first is not None
            state = deliveries.note_failure(session, first, {}, retry_after=9999, is_gone=False, patience_days=5)
        assert state == "pending"
        settle(database, selection_id, 8, ended=True)
        sent = send(database, webhook_id)
        assert sent is not None
        assert sent.type == "selection.completed"
        with database.read() as session:
            assert session.get_one(WebhookDelivery, first.id).state == "superseded"

    def test_revisions_of_two_selections_do_not_wait_for_each_other(self, database: Database) -> None:
        webhook_id, selection_id = self.selection(database)
        other_id = add_selection(database, "other")[0]
        settle(database, selection_id, 1)
        settle(database, other_id, 1)
        assert {one["data"]["id"] for one in told(database, webhook_id)} == {selection_id, other_id}
        with database.write() as session:
            claimed = [deliveries.claim(session, webhook_id, seconds=60) for _ in range(3)]
        assert {one.subject for one in claimed if one} == {selection_id, other_id}

    def test_revisions_arrive_in_order_whatever_happens_at_once(self, database: Database) -> None:
        """Rankings are settled while two senders take turns, of which one loses half of what it takes."""
        webhook_id, selection_id = self.selection(database)
        arrived: list[int] = []

        def settling() -> None:
            for ranked in range(1, 8):
                settle(database, selection_id, ranked)
                let_time_pass(database)

        def sending() -> None:
            for turn in range(20):
                with database.write() as session:
                    claimed = deliveries.claim(session, webhook_id, seconds=60)
                if claimed is None:
                    let_time_pass(database)
                    continue
                arrived.append(claimed.revision)
                with database.write() as session:
                    if turn % 2:
                        deliveries.note_success(session, claimed, {})
                    else:
                        deliveries.note_failure(session, claimed, {}, retry_after=None, is_gone=False, patience_days=5)

        race(settling, sending, sending)
        settle(database, selection_id, 8, ended=True)
        while True:
            let_time_pass(database, 1e6)
            sent = send(database, webhook_id)
            if sent is None:
                break
            arrived.append(sent.revision)
        with database.read() as session:
            last = session.get_one(Selection, selection_id).revision
        assert arrived[-1] == last
        assert is_sorted(arrived), arrived


def is_sorted(numbers: Sequence[int]) -> bool:
    return list(numbers) == sorted(numbers)


class TestBacklog:
    def test_what_is_still_to_be_sent_is_counted(self, database: Database) -> None:
        with database.read() as session:
            none = deliveries.backlog(session)
        assert (none.waiting, none.oldest, none.late_seconds) == (0, None, 0.0)
        assert none.webhooks == {"active": 0, "failing": 0, "disabled": 0}
        webhook_id = add_webhook(database, "selection.completed")
        other_id = add_webhook(database, "selection.completed")
        for name in ("alpha", "beta"):
            settle(database, add_selection(database, name)[0], 1, ended=True)
        let_time_pass(database, 100)
        assert send(database, webhook_id)
        with database.read() as session:
            found = deliveries.backlog(session)
        assert found.waiting == 3
        assert found.oldest is not None
        assert 0 <= (now() - found.oldest).total_seconds() < 60
        assert 100 <= found.late_seconds < 160
        assert found.webhooks == {"active": 2, "failing": 0, "disabled": 0}

        for _ in range(2):
            with database.write() as session:
                claimed = deliveries.claim(session, other_id, seconds=60)
                assert claimed is not None
                deliveries.note_failure(session, claimed, {}, retry_after=900, is_gone=False, patience_days=5)
        assert send(database, webhook_id)
        with database.read() as session:
            found = deliveries.backlog(session)
        assert (found.waiting, found.late_seconds) == (2, 0.0), "what pauses is not late"
        assert found.webhooks == {"active": 1, "failing": 1, "disabled": 0}

        with database.write() as session:
            disable(session, session.get_one(Webhook, other_id), "The receiver answered 410 Gone.")
        with database.read() as session:
            found = deliveries.backlog(session)
        assert (found.waiting, found.webhooks) == (0, {"active": 1, "failing": 0, "disabled": 1})
