"""What the tests of selections do again and again."""

from app.domain.finetuning import Recipe
from app.storage import leases
from app.storage.database import Database
from app.storage.leases import EVALUATION, Lease
from app.storage.repositories.due_rankings import unsettled
from app.storage.repositories.finetunes import Finetunes
from app.storage.repositories.models import Models
from app.storage.repositories.selections import (
    Selections,
    evaluations_of,
    settle,
)
from app.storage.tables import Selection
from tests.fixtures.rows import TENANT

NAMES = ("one", "two", "three", "four")


def create(database: Database, dataset_id: str, *, tenant: str = TENANT, name: str | None = None) -> str:
    with database.write() as session:
        models = Models(session).active()
        return Selections(session, tenant).create(dataset_id, models, ["lfc", "logme"], name).id


def read(database: Database, selection_id: str) -> Selection:
    with database.read() as session:
        return Selections(session, TENANT).get(selection_id)


def states(database: Database, selection_id: str) -> list[str]:
    with database.read() as session:
        return [evaluation.state for evaluation, _ in evaluations_of(session, selection_id)]


def cancel(database: Database, selection_id: str) -> Selection:
    with database.write() as session:
        return Selections(session, TENANT).cancel(selection_id)


def rank(database: Database, selection_id: str, ranked: int, error: dict[str, str | None] | None = None) -> bool:
    with database.write() as session:
        ended = ranked == session.get_one(Selection, selection_id).evaluations
        return settle(session, selection_id, ranked=ranked, ranking={"of": ranked}, ended=ended, error=error)


def claim(database: Database, evaluation_id: str) -> Lease:
    with database.write() as session:
        lease = leases.claim(session, EVALUATION, evaluation_id, holder="host/0", seconds=60)
    assert lease is not None
    return lease


def end(database: Database, evaluation_id: str) -> None:
    lease = claim(database, evaluation_id)
    with database.write() as session:
        leases.finish(session, lease, result={})


def begin_proof(database: Database, selection_id: str) -> str:
    """Store a ranking of all, and ask for the fine-tune of all of them, in one transaction; return its id."""
    with database.write() as session:
        row = session.get_one(Selection, selection_id)
        ranking = {"verdict": "one leads.", "models": {}, "stability": None, "evidence": {}}
        assert settle(session, row.id, ranked=row.evaluations, ranking=ranking, ended=False)
        ids = [model.id for _, model in evaluations_of(session, row.id)]
        finetunes = Finetunes(session, row.tenant)
        return finetunes.create(row.dataset_id, ids, Recipe().as_dict(), selection_id=row.id).id


def end_proven(database: Database, selection_id: str) -> None:
    """Rank once more, after the proof."""
    with database.write() as session:
        row = session.get_one(Selection, selection_id)
        assert settle(session, row.id, ranked=row.evaluations + 1, ranking=row.ranking or {}, ended=True)


def waiting(database: Database) -> list[str]:
    with database.read() as session:
        return unsettled(session)
