"""POST /v1/models/import: many models at once, and what becomes of each."""

import hashlib
import json
import uuid
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from tests.api.problem import assert_problem
from tests.fixtures.rows import spec
from tests.fixtures.service import RunningService

Row = dict[str, Any]


def row(name: str, **more: Any) -> Row:
    return spec(name).as_dict() | more


@pytest.fixture
def stem() -> str:
    return f"many-{uuid.uuid4().hex[:8]}"


def send(client: httpx.Client, manifest: Any, **query: Any) -> httpx.Response:
    text = manifest if isinstance(manifest, str | bytes) else yaml.safe_dump({"models": manifest})
    headers = {"Content-Type": "application/yaml"}
    return client.post("/v1/models/import", content=text, params=query, headers=headers)


def verdicts(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [row["verdict"] for row in answer.json()["rows"]]


def test_every_row_has_a_verdict_and_wrong_ones_spoil_no_other(admin: httpx.Client, stem: str) -> None:
    admin.post("/v1/models", json=row(f"{stem}-known")).raise_for_status()
    admin.post("/v1/models", json=row(f"{stem}-changed")).raise_for_status()
    manifest: list[Any] = [
        row(f"{stem}-new"),
        row(f"{stem}-known"),
        row(f"{stem}-changed", notes="other"),
        row(f"{stem}-wrong", architecture="keras:x"),
        row(f"{stem}-new", notes="again"),
        row("x" * 201),
        "no object",
        row(f"{stem}-nul", notes="a\x00b") | {"notes": "a\x00b"},
        row(f"{stem}-last"),
    ]
    answer = send(admin, json.dumps({"models": manifest}))
    assert verdicts(answer) == [
        *("new", "known", "new_version", "invalid", "invalid", "invalid", "invalid", "invalid", "new")
    ]
    body = answer.json()
    assert body["counts"] == {"invalid": 5, "known": 1, "new": 2, "new_version": 1}
    assert [one["row"] for one in body["rows"]] == list(range(9))
    assert [one["version"] for one in body["rows"]][:3] == [1, 1, 2]
    errors = [one["error"] for one in body["rows"] if one["error"]]
    assert [(error["code"], error["param"]) for error in errors] == [
        ("invalid_model_spec", "architecture"),
        ("invalid_manifest", None),
        ("invalid_model_spec", "name"),
        ("invalid_model_spec", None),
        ("invalid_model_spec", None),
    ]
    assert all(error["hint"] for error in errors)
    for one in body["rows"]:
        if one["model"]:
            found = admin.get(f"/v1/models/{one['model']}").json()
            assert (found["name"], found["version"]) == (one["name"], one["version"])
    assert verdicts(send(admin, json.dumps({"models": manifest}))) == [
        *("known", "known", "known", "invalid", "invalid", "invalid", "invalid", "invalid", "known")
    ]


@pytest.mark.parametrize("place", ["name", "license", "homepage", "notes", "head", "pretraining", "uri"])
def test_texts_that_no_database_takes_are_refused_wherever_they_stand(
    admin: httpx.Client, stem: str, place: str
) -> None:
    text, source = "a\x00b", {"type": "safetensors", "uri": "file:///x", "sha256": "0" * 64}
    nested: dict[str, Row] = {
        "head": {"head": {"num_classes": 3, "label_set": text}},
        "pretraining": {"pretraining": {"datasets": ["fine", text]}},
        "uri": {"source": source | {"uri": f"file:///{text}"}, "architecture": "timm:resnet18"},
    }
    wrong = row(f"{stem}-wrong") | nested.get(place, {place: text})
    answer = send(admin, json.dumps({"models": [wrong, row(f"{stem}-right")]}))
    assert verdicts(answer) == ["invalid", "new"]
    error = answer.json()["rows"][0]["error"]
    assert (error["code"], bool(error["hint"])) == ("invalid_model_spec", True)


def test_a_dry_run_says_the_same_and_registers_nothing(admin: httpx.Client, stem: str) -> None:
    admin.post("/v1/models", json=row(f"{stem}-a")).raise_for_status()
    manifest = [row(f"{stem}-a", notes="other"), row(f"{stem}-b"), row(f"{stem}-c", license=7)]
    tried = send(admin, manifest, dry_run=True)
    assert verdicts(tried) == ["new_version", "new", "invalid"]
    assert tried.json()["dry_run"] is True
    assert [(one["model"], one["version"]) for one in tried.json()["rows"]] == [(None, 2), (None, 1), (None, None)]
    assert not [one for one in admin.get("/v1/models").json()["data"] if one["name"] == f"{stem}-b"]
    done = send(admin, manifest)
    assert verdicts(done) == verdicts(tried)
    assert [one["version"] for one in done.json()["rows"]] == [2, 1, None]


@pytest.mark.parametrize(
    ("manifest", "param"),
    [
        ("models: [", None),
        ("- name: a", None),
        ("models: {}", None),
        ("", None),
        (b"models: [\xff]", None),
        (r'models: [{name: "a\ud800b"}]', None),
        ("models:\n" + "".join(f"- {{name: n{n}}}\n" for n in range(2001)), "models"),
        ("[" * 500_000, None),
    ],
)
def test_what_is_no_manifest(admin: httpx.Client, manifest: str | bytes, param: str | None) -> None:
    assert_problem(send(admin, manifest), 422, "invalid_manifest", param=param)


def test_a_manifest_of_all_rows_that_say_everything_fits(admin: httpx.Client, stem: str) -> None:
    full = row(stem, notes="n" * 1500, license=7)
    manifest = {"models": [full | {"name": f"{stem}-{number}"} for number in range(2000)]}
    text = json.dumps(manifest)
    assert len(text) > 3_500_000
    assert send(admin, text, dry_run=True).json()["counts"] == {"invalid": 2000}
    problem = assert_problem(send(admin, " " * (8 << 20) + text), 413, "body_too_large")
    assert "several requests" in str(problem["hint"])


def test_an_upload_has_to_be_there(service: RunningService, admin: httpx.Client, stem: str) -> None:
    file = save({"a": np.ones(3, np.float32)}, metadata={"of": stem})
    sha256 = hashlib.sha256(file).hexdigest()
    wanted = row(stem, source={"type": "upload", "sha256": sha256})
    for refused in (send(admin, [wanted]), send(admin, [wanted], dry_run=True)):
        assert verdicts(refused) == ["invalid"]
        error = refused.json()["rows"][0]["error"]
        assert (error["code"], error["param"]) == ("unknown_weights", "source.sha256")
    assert_problem(admin.post("/v1/models", json=wanted), 422, "unknown_weights", param="source.sha256")
    admin.post("/v1/weights", content=file).raise_for_status()
    assert verdicts(send(admin, [wanted])) == ["new"]
    assert admin.post("/v1/models", json=wanted).status_code == 200


def test_tags_stand_beside_the_specification(admin: httpx.Client, stem: str) -> None:
    manifest = [row(f"{stem}-a", tags=["fast", "edge"]), row(f"{stem}-b"), row(f"{stem}-c", tags=["No"])]
    assert verdicts(send(admin, manifest, dry_run=True)) == ["new", "new", "invalid"]
    body = send(admin, manifest).json()
    a, b, c = body["rows"]
    assert (c["error"]["code"], c["error"]["param"]) == ("invalid_tags", "tags.0")
    path = f"/v1/models/{a['model']}"
    found = admin.get(path).json()
    assert found["tags"] == ["edge", "fast"]
    assert "tags" not in found["spec"]
    assert admin.get(f"/v1/models/{b['model']}").json()["tags"] == []
    admin.patch(path, json={"tags": ["other"]}).raise_for_status()
    again = send(admin, [row(f"{stem}-a"), row(f"{stem}-b", tags=["slow"])])
    assert verdicts(again) == ["known", "known"]
    assert admin.get(path).json()["tags"] == ["other"], "a row without tags says nothing of them"
    assert admin.get(f"/v1/models/{b['model']}").json()["tags"] == ["slow"]
    newer = send(admin, [row(f"{stem}-a", notes="other")]).json()["rows"][0]
    assert (newer["verdict"], admin.get(f"/v1/models/{newer['model']}").json()["tags"]) == ("new_version", ["other"])


def test_it_takes_an_admin(user: httpx.Client, stem: str) -> None:
    assert_problem(send(user, [row(stem)]), 403, "missing_scope")


def test_five_hundred_rows_are_one_request(admin: httpx.Client, stem: str) -> None:
    manifest = json.dumps({"models": [row(f"{stem}-{number:03}") for number in range(500)]})
    tried = send(admin, manifest, dry_run="true")
    assert tried.json()["counts"] == {"new": 500}
    assert tried.elapsed.total_seconds() < 10
    assert send(admin, manifest).json()["counts"] == {"new": 500}
    assert send(admin, manifest, dry_run="true").json()["counts"] == {"known": 500}
