"""One load for several data sets."""

from pathlib import Path

import pytest

from app.manifest import read_manifest
from tests.fixtures.subjects import make_subject
from tests.fixtures.tiny_zoo import tiny_zoo
from workers.loaded_network import LoadedNetwork
from workers.subject import Subject, load_on
from workers.zoo.network import Network


def test_subjects_of_one_model_share_its_network(tmp_path: Path) -> None:
    with make_subject(tmp_path) as first:
        second = Subject(first.runtime, first.spec, first.key, first.held)
        assert first.network is second.network
        others = [spec for spec in read_manifest(tiny_zoo(tmp_path)) if spec.digest != first.spec.digest]
        other = load_on(first.runtime, others[0], lambda: False)
        assert other is not first.network
        assert load_on(first.runtime, others[0], lambda: False) is other
        assert load_on(first.runtime, first.spec, lambda: False) is not first.network, "one is held at a time"


def test_the_old_one_is_let_go_before_the_new_one_is_loaded(tmp_path: Path) -> None:
    with make_subject(tmp_path) as subject:
        network = subject.network
        loaded = LoadedNetwork()
        loaded.get(subject.spec, lambda: network)
        others = [spec for spec in read_manifest(tiny_zoo(tmp_path)) if spec.digest != subject.spec.digest]

        def fail() -> Network:
            raise MemoryError

        with pytest.raises(MemoryError):
            loaded.get(others[0], fail)
        asked: list[str] = []

        def load() -> Network:
            asked.append("load")
            return network

        assert loaded.get(subject.spec, load) is network
        assert asked == ["load"], "it was let go"
        loaded.forget()
        loaded.get(subject.spec, load)
        assert asked == ["load", "load"]
