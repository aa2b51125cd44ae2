"""What it means that a model satisfies a constraint."""

from typing import Any

import pytest

from app.domain.model_constraints import UNCONSTRAINED, ModelConstraints
from app.domain.model_description import ModelDescription

SPEC: dict[str, Any] = {"license": "MIT", "pretraining": {"datasets": ["ImageNet-1k", "LAION"]}}
FACTS: dict[str, Any] = {
    "parameters": 100,
    "gflops": 1.5,
    "weights_bytes": 400,
    "peak_bytes": {"1": 10, "32": 100},
    "family": "resnet",
    "capabilities": {"features": True, "logits": False, "gradients": True},
}
TAGS = ["edge", "fast"]


@pytest.mark.parametrize(
    ("constraints", "holds"),
    [
        ({}, True),
        ({"max_parameters": 100}, True),
        ({"max_parameters": 99.5}, False),
        ({"max_gflops": 1.5}, True),
        ({"max_gflops": 1}, False),
        ({"max_memory_bytes": 500}, True),
        ({"max_memory_bytes": 499}, False),
        ({"licenses": ("mit",)}, True),
        ({"licenses": ("apache-2.0", "Mit")}, True),
        ({"licenses": ("apache-2.0",)}, False),
        ({"families": ("vit", "ResNet")}, True),
        ({"families": ("res",)}, False),
        ({"pretrained_on": ("places", "laion")}, True),
        ({"pretrained_on": ("places",)}, False),
        ({"capabilities": ("features", "gradients")}, True),
        ({"capabilities": ("features", "logits")}, False),
        ({"tags": ("fast", "edge")}, True),
        ({"tags": ("fast", "slow")}, False),
        ({"max_parameters": 100, "licenses": ("apache-2.0",)}, False),
        ({"max_parameters": 0}, False),
    ],
)
def test_one_model(constraints: dict[str, Any], holds: bool) -> None:
    assert ModelConstraints(**constraints).satisfied_by(ModelDescription.of(SPEC, FACTS), TAGS) is holds


@pytest.mark.parametrize(
    "constraints",
    [
        {"max_parameters": 1e12},
        {"max_gflops": 1e12},
        {"max_memory_bytes": 1e12},
        {"families": ("resnet",)},
        {"capabilities": ("features",)},
        {"licenses": ("mit",)},
        {"pretrained_on": ("laion",)},
        {"tags": ("edge",)},
    ],
)
def test_what_is_not_known_satisfies_nothing(constraints: dict[str, Any]) -> None:
    wanted = ModelConstraints(**constraints)
    nothing = dict.fromkeys(("parameters", "gflops", "family", "weights_bytes", "peak_bytes", "capabilities"))
    does_not_fit = {"peak_bytes": {"8": 1, "32": None}, "weights_bytes": 1}
    for facts in (None, {}, nothing, {"weights_bytes": 1}, {"peak_bytes": {"32": 1}}, does_not_fit):
        model = ModelDescription.of({"license": "", "pretraining": None}, facts)
        assert not wanted.satisfied_by(model, [])


def test_what_the_checks_resolved_counts() -> None:
    resolved = FACTS | {"resolved": {"license": "Apache-2.0", "pretraining": {"datasets": ["places"]}}}
    model = ModelDescription.of(SPEC, resolved)
    assert ModelConstraints(licenses=("apache-2.0",)).satisfied_by(model, [])
    assert not ModelConstraints(licenses=("mit",)).satisfied_by(model, [])
    assert ModelConstraints(pretrained_on=("places",)).satisfied_by(model, [])


def test_all_broken_ones_are_named() -> None:
    wanted = ModelConstraints(max_parameters=1, licenses=("mit",), tags=("slow",))
    assert wanted.broken_by(ModelDescription.of(SPEC, FACTS), TAGS) == ("max_parameters", "tags")


def test_what_is_stored_is_what_was_stated() -> None:
    wanted = ModelConstraints(max_parameters=0, licenses=("mit", "x"))
    assert wanted.as_dict() == {"max_parameters": 0, "licenses": ["mit", "x"]}
    assert ModelConstraints.from_dict(wanted.as_dict()) == wanted
    assert ModelConstraints.from_dict(None) == UNCONSTRAINED
    assert UNCONSTRAINED.as_dict() == {}
