"""The images of a panel as the kernels of a model's gradients see them.

Legend: P probes, K coordinates.

A panel of coordinates whose inner products are the mean kernel of some probes: what a score of features reads in place
of features. Its decomposition knows no labels, and is shared by all panels of the same images.
"""

from weakref import WeakKeyDictionary

import numpy as np

from app.scoring.gradients.coordinates import coordinates
from app.scoring.panel import Panel

_OF_KERNELS = 4
_Probes = tuple[int, ...]
_FOUND: WeakKeyDictionary[Panel, dict[_Probes, Panel]] = WeakKeyDictionary()


def gradient_panel(panel: Panel) -> Panel:
    """Return the images as the mean kernel of all probes sees them; the same for all scores of the panel.

    Raises:
        ValueError: the panel has no gradients; ``given`` tells.
        EvaluationFailed: ``invalid_gradients``.
    """
    return _of_probes(panel, tuple(range(_probes(panel))))


def panels_without_a_probe(panel: Panel) -> list[Panel]:
    """Return the same without each of the probes; none if there is only one, or if they are no random draw."""
    probes = range(_probes(panel) if panel.gradients is not None and panel.gradients.drawn else 0)
    return [
        _of_probes(panel, tuple(one for one in probes if one != left_out)) for left_out in probes if len(probes) > 1
    ]


def _probes(panel: Panel) -> int:
    if panel.gradients is None:
        raise ValueError("this panel has no gradients")
    return len(panel.gradients.centred_PNN)


def _of_probes(panel: Panel, probes: _Probes) -> Panel:
    found = _FOUND.setdefault(panel, {})
    if probes not in found:
        if probes not in panel.of_any_labels:
            panel.of_any_labels[probes] = _decomposed(panel, probes)
        found[probes] = panel.of_any_labels[probes].with_labels(panel.labels_N)
    return found[probes]


def _decomposed(panel: Panel, probes: _Probes) -> Panel:
    assert panel.gradients is not None  # the number of probes was known
    rows_NK = coordinates(panel.gradients, np.array(probes))
    # The kernels are in memory as they are: what takes a few times as much is, too.
    memory_bytes = max(panel.workspace.memory_bytes, _OF_KERNELS * panel.gradients.centred_PNN.nbytes)
    base = Panel(rows_NK, panel.labels_N, units=panel.units_N, products=panel.products, memory_bytes=memory_bytes)
    if not base.constant:
        _ = base.spectrum  # before labels are put on it, so that all of them share it
    return base
