"""A GPU whose context breaks in the middle of a job costs that job one attempt, and no other one anything."""

import json
from pathlib import Path

from sqlalchemy import select as select_rows

from app.storage.database import Database
from app.storage.tables import Evaluation
from tests.fixtures import sabotage
from tests.fixtures.archives import class_folders, zip_of
from tests.fixtures.processes import running_service
from tests.fixtures.story import finished, select, upload, wait_for_zoo
from tests.fixtures.tiny_zoo import ARCHITECTURES, tiny_zoo


def test_another_process_goes_on_where_a_device_broke(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    environment = {
        "FORETUNE_ZOO_MANIFEST": str(tiny_zoo(tmp_path)),
        "FORETUNE_THREADS": "1",
        "FORETUNE_TEST_BROKEN": str(broken),
        "PYTHONPATH": str(Path(sabotage.__path__[0])),
    }
    with running_service(tmp_path / "home", **environment) as service, service.client() as client:
        wait_for_zoo(client)
        dataset = upload(client, zip_of(class_folders(per_class=10)))
        (worker,) = service.worker_pids()
        broken.write_text("now")
        selection = select(client, dataset, models=list(ARCHITECTURES[:2]), scores=["knn"])
        results = finished(client, selection)
        assert {row["status"] for row in results["data"]} == {"done"}
        assert service.worker_pids() != [worker]
        log = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
        events = [line["event"] for line in log]
        assert events.count("worker.device_failed") == 1
        assert [line["status"] for line in log if line["event"] == "supervisor.worker_ended"] == [76]
        database = Database(f"sqlite:///{service.home / 'foretune.db'}")
        with database.read() as session:
            failures = list(session.scalars(select_rows(Evaluation.failures)))
        database.close()
        assert sorted(failures, key=len) == [{}, {"device_failed": 1}]
