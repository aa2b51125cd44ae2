"""docker-compose.yml, the Dockerfile and the lock files keep what docs/operations.md promises."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.cli.worker_child import STOP_SECONDS
from app.config import Settings
from tests.fixtures.stack import COMPOSE, ROOT

COMPUTE = ("torch", "torchvision", "timm", "transformers", "huggingface_hub", "safetensors", "h5py", "sklearn")
COMPUTE += ("PIL", "pyarrow", "workers")
OURS = ("migrate", "api", "worker")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "Dockerfile"],
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
    ],
    ids=["hadolint", "compose-spec"],
)
def test_the_linters_find_nothing(command: list[str]) -> None:
    program = Path(sys.executable).with_name(command[0])
    found = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_setting_exists(compose: dict[str, Any]) -> None:
    known = {f"FORETUNE_{name.upper()}" for name in Settings.model_fields}
    for service in OURS:
        assert set(compose["services"][service]["environment"]) <= known
    assert {name.upper() for name in compose["secrets"]} <= known
    in_images = set(re.findall(r"FORETUNE_\w+", (ROOT / "Dockerfile").read_text()))
    assert in_images <= known


def test_every_secret_is_made(compose: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    for _ in range(2):
        subprocess.run([ROOT / "make-secrets.sh", folder], check=True)
        made = {path.name: path.read_text() for path in folder.iterdir()}
        assert set(made) == set(compose["secrets"])
    assert folder.stat().st_mode & 0o077 == 0
    for service in compose["services"].values():
        assert set(service.get("secrets", [])) <= set(compose["secrets"])


def test_every_container_is_contained(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert service["restart"], name
        assert service["logging"]["options"]["max-file"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert all("size=" in folder for folder in service["tmpfs"]), f"{name}: a tmpfs is memory"
        assert "inside" in service["networks"], name
        if name not in OURS:
            assert re.fullmatch(r"[a-z/]+:\d+[\w.-]+", service["image"]), f"{name}: of a version"
            assert service["user"].split(":")[0] != "0", name
            assert "healthcheck" in service, name
            assert service["networks"] == ["inside"], f"{name}: nobody outside reaches it"
    assert compose["networks"]["inside"] == {"internal": True}


def test_api_and_workers_wait_for_the_migration(compose: dict[str, Any]) -> None:
    for name in ("api", "worker"):
        awaited = compose["services"][name]["depends_on"]["migrate"]
        assert awaited == {"condition": "service_completed_successfully"}
    assert compose["services"]["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_limits_are_those_of_the_shell_or_sensible(compose: dict[str, Any]) -> None:
    plain = Settings()
    for service in OURS:
        for name, value in compose["services"][service]["environment"].items():
            if value.startswith("${"):
                found = re.fullmatch(r"\$\{(\w+):-(\d+)\}", value)
                assert found is not None, value
                assert found[1] == name
                default = getattr(plain, name.removeprefix("FORETUNE_").lower())
                assert int(found[2]) == default or (default is None and name.startswith("FORETUNE_TENANT_")), name


def test_workers_have_longer_to_stop_than_they_need(compose: dict[str, Any]) -> None:
    grace = compose["services"]["worker"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > STOP_SECONDS


def test_the_images_run_as_an_ordinary_user_and_check_themselves() -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    for target in ("api", "worker"):
        (stage,) = [one for one in stages if one.splitlines()[0] == f"base AS {target}"]
        assert "USER 10001:10001" in stage
        assert "HEALTHCHECK" in stage
        assert "pip" not in stage, "nothing is built in what is shipped"


def test_the_api_runs_without_what_the_workers_need(tmp_path: Path) -> None:
    """It serves, answers from its database and documents itself, while nothing of the compute can be imported."""
    program = """
import importlib.abc, json, sys
refused = set(json.loads(sys.argv[1]))

class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is not in the image of the API", name=name)

sys.meta_path.insert(0, Refusing())
import pkgutil
import app.api, app.client, app.storage
for package in (app.api, app.client, app.storage):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        __import__(module.name)
from fastapi.testclient import TestClient
from app.api.main import create_app
from app.cli.worker_child import STOP_SECONDS
from app.config import Settings
from app.first_start import prepare_home
settings = Settings()
prepare_home(settings)
with TestClient(create_app(settings)) as client:
    headers = {"Authorization": "Bearer " + settings.admin_key_file.read_text().strip()}
    assert client.get("/v1/models", headers=headers).json()["data"]
    assert client.get("/readyz").status_code == 200
    assert len(client.get("/openapi.json").json()["paths"]) > 20
print(sorted(refused & set(sys.modules)))
"""
    environment = {**os.environ, "FORETUNE_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", program, json.dumps(COMPUTE)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.splitlines()[-1] == "[]"


def test_the_locks_agree() -> None:
    api, service, dev = (locked(f"requirements{kind}.lock") for kind in ("-api", "", "-dev"))
    assert api < service < dev, "the same versions, and more of them"
    names = {name for name, _ in api}
    assert names.isdisjoint(
        {"torch", "torchvision", "timm", "transformers", "scikit-learn", "pyarrow", "pillow", "h5py"}
    )
    assert {"fastapi", "sqlalchemy", "s3fs", "celery", "scipy"} <= names


def locked(name: str) -> set[tuple[str, str]]:
    found = re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / name).read_text(), flags=re.MULTILINE)
    return set(found)
