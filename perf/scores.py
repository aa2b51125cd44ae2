"""Every score against the installable public implementation and against code written from the papers.

Same arrays, same threads, same run: the implementations take turns, more of them where they are brief, and the median
counts. Once the other one's turns have taken five seconds there are no more, and where one did, code from a paper is
left out at larger sizes. Features are float32, as networks emit them; the product computes in float64. What the other
code computes in float32 is timed in both, with the digits that are lost. Memory is the peak of the process above what
it held before (Linux).
"""

import argparse
import importlib
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from app.domain.resampling import resample_weights, resampled_values
from app.scoring import Panel, compute, find, measure
from perf import naive_scores as naive

SIZES = {"s": (500, 512, 10), "m": (2000, 2048, 100), "l": (10_000, 2048, 100)}
SOURCE_CLASSES = 1000
RANKER = ("transformer-ranker==0.2.0", "torchmetrics==1.9.0", "lightning-utilities==0.15.3")
PEERS = Path(".cache/peers")
SLOW_S = 5.0
BRIEF_S = 0.3
PANEL = (
    "lfc", "lfc_offdiagonal", "lfc_centered", "lfc_cosine", "logme", "hscore", "hscore_regularized", "transrate",
    "transrate_scalefree", "gbc_spherical", "gbc_diagonal", "parc", "fisher_ratio", "separation_index", "knn", "lda",
    "ridge_gcv", "ridge_loo", "etran_class", "nce", "leep", "participation_ratio",
)  # fmt: skip


@dataclass
class Arrays:
    """The input of one size."""

    features_ND: np.ndarray
    labels_N: np.ndarray
    probabilities_NZ: np.ndarray
    reference_NR: np.ndarray

    def panel(self, memory_bytes: int | None = None) -> Panel:
        """Return the product's view of it."""
        return Panel(
            self.features_ND,
            self.labels_N,
            source_probabilities=self.probabilities_NZ,
            reference_features=self.reference_NR,
            memory_bytes=memory_bytes,
        )


@dataclass
class Timed:
    """What one implementation took."""

    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    value: float = float("nan")


def arrays(size: tuple[int, int, int], seed: int = 0) -> Arrays:
    """Return features as a network with ReLU emits them, of classes that overlap."""
    images, dimensions, classes = size
    random = np.random.default_rng(seed)
    labels_N = np.arange(images) % classes
    mixing_DD = random.normal(size=(dimensions, dimensions)) * (np.arange(1, dimensions + 1) ** -0.4)
    latent_ND = random.normal(size=(images, dimensions)) + random.normal(size=(classes, dimensions))[labels_N] * 0.5
    features_ND = np.maximum(latent_ND @ mixing_DD.T / np.sqrt(dimensions) + 0.2, 0).astype(np.float32)
    logits_NZ = features_ND[:, :256] @ random.normal(size=(256, SOURCE_CLASSES)).astype(np.float32)
    logits_NZ -= logits_NZ.max(axis=1, keepdims=True)
    probabilities_NZ = np.exp(logits_NZ)
    probabilities_NZ /= probabilities_NZ.sum(axis=1, keepdims=True)
    reference_NR = np.maximum(features_ND[:, ::-1] + 0.3 * random.normal(size=features_ND.shape), 0).astype(np.float32)
    return Arrays(features_ND, labels_N, probabilities_NZ, reference_NR)


def ranker() -> dict[str, Callable[..., float]]:
    """Return transformer-ranker's estimators, installed beside the project."""
    if not (PEERS / "transformer_ranker").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PEERS), *RANKER]
        subprocess.run(command, check=True)
    import torch

    sys.path.insert(0, str(PEERS))
    # The package itself imports transformers and datasets; its estimators need neither.
    package = type(sys)("transformer_ranker")
    package.__path__ = [str(PEERS / "transformer_ranker")]
    sys.modules["transformer_ranker"] = package
    estimators = importlib.import_module("transformer_ranker.estimators")

    def fit(name: str, data: Arrays) -> float:
        estimator = getattr(estimators, name)(regression=False)
        value = estimator.fit(embeddings=torch.from_numpy(data.features_ND), labels=torch.from_numpy(data.labels_N))
        return float(value)

    return {name: partial(fit, name) for name in ("LogME", "HScore", "NearestNeighbors")}


def rivals(public: dict[str, Callable[..., float]]) -> list[tuple[str, str, Callable[[Arrays], float]]]:
    """Return (our score, who computes it otherwise, how)."""

    def of_features(function: Callable[..., float]) -> Callable[[Arrays], float]:
        return lambda data: function(data.features_ND, data.labels_N)

    def of_head(function: Callable[..., float]) -> Callable[[Arrays], float]:
        return lambda data: function(data.labels_N, data.probabilities_NZ)

    def of_reference(function: Callable[..., float]) -> Callable[[Arrays], float]:
        return lambda data: function(data.features_ND, data.reference_NR)

    found: list[tuple[str, str, Callable[[Arrays], float]]] = [
        ("logme", "transformer-ranker", public["LogME"]),
        ("hscore_regularized", "transformer-ranker", public["HScore"]),
        ("knn", "transformer-ranker", public["NearestNeighbors"]),
    ]
    names = ("lfc", "hscore", "hscore_regularized", "logme", "transrate", "gbc_diagonal", "parc", "knn", "sfda")
    found += [(name, "paper", of_features(getattr(naive, name))) for name in (*names, "etran_class")]
    found.append(("lfc", "paper, in float64", lambda data: naive.lfc(data.features_ND.astype(float), data.labels_N)))
    found += [(name, "paper", of_head(getattr(naive, name))) for name in ("leep", "nce")]
    found += [(name, "paper", of_reference(getattr(naive, name))) for name in ("dds", "rsa")]
    # Both call it nearest neighbours; of ours, the one by Euclidean distance is the same thing.
    return [(("separation_index" if name == "knn" else name), who, call) for name, who, call in found]


def peak_mib() -> float:
    """Return the highest memory of the process since ``reset_peak``, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def reset_peak() -> None:
    """Start measuring memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def run(timed: Timed, call: Callable[[], float]) -> None:
    """Time one call."""
    reset_peak()
    before = peak_mib()
    started = time.perf_counter()
    timed.value = call()
    timed.seconds.append(time.perf_counter() - started)
    timed.peak_mib = max(timed.peak_mib, peak_mib() - before)


def ours(name: str, data: Arrays) -> float:
    """Compute one score on its own, from the arrays that it reads, checks of them included."""
    inputs = find(name).inputs
    return compute(
        name,
        data.features_ND,
        data.labels_N,
        source_probabilities=data.probabilities_NZ if "source_probabilities" in inputs else None,
        reference_features=data.reference_NR if "reference_features" in inputs else None,
    ).value


def compare(data: Arrays, turns: int, public: dict[str, Callable[..., float]], slow: set[str]) -> None:
    """Print a row for every rival but the slow ones; add those that turn out to be slow."""
    print("| score | against | theirs s | ours s | ratio | turns | theirs MiB | ours MiB | theirs | ours |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, who, call in rivals(public):
        if f"{name}, {who}" in slow:
            print(f"| `{name}` | {who} | left out | | | | | | | |")
            continue
        their, our = Timed(), Timed()
        while sum(their.seconds) < (BRIEF_S if len(their.seconds) >= turns else SLOW_S):
            run(their, partial(call, data))
            run(our, partial(ours, name, data))
        if sum(their.seconds) > SLOW_S * len(their.seconds) and who != "transformer-ranker":
            slow.add(f"{name}, {who}")
        a, b = statistics.median(their.seconds), statistics.median(our.seconds)
        print(
            f"| `{name}` | {who} | {a:.3f} | {b:.3f} | {a / b:.2f}x | {len(their.seconds)} "
            f"| {their.peak_mib:.0f} | {our.peak_mib:.0f} | {their.value:.4g} | {our.value:.4g} |",
            flush=True,
        )


def digits_lost(data: Arrays) -> None:
    """Print how far the label-feature correlation in float32 is off."""
    exact = naive.lfc(data.features_ND.astype(np.float64), data.labels_N)
    single = abs(naive.lfc(data.features_ND, data.labels_N) / exact - 1)
    print(f"\nRelative error of `lfc`: paper, in float32 {single:.0e}; ours {abs(ours('lfc', data) / exact - 1):.0e}.")


def whole_panel(data: Arrays) -> int:
    """Compute the panel with 1,000 resamples of what has influences; return how many scores were resampled."""
    panel = data.panel(memory_bytes=512 << 20)
    labels_N, results = panel.labels_N, [measure(name, panel) for name in PANEL]
    del panel
    weights_RN = resample_weights(labels_N, 1000)
    influential = [result for result in results if result.influence_N is not None]
    for result in influential:
        resampled_values(result.value, result.influence_N, weights_RN)
    return len(influential)


def arrays_mib(data: Arrays) -> float:
    """Return how much the arrays of the whole panel take at its peak, in MiB, whatever the heap keeps of them."""
    tracemalloc.start()
    whole_panel(data)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def panel_against_logme(data: Arrays, turns: int, public: dict[str, Callable[..., float]]) -> None:
    """Print the whole panel against one value of the public LogME."""
    one, all_of_it, alone = Timed(), Timed(), Timed()
    for _ in range(turns):
        run(one, lambda: public["LogME"](data))
        run(all_of_it, lambda: whole_panel(data))
        run(alone, lambda: sum(ours(name, data) for name in PANEL))
    one_s, all_s, alone_s = (statistics.median(timed.seconds) for timed in (one, all_of_it, alone))
    features_mib = data.features_ND.size * 8 / 2**20
    print("\n| | s | over public LogME | peak MiB | over the features in float64 |\n|---|--:|--:|--:|--:|")
    print(f"| one value of transformer-ranker's LogME | {one_s:.2f} | 1 | {one.peak_mib:.0f} | |")
    print(
        f"| {len(PANEL)} scores, {all_of_it.value:.0f} of them with 1,000 resamples, on one panel | {all_s:.2f} "
        f"| {all_s / one_s:.2f} | {all_of_it.peak_mib:.0f} | {all_of_it.peak_mib / features_mib:.1f} |"
    )
    print(f"| the same scores one by one, without resamples | {alone_s:.2f} | {alone_s / one_s:.2f} | | |")
    held_mib = arrays_mib(data)
    print(
        f"\nThe panel's arrays peak at {held_mib:.0f} MiB, {held_mib / features_mib:.2f} times the features in float64."
    )


def main() -> None:
    """Print the tables of the sizes asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["s", "m"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    public = ranker()
    slow: set[str] = set()
    with threadpool_limits(options.threads):
        for key in options.sizes:
            data = arrays(SIZES[key])
            print(f"\n## n, d, C = {SIZES[key]}, {options.threads} threads\n")
            compare(data, options.turns, public, slow)
            digits_lost(data)
            if key == "m":
                panel_against_logme(data, options.turns, public)


if __name__ == "__main__":
    main()
