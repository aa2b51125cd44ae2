"""``foretune models`` and ``foretune zoos``: switching, tagging, logs, constraints, uploads, named parts of the zoo."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import typer
from safetensors.numpy import save_file
from typer.core import TyperGroup

from app.cli.amounts import read_amount
from app.cli.program import program
from app.client import ApiError, Failure, Foretune
from app.domain.errors import ModelRejected
from app.domain.states import ModelState
from app.storage import leases
from app.storage.repositories.models import Models
from app.storage.tables import Dataset, Model
from tests.cli.conftest import Served, unbroken
from tests.fixtures.rows import add_model, add_ready_dataset, spec


def describe(served: Served, name: str, **facts: object) -> str:
    model_id = add_model(served.database, name)
    with served.database.write() as session:
        session.get_one(Model, model_id).facts = facts
    return model_id


def reject(served: Served, name: str) -> None:
    with served.database.write() as session:
        model_id = Models(session).register(spec(name))[0].id
        lease = leases.claim(session, leases.MODEL, model_id, holder="host/0", seconds=60)
        assert lease is not None
        checks = [
            {"name": "weights", "outcome": "fail", "detail": "the hub answered 503", "seconds": 2.5},
        ]
        error = ModelRejected("weights_unavailable", "The hub answered 503.", hint="Try again later.")
        leases.fail(session, lease, error, checks=checks)


def data_set(served: Served, name: str) -> None:
    dataset_id = add_ready_dataset(served.database, tenant="default", content=name)
    with served.database.write() as session:
        session.get_one(Dataset, dataset_id).name = name


def test_a_model_is_deprecated_and_used_again(served: Served) -> None:
    add_model(served.database, "old-net")
    assert served.run("models", "deprecate", "old-net").code == 2, "a reason is asked for"
    assert "is deprecated." in served.run("models", "deprecate", "old-net", "--reason", "too old").out
    assert served.run("models", "enable", "old-net", "--json").json["status"] == "active"


def test_a_log_says_what_went_wrong_and_what_to_do(served: Served) -> None:
    reject(served, "lost-net")
    log = served.run("models", "log", "lost-net")
    assert log.code == 0, log.err
    for told in (
        "lost-net",
        "weights",
        "fail",
        "2.5",
        "the hub answered 503",
        "weights_unavailable",
        "Try again later.",
    ):
        assert told in log.out
    lines = log.out.splitlines()
    assert any("worker host/0" in line and "rejected: 1 fail in 2.5 s" in line for line in lines)
    assert served.run("models", "recheck", "lost-net", "--reason", "it is back", "--json").json["status"] == "pending"
    events = served.run("models", "log", "lost-net", "--json").json["events"]
    assert [event["action"] for event in events] == ["status_changed", "checks_ended", "registered"]
    assert events[0]["details"] == {"was": "rejected", "now": "pending"}
    told = served.run("models", "log", "lost-net").out
    assert "rejected -> pending; it is back" in told
    assert "No check has ended yet." in told


def test_tags_are_added_and_taken_off(served: Served) -> None:
    add_model(served.database, "tagged-net")
    assert served.run("models", "tag", "tagged-net", "fast", "edge").out.strip() == "tagged-net: edge, fast"
    assert served.run("models", "tag", "tagged-net", "fast", "new", "--json").json["tags"] == ["edge", "fast", "new"]
    assert served.run("models", "untag", "tagged-net", "fast", "new").out.strip() == "tagged-net: edge"
    assert "(invalid_tags)" in served.run("models", "tag", "tagged-net", "No").err
    assert "edge" in served.run("models", "show", "tagged-net").out
    assert "none -> edge, fast" in served.run("models", "log", "tagged-net").out
    served.run("models", "untag", "tagged-net", "edge")


def test_a_model_that_is_not_checked_yet_is_withdrawn(served: Served) -> None:
    active = add_model(served.database, "typo-net")
    with served.database.write() as session:
        newer = Models(session).register(spec("typo-net", sha256="1" * 64))[0].id
    withdrawn = served.run("models", "withdraw", "typo-net", "--reason", "misspelt", "--json").json
    assert (withdrawn["id"], withdrawn["status"], withdrawn["reason"]) == (newer, "rejected", "misspelt")
    assert "pending -> rejected; misspelt" in served.run("models", "log", newer).out
    assert "model_withdrawn" in served.run("models", "show", newer).out
    again = served.run("models", "recheck", "typo-net", "--json").json
    assert (again["id"], again["status"]) == (newer, "pending"), "of a name, the version that was refused is meant"
    assert served.run("models", "withdraw", "typo-net").out.strip() == "typo-net version 2 is rejected."
    assert "(model_state)" in served.run("models", "withdraw", active).err


def test_of_a_name_the_version_is_meant_that_can_change(served: Served) -> None:
    first = add_model(served.database, "twice-net")
    with served.database.write() as session:
        models = Models(session)
        models.switch(models.register(spec("twice-net", sha256="1" * 64))[0].id, ModelState.REJECTED, None)
    assert served.run("models", "disable", "twice-net").out.strip() == "twice-net version 1 is disabled."
    assert served.run("models", "disable", "twice-net").out.strip() == "twice-net version 1 is disabled."
    assert served.run("models", "enable", "twice-net", "--json").json["id"] == first
    served.run("models", "deprecate", "twice-net", "--reason", "old")
    assert served.run("models", "enable", "twice-net").out.strip() == "twice-net version 1 is active."
    third = add_model(served.database, "twice-net", state=ModelState.DISABLED, sha256="2" * 64)
    assert served.run("models", "enable", "twice-net", "--json").json["id"] == third
    assert served.run("models", "enable", "twice-net").out.strip() == "twice-net version 3 is active."
    wrong = served.run("models", "deprecate", first, "--reason", "old")
    assert f"Model twice-net version 1 ({first}) is disabled and cannot become deprecated" in unbroken(wrong.err)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        *(("5M", 5e6), ("1GB", 1e9), ("1.5g", 1.5e9), ("30e6", 3e7), ("2E+3", 2e3), ("512MiB", 2**29), ("7", 7)),
        *(("3Ki", 3072), ("8b", 8), ("1e3k", 1e6), ("-1", -1), ("1 M", 1e6)),
    ],
)
def test_amounts_are_read_as_people_write_them(text: str, amount: float) -> None:
    assert read_amount(text) == amount


@pytest.mark.parametrize("text", ["", "M", "5X", "5MM", "1,5G", "five", "5Mi5", "."])
def test_what_is_no_amount_is_told_how_to_write_it(served: Served, text: str) -> None:
    refused = served.run("models", "list", "--max-parameters", text)
    assert (refused.code, "5M, 1.5GB or 512MiB" in unbroken(refused.err)) == (2, True)


def test_constraints_of_a_list_are_those_of_a_selection(served: Served) -> None:
    describe(served, "c-small", parameters=5, family="cnet", weights_bytes=10, peak_bytes={"32": 5}, gflops=1)
    describe(served, "c-large", parameters=50_000_000, family="cnet", capabilities={"logits": True})

    def listed(*options: str) -> list[str]:
        done = served.run("models", "list", "--family", "cnet", *options, "--json")
        assert done.code == 0, done.err
        return sorted(model["name"] for model in done.json)

    assert listed() == ["c-large", "c-small"]
    assert listed("--max-parameters", "30e6") == listed("--max-parameters", "30M") == ["c-small"]
    assert listed("--max-memory", "15", "--max-gflops", "1") == ["c-small"]
    assert listed("--capability", "logits", "--license", "MIT", "--license", "x") == ["c-large"]
    assert listed("--pretrained-on", "imagenet-1k") == []
    assert listed("--tag", "nothing") == []
    data_set(served, "constrained")
    asked = ("select", "constrained", "--family", "cnet", "--max-parameters", "30e6", "--watch", "--no-wait", "--json")
    selection = served.run(*asked).json
    assert selection["progress"]["models"]["total"] == 1
    assert selection["constraints"] == {"max_parameters": 30e6, "families": ["cnet"]}
    assert selection["watch"] is True
    refused = served.run("select", "constrained", "--family", "cnet", "--max-parameters", "1", "--no-wait")
    assert refused.code == 1
    assert "(no_model_satisfies_constraints)" in refused.err
    assert "max_parameters of 5 would do for one" in refused.err
    assert "max_parameters is nan" in served.run("models", "list", "--max-parameters", "nan").err


def test_whatever_chooses_models_has_the_same_options() -> None:
    commands = typer.main.get_command(program)
    for words in (("plan",), ("select",), ("models", "list")):
        command = commands
        for word in words:
            assert isinstance(command, TyperGroup)
            command = command.commands[word]
        named = {name for option in command.params for name in option.opts}
        assert {"--zoo", "--max-parameters", "--max-gflops", "--max-memory", "--license", "--family"} <= named
        assert {"--pretrained-on", "--capability", "--tag"} <= named


def test_a_zoo_is_made_shown_and_removed(served: Served) -> None:
    for name in ("z-one", "z-two", "z-three"):
        add_model(served.database, name)
    assert served.run("zoos", "set", "phones", "z-one", "z-two", "--description", "small").out.startswith(
        "phones has 2"
    )
    assert served.run("zoos", "show", "phones").out.split() == ["z-one", "z-two"]
    for command in ("set", "show", "delete"):
        refused = served.run("zoos", command, "a/b")
        assert (refused.code, "'a/b' is no name of a zoo. Use 1 to 50" in unbroken(refused.err)) == (2, True)
    assert served.run("zoos", "set", "single", "z-one").out.strip() == "single has 1 model."
    served.run("zoos", "delete", "single")
    assert served.run("zoos", "set", "phones", "z-three", "--json").json["description"] == "small"
    (found,) = (zoo for zoo in served.run("zoos", "list", "--json").json if zoo["name"] == "phones")
    assert found["models"] == ["z-three"]
    assert "phones" in served.run("zoos", "list").out
    assert [one["name"] for one in served.run("models", "list", "--zoo", "phones", "--json").json] == ["z-three"]
    data_set(served, "of-phones")
    asked = served.run("select", "of-phones", "--zoo", "phones", "--no-wait", "--json").json
    assert (asked["zoo"], asked["progress"]["models"]["total"]) == ("phones", 1)
    wrong = served.run("zoos", "set", "phones", "z-one", "nothing")
    assert (wrong.code, "'nothing'" in wrong.err) == (1, True)
    assert served.run("zoos", "delete", "phones").code == 0
    assert "(zoo_not_found)" in served.run("zoos", "show", "phones").err


def test_weights_are_uploaded(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save_file({"a": np.ones(3, np.float32)}, file)
    done = served.run("models", "upload", str(file))
    assert done.code == 0, done.err
    assert done.out.strip() == hashlib.sha256(file.read_bytes()).hexdigest()
    assert "1 tensor, " in done.err
    assert "/dev/zero cannot be read: it is no file" in unbroken(served.run("models", "upload", "/dev/zero").err)
    file.write_bytes(file.read_bytes()[:-1])
    assert "(unsafe_weights)" in served.run("models", "upload", str(file)).err
    assert "(file_not_readable)" in served.run("models", "upload", str(tmp_path / "nothing")).err


@pytest.mark.parametrize("changed", [b"more", None])
def test_a_file_that_changes_while_it_is_sent_is_told(client: Foretune, tmp_path: Path, changed: bytes | None) -> None:
    file = tmp_path / "growing.safetensors"
    save_file({"a": np.ones(1_000_000, np.float32)}, file)

    def change(sent: int, _size: int) -> None:
        if sent < 1_000_000:
            with file.open("ab") as opened:
                opened.write(changed) if changed else opened.truncate(sent)

    with pytest.raises(Failure, match="written to while it was sent") as failure:
        client.models.upload(file, on_progress=change)
    assert failure.value.code == "file_not_readable"


def test_the_client_curates(served: Served, client: Foretune) -> None:
    model_id = add_model(served.database, "client-net")
    assert client.models.deprecate(model_id, "old").status == ModelState.DEPRECATED
    data_set(served, "by-client")
    dataset_id = next(one.id for one in client.datasets.list() if one.name == "by-client")
    selection = client.selections.create(dataset_id, models=["client-net"])
    (warning,) = selection.warnings
    assert (warning.code, warning.model) == ("model_deprecated", model_id)
    assert client.selections.results(selection.id).warnings == (warning,)
    assert "is deprecated: old (model_deprecated)" in served.run("results", selection.id).out
    zoo = client.zoos.put("by-client", ["client-net"], description="one")
    assert client.zoos.put("by-client", ["client-net"], description="one") == zoo == client.zoos.get("by-client")
    with pytest.raises(ApiError) as none:
        client.selections.create(dataset_id, zoo="by-client")
    assert none.value.code == "no_active_models"
    client.zoos.delete("by-client")
    assert [event.action for event in client.models.events(model_id)][:2] == ["left_zoo", "joined_zoo"]
    assert client.models.disable(model_id).status == "disabled"
