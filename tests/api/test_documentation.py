"""What the service says of itself, and how light it is."""

import subprocess
import sys
from typing import Any

import pytest

from app.api.main import create_app
from tests.fixtures.service import RunningService

PATHS: dict[str, dict[str, Any]] = create_app().openapi()["paths"]
OPERATIONS = [(path, method) for path, methods in PATHS.items() for method in methods]


def test_the_documentation_answers(service: RunningService) -> None:
    anybody = service.client()
    assert "swagger" in anybody.get("/docs").text
    assert anybody.get("/openapi.json").json()["paths"].keys() == PATHS.keys()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_operation_is_described(path: str, method: str) -> None:
    operation = PATHS[path][method]
    assert operation["summary"]
    assert operation["description"]
    assert any(status.startswith("2") for status in operation["responses"])


@pytest.mark.parametrize(("path", "method"), [one for one in OPERATIONS if one[0].startswith("/v1/")])
def test_every_operation_documents_its_problems(path: str, method: str) -> None:
    operation = PATHS[path][method]
    expected = {"401", "403", "422", "503"}
    expected |= {"404"} if "{" in path else set()
    expected |= {"400", "413"} if "requestBody" in operation else set()
    problems = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
    assert expected <= set(problems)
    for status, answer in problems.items():
        assert answer["description"], status
        assert list(answer["content"]) == ["application/problem+json"], status
        assert {"code", "param", "hint"} <= answer["content"]["application/problem+json"]["schema"]["properties"].keys()


def test_the_upload_documents_both_of_its_bodies() -> None:
    body = PATHS["/v1/datasets"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "application/octet-stream"}
    assert set(body["multipart/form-data"]["schema"]["properties"]) == {"file", "name"}


def test_the_service_starts_without_the_compute() -> None:
    script = (
        "import sys, app.api.main; app.api.main.create_app();"
        "heavy = {'torch', 'torchvision', 'timm', 'sklearn', 'scipy', 'numpy', 'pyarrow', 'PIL', 'workers', 'celery'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
