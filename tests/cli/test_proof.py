"""What ``foretune watch`` and the client tell of a proof while it goes on; each step waits until the last was told."""

from collections.abc import Iterator

import pytest

from app.client import Foretune
from app.storage.objects import Objects
from app.storage.repositories.selections import evaluations_of
from tests.cli.conftest import Served, start
from tests.contract.selection_steps import begin_proof, end, end_proven
from tests.fixtures.recorded import FinetuneWork
from tests.fixtures.rows import add_model, add_ready_dataset


@pytest.fixture
def proof(served: Served, client: Foretune) -> Iterator[FinetuneWork]:
    """Yield the proof of a selection whose only model is evaluated, and delete what it is of."""
    add_model(served.database, "proven")
    dataset = add_ready_dataset(served.database, tenant="default", content="p")
    selection = client.selections.create(dataset, models=["proven"], scores=["lfc"], verify={"k": 1})
    with served.database.read() as session:
        [(evaluation, _)] = evaluations_of(session, selection.id)
    end(served.database, evaluation.id)
    objects = Objects((served.home / "objects").as_uri())
    yield FinetuneWork(served.database, objects, begin_proof(served.database, selection.id))
    client.selections.cancel(selection.id)
    client.datasets.delete(dataset)


def test_watching_shows_what_the_proof_is_doing(served: Served, client: Foretune, proof: FinetuneWork) -> None:
    selection_id = client.finetunes.get(proof.finetune_id).selection
    assert selection_id is not None
    watching = start("watch", selection_id, home=str(served.home), url=served.url)
    assert watching.stderr is not None
    assert "Waiting for a worker" in watching.stderr.readline()
    told = "evaluating: 1 of 1 models, fine-tuning the first of them"
    assert watching.stderr.readline() == f"{told} is queued\n"
    lease = proof.claim()
    assert watching.stderr.readline() == f"{told} is running\n"
    proof.progress(lease, "proven: training", 30, 2000)
    assert watching.stderr.readline() == f"{told}: proven: training\n"
    proof.finish(lease, proven=0.7)
    assert watching.stderr.readline() == f"{told} is done\n"
    end_proven(served.database, selection_id)
    out, err = watching.communicate(timeout=20)
    assert (watching.returncode, err) == (0, "evaluating: 1 of 1 models\n")
    assert "one leads." in out


def test_the_client_sees_the_proof_and_a_fraction_that_grows_to_its_end(
    served: Served, client: Foretune, proof: FinetuneWork
) -> None:
    selection_id = client.finetunes.get(proof.finetune_id).selection
    assert selection_id is not None
    watched = client.selections.watch(selection_id)
    first = next(watched)
    assert first.proof is not None
    assert (first.proof.finetune, first.proof.status, first.proof.progress) == (proof.finetune_id, "queued", None)
    assert first.progress.fraction == 0.5
    lease = proof.claim()
    running = next(watched)
    assert (running.proof and running.proof.status, running.progress.fraction) == ("running", 0.5)
    proof.progress(lease, "proven: training", 1060, 2000)
    training = next(watched)
    assert training.proof is not None
    assert training.proof.progress is not None
    assert (training.proof.progress.stage, training.proof.progress.done) == ("proven: training", 1060)
    proof.finish(lease, proven=0.7)
    end_proven(served.database, selection_id)
    *_, last = watched
    assert (last.status, last.proof and last.proof.status, last.progress.fraction) == ("done", "done", 1.0)
