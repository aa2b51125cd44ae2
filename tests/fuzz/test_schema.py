"""Whatever the OpenAPI document allows, and whatever it does not, gets an answer that it documents."""

from pathlib import Path

import pytest

from tests.fixtures.service import MAX_UPLOAD_BYTES, empty_zoo_settings, own_database, run_service
from tests.fuzz.run import Who, fuzz


@pytest.mark.parametrize(
    ("who", "phases", "least"),
    [("admin", "coverage", 2000), ("user", "fuzzing,stateful", 100)],
)
@pytest.mark.timeout(1200)  # thousands of requests, on a machine that runs other tests, too
def test_every_answer_is_documented(postgres_url: str, tmp_path: Path, who: Who, phases: str, least: int) -> None:
    """In short, on a database of its own; ``python -m tests.fuzz`` does all of it, at length."""
    with own_database(postgres_url, f"fuzzed_by_{who}") as url:
        settings = empty_zoo_settings(tmp_path / "home", max_upload_bytes=MAX_UPLOAD_BYTES, database_url=url)
        with run_service(settings) as service:
            found = fuzz(service, who, tmp_path, examples=3, phases=phases)
    assert found.failures == 0, found.text
    assert found.requests >= least
