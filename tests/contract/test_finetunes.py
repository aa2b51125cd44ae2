"""What the repository of fine-tunes promises, on both databases."""

import threading

import pytest

from app.domain.errors import Conflict, EvaluationFailed, NotFound
from app.domain.finetuning import Recipe
from app.domain.states import FinetuneState, SelectionState
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import FINETUNE, Lease, LeaseLost
from app.storage.repositories import selections
from app.storage.repositories.datasets import Datasets, deleted_among
from app.storage.repositories.finetunes import Finetunes, ProofProgress, charge, proof_of, proofs_of
from app.storage.repositories.selections import Selections, evaluations_of, settle
from app.storage.tables import Finetune
from tests.contract.racing import race
from tests.contract.selection_steps import cancel, end, read, waiting
from tests.fixtures.rows import TENANT, add_ready_dataset, add_selection

RECIPE = Recipe().as_dict()


def create(database: Database, dataset_id: str, *, tenant: str = TENANT, selection_id: str | None = None) -> str:
    with database.write() as session:
        return Finetunes(session, tenant).create(dataset_id, ["mdl_a"], RECIPE, selection_id=selection_id).id


def get(database: Database, finetune_id: str, tenant: str = TENANT) -> Finetune:
    with database.read() as session:
        return Finetunes(session, tenant).get(finetune_id)


def claim(database: Database, finetune_id: str) -> Lease:
    with database.write() as session:
        lease = leases.claim(session, FINETUNE, finetune_id, holder="host/0", seconds=60)
    assert lease is not None
    return lease


class TestFinetunes:
    def test_it_starts_queued_and_is_called_like_its_data_set(self, database: Database) -> None:
        row = get(database, create(database, add_ready_dataset(database)))
        assert (row.state, row.name, row.model_ids, row.recipe) == (FinetuneState.QUEUED, "shoes", ["mdl_a"], RECIPE)
        assert (row.revision, row.spent_seconds, row.budget_seconds, row.result) == (1, 0.0, None, None)

    def test_nothing_of_another_tenant_can_be_seen_or_touched(self, database: Database) -> None:
        finetune_id = create(database, add_ready_dataset(database))
        with database.write() as session:
            stranger = Finetunes(session, "stranger")
            for touch in (stranger.get, stranger.revision, stranger.cancel):
                with pytest.raises(NotFound) as refused:
                    touch(finetune_id)
                assert refused.value.code == "finetune_not_found"
            assert stranger.page(limit=10, cursor=None).rows == []
        assert get(database, finetune_id).state == FinetuneState.QUEUED

    def test_a_data_set_in_use_is_not_deleted(self, database: Database) -> None:
        dataset_id = add_ready_dataset(database)
        finetune_id = create(database, dataset_id)
        with database.write() as session, pytest.raises(Conflict) as refused:
            Datasets(session, TENANT).delete(dataset_id)
        assert refused.value.code == "dataset_in_use"
        assert finetune_id in refused.value.message
        with database.write() as session:
            Finetunes(session, TENANT).cancel(finetune_id)
        with database.write() as session:
            Datasets(session, TENANT).delete(dataset_id)
        with pytest.raises(NotFound):
            create(database, dataset_id)

    def test_the_end_of_a_data_set_is_news_of_its_fine_tunes(self, database: Database) -> None:
        gone, kept = add_ready_dataset(database), add_ready_dataset(database, content="b")
        ids = [create(database, dataset_id) for dataset_id in (gone, kept)]
        with database.write() as session:
            revisions = [Finetunes(session, TENANT).cancel(finetune_id).revision for finetune_id in ids]
        with database.write() as session:
            assert deleted_among(session, [gone, kept]) == set()
            Datasets(session, TENANT).delete(gone)
        assert [get(database, one).revision for one in ids] == [revisions[0] + 1, revisions[1]]
        with database.read() as session:
            assert deleted_among(session, [gone, kept, "ds_nothing"]) == {gone}
            assert deleted_among(session, []) == set()

    def test_what_is_noted_on_the_way_stays_when_the_worker_is_lost(self, database: Database) -> None:
        finetune_id = create(database, add_ready_dataset(database))
        lease = claim(database, finetune_id)
        with database.write() as session:
            leases.note(session, lease, result={"models": [1]})
        with database.write() as session:
            assert leases.free_of_holder(session, FINETUNE, "host/0") == [finetune_id]
        row = get(database, finetune_id)
        assert (row.state, row.result) == (FinetuneState.QUEUED, {"models": [1]})
        with database.write() as session, pytest.raises(LeaseLost):
            leases.note(session, lease, result={"models": [2]})
        assert get(database, finetune_id).result == {"models": [1]}

    def test_worker_time_is_charged_whatever_becomes_of_it(self, database: Database) -> None:
        finetune_id = create(database, add_ready_dataset(database))
        claim(database, finetune_id)
        revision = get(database, finetune_id).revision
        with database.write() as session:
            assert charge(session, finetune_id, 2.5) is None
        with database.write() as session:
            Finetunes(session, TENANT).cancel(finetune_id)
        with database.write() as session:
            charge(session, finetune_id, 1.5)
        row = get(database, finetune_id)
        assert (row.spent_seconds, row.revision) == (4.0, revision + 3)
        with database.write() as session:
            assert charge(session, "ft_nothing", 1.0) is None

    def test_a_cancelled_one_cannot_be_finished(self, database: Database) -> None:
        finetune_id = create(database, add_ready_dataset(database))
        lease = claim(database, finetune_id)
        with database.write() as session:
            assert Finetunes(session, TENANT).cancel(finetune_id).state == FinetuneState.CANCELLED
        with database.write() as session, pytest.raises(LeaseLost):
            leases.finish(session, lease, result={})
        with database.write() as session:
            revision = Finetunes(session, TENANT).cancel(finetune_id).revision
        assert get(database, finetune_id).revision == revision
        with database.read() as session:
            assert Finetunes(session, TENANT).revision(finetune_id) == (revision, True)

    def test_one_that_ended_is_not_cancelled(self, database: Database) -> None:
        finetune_id = create(database, add_ready_dataset(database))
        with database.write() as session:
            leases.fail(
                session, claim_in(session, finetune_id), EvaluationFailed("budget_too_small", "no", hint="more")
            )
        with database.write() as session:
            row = Finetunes(session, TENANT).cancel(finetune_id)
        assert (row.state, (row.error or {})["code"]) == (FinetuneState.FAILED, "budget_too_small")


class TestProofs:
    def test_a_selection_waits_for_its_proof_and_is_settled_once_more(self, database: Database) -> None:
        selection_id, (evaluation_id,) = add_selection(database, "one")
        end(database, evaluation_id)
        assert waiting(database) == [selection_id]
        finetune_id = create(database, read(database, selection_id).dataset_id, selection_id=selection_id)
        assert rank_only(database, selection_id, ended=False)
        assert waiting(database) == [], "ranked, and its proof is not there yet"
        lease = claim(database, finetune_id)
        with database.write() as session:
            leases.finish(session, lease, result={"models": []})
        assert waiting(database) == [selection_id]
        assert rank_only(database, selection_id, ranked=2, ended=True)
        assert read(database, selection_id).state == SelectionState.DONE
        assert waiting(database) == []

    def test_how_far_proofs_are(self, database: Database) -> None:
        proven, _ = add_selection(database, "one")
        with database.write() as session:
            dataset_id = Selections(session, TENANT).get(proven).dataset_id
            models = [model.id for _, model in evaluations_of(session, proven)]
            asked = Finetunes(session, TENANT).create(dataset_id, [*models, "mdl_b"], RECIPE, selection_id=proven)
            finetune_id = asked.id
        create(database, dataset_id)
        assert proof(database, proven) == ProofProgress(finetune_id, "queued", 1, None, asked=2, ended=0)
        lease = claim(database, finetune_id)
        with database.write() as session:
            leases.note(session, lease, result={"device": "cpu"})
            leases.note(session, lease, result={"models": [{"curve": [1, 2, 3]}]})
            leases.renew(session, lease, seconds=60, progress={"stage": "training", "done": 1, "total": 2})
        found = proof(database, proven)
        assert (found.state, found.ended, found.revision) == ("running", 1, 5)
        assert found.progress == {"stage": "training", "done": 1, "total": 2}
        with database.read() as session:
            assert proofs_of(session, []) == proofs_of(session, ["sel_nothing"]) == {}

    def test_their_changes_are_changes_of_an_open_selection(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one")
        finetune_id = create(database, read(database, selection_id).dataset_id, selection_id=selection_id)
        seen = [revision(database, selection_id)]
        for _ in range(4):
            with database.write() as session:
                charge(session, finetune_id, 1.0)
            seen.append(revision(database, selection_id))
        assert seen == [seen[0] + changes for changes in range(5)]
        assert rank_only(database, selection_id, ended=True)
        assert revision(database, selection_id) == seen[-1] + 1, "also at its end it only grows"
        with database.write() as session:
            charge(session, finetune_id, 1.0)
        assert revision(database, selection_id) == seen[-1] + 1, "nothing is news of a selection that has ended"

    def test_revisions_only_grow_while_a_proof_is_charged_and_its_selection_ends(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one")
        finetune_id = create(database, read(database, selection_id).dataset_id, selection_id=selection_id)

        def work() -> None:
            for _ in range(10):
                with database.write() as session:
                    charge(session, finetune_id, 1.0)
                    selections.charge(session, selection_id, 1.0, is_news=True)

        def watch() -> None:
            seen, ended = revision_and_end(database, selection_id)
            while not ended:
                before = seen
                seen, ended = revision_and_end(database, selection_id)
                assert seen > before if ended else seen >= before

        def settle_it() -> None:
            threading.Event().wait(0.02)
            assert rank_only(database, selection_id, ended=True)

        race(work, watch, settle_it)

    def test_there_is_one_proof_of_a_selection(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one")
        dataset_id = read(database, selection_id).dataset_id
        with database.read() as session:
            assert proof_of(session, selection_id) is None
        finetune_id = create(database, dataset_id, selection_id=selection_id)
        with database.read() as session:
            found = proof_of(session, selection_id)
            assert found is not None
            assert found.id == finetune_id
        with pytest.raises(Exception, match=r"(?i)unique"):
            create(database, dataset_id, selection_id=selection_id)

    def test_a_cancelled_selection_cancels_its_proof(self, database: Database) -> None:
        selection_id, _ = add_selection(database, "one")
        other = create(database, read(database, selection_id).dataset_id)
        proof = create(database, read(database, selection_id).dataset_id, selection_id=selection_id)
        cancel(database, selection_id)
        assert get(database, proof).state == FinetuneState.CANCELLED
        assert get(database, other).state == FinetuneState.QUEUED


def proof(database: Database, selection_id: str) -> ProofProgress:
    with database.read() as session:
        return proofs_of(session, [selection_id])[selection_id]


def revision(database: Database, selection_id: str) -> int:
    return revision_and_end(database, selection_id)[0]


def revision_and_end(database: Database, selection_id: str) -> tuple[int, bool]:
    with database.read() as session:
        return Selections(session, TENANT).revision(selection_id)


def rank_only(database: Database, selection_id: str, *, ranked: int = 1, ended: bool) -> bool:
    with database.write() as session:
        return settle(session, selection_id, ranked=ranked, ranking={"of": ranked}, ended=ended)


def claim_in(session: object, finetune_id: str) -> Lease:
    lease = leases.claim(session, FINETUNE, finetune_id, holder="host/0", seconds=60)  # type: ignore[arg-type]
    assert lease is not None
    return lease
