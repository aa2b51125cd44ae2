"""A model whose gradients cannot be had is ranked all the same: by its features, with what is missing explained."""

from pathlib import Path

import torch
from torch import Tensor, nn

from app.scoring import find
from app.scoring.registry import DEFAULT_SCORES, RANKED_BY
from tests.fixtures.subjects import make_subject
from tests.fixtures.weights import one_thread
from workers.evaluate import Task, _measure
from workers.zoo.check_log import Finding
from workers.zoo.differentiability import check_gradients
from workers.zoo.network import Network

__all__ = ["one_thread"]

SCORES = (*DEFAULT_SCORES, "lgc_centered")


class Distances(nn.Module):
    """A trunk whose features are distances to learnt points: whose image a gradient is of cannot be told."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.points = nn.Parameter(torch.randn(32, 96))

    def forward(self, batch_BCHW: Tensor) -> Tensor:
        return torch.cdist(self.trunk(batch_BCHW), self.points)


def test_only_the_scores_that_need_gradients_have_no_value(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with make_subject(tmp_path, gradient_images=24) as subject:
        loaded = subject.network
        network = Network(Distances(loaded.trunk), None, loaded.preprocess).requires_grad_(False)
        subject.network = network
        finding = Finding()
        assert not check_gradients(network, finding)
        task = Task("digest", subject.spec, {}, SCORES, subject.key, (), None, is_last=True, before=0.0)
        scores = _measure(subject, task, None).scores
    needy = {name for name in SCORES if find(name).needs_gradients}
    assert needy
    for name in SCORES:
        error = scores[name]["error"]
        if name in needy:
            assert scores[name]["value"] is None
            assert (error["code"], error["message"]) == (finding.code, finding.detail), "as its check has foretold"
            assert error["hint"]
        else:
            assert error is None or error["code"] != finding.code
    assert scores[RANKED_BY]["value"] is not None
