"""A selection of a whole service that watches the zoo, and a zoo that grows."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.fixtures.processes import RunningService, running_service
from tests.fixtures.story import finished, select, upload, wait_for, wait_for_zoo
from tests.fixtures.tiny_zoo import tiny_zoo


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The specifications of three tiny models."""
    found: list[dict[str, Any]] = yaml.safe_load(tiny_zoo(tmp_path_factory.mktemp("zoo")).read_text())["models"]
    return found


@pytest.fixture(scope="module")
def service(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    manifest = folder / "first.yaml"
    manifest.write_text(yaml.safe_dump({"models": rows[:2]}))
    with running_service(folder / "home", FORETUNE_ZOO_MANIFEST=str(manifest), FORETUNE_MAX_IMAGES="60") as running:
        yield running


@pytest.fixture(scope="module")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as client:
        wait_for_zoo(client, 2)
        yield client


def test_a_model_that_joins_the_zoo_is_ranked_and_only_it_is_evaluated(
    client: httpx.Client, rows: list[dict[str, Any]]
) -> None:
    dataset = upload(client)
    first = select(client, dataset, watch=True, scores=["knn", "lfc"])
    before = finished(client, first)
    assert len(before["data"]) == 2
    answer = client.post("/v1/models/import", content=yaml.safe_dump({"models": rows}))
    assert answer.json()["counts"] == {"known": 2, "new": 1}
    links = wait_for(lambda: (found := client.get(f"/v1/selections/{first}").json()["links"]).get("next") and found)
    successor = client.get(links["next"]).json()
    assert successor["links"]["previous"] == f"/v1/selections/{first}"
    after = finished(client, successor["id"])
    assert len(after["data"]) == 3
    assert after["final"] is True
    assert {row["name"]: row["cached"] for row in after["data"]} == {
        rows[0]["name"]: True,
        rows[1]["name"]: True,
        rows[2]["name"]: False,
    }, "only the new model's network runs"
    scores = {row["name"]: row["scores"] for row in after["data"]}
    for row in before["data"]:
        assert scores[row["name"]] == row["scores"]
    again = client.get(f"/v1/selections/{first}/results").json()
    assert (again["verdict"], again["data"]) == (before["verdict"], before["data"]), "the old ranking stays as it is"

    client.post(f"/v1/selections/{successor['id']}/cancel").raise_for_status()
    assert client.get(links["next"]).json()["watch"] is False
