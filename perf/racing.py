"""Races (app/domain/racing.py) of the packaged zoo on real images: the work saved, and how often the winner is lost.

Features of all images are extracted once, on one thread, and kept in .cache/racing; so are the probes' answers. A race
goes through the images in a random order of its own. Its winner is lost if it drops the model that is first when every
model sees every image. Fashion-MNIST is installed by hand (apt-get install dataset-fashion-mnist); fonts and emoji are
Debian's, downloaded and unpacked in the cache.

Legend: N images of a data set, S images of a look, J models, D features, R races.
"""

import argparse
import io
import subprocess
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from app.domain.racing import eliminated
from app.domain.ranking import Candidate, rank, wilson_interval
from app.domain.sampling import stratified_sample
from app.domain.subsets import FIRST_LOOK, looks
from app.manifest import PACKAGED, read_manifest
from app.scoring import Panel, measure
from perf.sample import fashion_mnist_zip
from workers.extract.features import extract
from workers.zoo.network import load_network
from workers.zoo.sources import cached_weights

CACHE = Path(".cache/racing")
ERROR_PROBABILITY = 0.05
BATCH = 32
LETTERS = "abcdefghkmnpqrstuwyz"
# Open Font License, MIT or Apache; one design each, and no capitals in place of small letters.
FONTS = (
    *("allerta", "anonymous-pro", "averia-gwf", "blankenburg", "breip", "cabinsketch", "comfortaa", "comic-neue"),
    *("courier-prime", "dancingscript", "dkg-handwriting", "dosis", "ecolier-court", "fanwood", "fantasque-sans"),
    *("junction", "kaushanscript", "kristi", "leckerli-one", "vollkorn", "lobster", "oldstandard"),
    *("quicksand", "roboto-slab", "yanone-kaffeesatz"),
)
Images = tuple[list[Image.Image], list[str]]


def fashion(per_class: int) -> Images:
    """Photographs of clothes, Fashion-MNIST (MIT)."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(fashion_mnist_zip(CACHE / "fashion.zip", per_class=per_class)) as archive:
        names = archive.namelist()
        images = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    return images, [Path(name).parent.name for name in names]


def digits(per_class: int) -> Images:
    """Handwritten digits of 8 x 8 pixels: the first of every class (scikit-learn, BSD)."""
    data = load_digits()
    rows = np.sort(np.concatenate([np.flatnonzero(data.target == label)[:per_class] for label in range(10)]))
    pixels = np.rint(data.images[rows] * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(image).convert("RGB") for image in pixels], [str(label) for label in data.target[rows]]


def emoji(per_class: int) -> Images:
    """Noto's emoji (OFL) of one code point; the class is Unicode's group, such as Food & Drink."""
    listed = (unpacked("unicode-data") / "usr/share/unicode/emoji/emoji-test.txt").read_text(encoding="utf-8")
    groups: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if line.startswith("# group:"):
            group = groups.setdefault(line.removeprefix("# group:").strip(), [])
        points = line.partition(";")[0].split()
        if "; fully-qualified" in line and points[1:] in ([], ["FE0F"]):
            group.append(chr(int(points[0], 16)))
    [file] = unpacked("fonts-noto-color-emoji").rglob("*.ttf")
    font = ImageFont.truetype(file, 109, layout_engine=ImageFont.Layout.BASIC)
    random = np.random.default_rng(0)
    large = {group: signs for group, signs in groups.items() if len(signs) >= per_class}
    chosen = [(sign, group) for group in large for sign in random.choice(large[group], per_class, replace=False)]
    return [drawn(sign, font, (136, 128), colour=True) for sign, _ in chosen], [group for _, group in chosen]


def letters(per_class: int) -> Images:
    """Twenty small letters, each in several fonts of Debian."""
    images, labels = [], []
    for name in FONTS[:per_class]:
        files = [file for file in unpacked(f"fonts-{name}").rglob("*.[ot]tf") if not file.is_symlink()]
        file = min(files, key=lambda file: ("italic" in file.name.lower(), "regular" not in file.name.lower(), file))
        font = ImageFont.truetype(file, 48)
        images += [drawn(letter, font, (64, 64)) for letter in LETTERS]
        labels += LETTERS
    return images, labels


def drawn(text: str, font: ImageFont.FreeTypeFont, size: tuple[int, int], *, colour: bool = False) -> Image.Image:
    image = Image.new("RGB", size, "white")
    left, top, right, bottom = font.getbbox(text)
    corner = ((size[0] - left - right) / 2, (size[1] - top - bottom) / 2)
    ImageDraw.Draw(image).text(corner, text, "black", font, embedded_color=colour)
    return image


def unpacked(package: str) -> Path:
    """Return the folder of a Debian package's files, downloaded the first time."""
    folder = CACHE.absolute() / "packages" / package
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], check=True, cwd=folder.parent)
        [archive] = folder.parent.glob(f"{package}_*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    return folder


DATA_SETS = {"fashion": (fashion, 40), "digits": (digits, 40), "emoji": (emoji, 50), "letters": (letters, 25)}


@dataclass(frozen=True)
class Pool:
    """A data set as every model sees it.

    ``seconds_J`` is processor time for an image, decoding included; ``probe_seconds`` that of a probe, by images.
    ``answers`` holds by number of images whether each probe was right (R x S x J), ``rows`` which images these are.
    """

    name: str
    models: list[Candidate]
    labels_N: NDArray[np.intp]
    seconds_J: NDArray[np.float64]
    rows: dict[int, NDArray[np.intp]]
    answers: dict[int, NDArray[np.bool_]]
    probe_seconds: dict[int, NDArray[np.float64]]

    def full(self) -> NDArray[np.bool_]:
        """Return whether the probes of all images are right (N x J)."""
        images = len(self.labels_N)
        return np.asarray(self.answers[images][0][np.argsort(self.rows[images][0])])

    def candidates(self, correct_SJ: NDArray[np.bool_], left: Sequence[int]) -> list[Candidate]:
        return [replace(self.models[j], correct_N=correct_SJ[:, j]) for j in left]

    def without(self, names: Sequence[str]) -> "Pool":
        """Return the same races of fewer models."""
        left = [j for j, model in enumerate(self.models) if model.id not in names]
        return replace(
            self,
            models=[self.models[j] for j in left],
            seconds_J=self.seconds_J[left],
            answers={size: correct_RSJ[..., left] for size, correct_RSJ in self.answers.items()},
            probe_seconds={size: seconds_J[left] for size, seconds_J in self.probe_seconds.items()},
        )


def pool(name: str, races: int, first: int, weights: Path) -> Pool:
    build, per_class = DATA_SETS[name]
    images, classes = build(per_class)
    labels_N = np.unique(classes, return_inverse=True)[1]
    models, features, seconds = [], [], []
    for spec in read_manifest(PACKAGED):
        kept = CACHE / f"{name}-{spec.digest[:16]}.npz"
        if not kept.is_file():
            network = load_network(spec, cached_weights(spec.source, weights))
            extract(network, images[:BATCH], batch_size=BATCH)
            started = time.process_time()
            found = extract(network, images, batch_size=BATCH).features_ND
            spent = (time.process_time() - started) / len(images)
            np.savez(kept, features_ND=found, seconds=spent, parameters=network.num_parameters)
        with np.load(kept) as file:
            features.append(file["features_ND"])
            seconds.append(float(file["seconds"]))
            parameters = int(file["parameters"])
        models.append(Candidate(id=spec.name, name=spec.name, parameters=parameters, correct_N=np.array([], bool)))
    sizes = looks(len(labels_N), classes=len(set(classes)), first=first)
    rows = {size: np.array([order(labels_N, race, size) for race in range(races)]) for size in sizes[:-1]}
    # As files lie, a font's letters would all be held out together, which in the smaller looks they are not.
    rows[sizes[-1]] = np.random.default_rng(0).permutation(len(labels_N))[None]
    answers, probe_seconds = {}, {}
    for size in sizes:
        answers[size], probe_seconds[size] = probes(name, features, labels_N, rows[size])
    return Pool(name, models, labels_N, np.array(seconds), rows, answers, probe_seconds)


def order(labels_N: NDArray[np.intp], race: int, size: int) -> NDArray[np.intp]:
    """Return the first images of a race's own class-balanced order; more images always contain fewer."""
    keys = [f"{place:06d}" for place in np.random.default_rng(race).permutation(len(labels_N))]
    return stratified_sample(labels_N, keys, size)


def probes(
    name: str, features: list[NDArray[np.float32]], labels_N: NDArray[np.intp], rows_RS: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return whether each held-out answer is right (R x S x J), and a probe's mean seconds (J)."""
    kept = CACHE / f"{name}-probes-{len(rows_RS)}x{rows_RS.shape[1]}.npz"
    if not kept.is_file():
        correct_RSJ = np.zeros((*rows_RS.shape, len(features)), dtype=bool)
        seconds_J = np.zeros(len(features))
        for race, rows_S in enumerate(rows_RS):
            for j, features_ND in enumerate(features):
                started = time.process_time()
                answer = measure("linear_probe", Panel(features_ND[rows_S], labels_N[rows_S]))
                seconds_J[j] += (time.process_time() - started) / len(rows_RS)
                correct_RSJ[race, :, j] = answer.per_image_N
        np.savez(kept, correct_RSJ=correct_RSJ, seconds_J=seconds_J)
    with np.load(kept) as file:
        return file["correct_RSJ"], file["seconds_J"]


@dataclass(frozen=True)
class Race:
    """How a race went: the models at its end, and its work as a share of all models' on all images."""

    left: list[int]
    dropped_at: dict[int, int]
    work: float
    work_with_probes: float


def run(pool: Pool, race: int, keep: int, *, learning: bool = True) -> Race:
    """Run one race; without ``learning`` the probes of all images answer at every look, for the images drawn."""
    sizes = list(pool.answers)
    left = list(range(len(pool.models)))
    dropped_at: dict[int, int] = {}
    forward = probing = done = 0.0
    for size in sizes:
        forward += (size - done) * pool.seconds_J[left].sum()
        probing += pool.probe_seconds[size][left].sum()
        done = size
        if size == sizes[-1]:
            break
        rows_S = pool.rows[size][race]
        correct_SJ = pool.answers[size][race] if learning else pool.full()[rows_S]
        gone = eliminated(
            pool.candidates(correct_SJ, left),
            pool.labels_N[rows_S],
            keep=keep,
            error_probability=ERROR_PROBABILITY,
            number_of_looks=len(sizes) - 1,
        )
        dropped_at |= {j: size for j in left if pool.models[j].id in gone}
        left = [j for j in left if j not in dropped_at]
    whole = sizes[-1] * pool.seconds_J.sum()
    whole_with_probes = whole + pool.probe_seconds[sizes[-1]].sum()
    return Race(left, dropped_at, forward / whole, (forward + probing) / whole_with_probes)


@dataclass(frozen=True)
class Tally:
    """What several races with one ``keep`` came to; ``first`` are the true first ``keep`` models, best first."""

    races: list[Race]
    still: list[Race]
    first: list[int]
    accuracy_J: NDArray[np.float64]

    def lost(self) -> int:
        return sum(self.first[0] in race.dropped_at for race in self.races)

    def any_lost(self) -> int:
        return sum(any(j in race.dropped_at for j in self.first) for race in self.races)

    def any_lost_by_chance(self) -> int:
        return sum(any(j in race.dropped_at for j in self.first) for race in self.still)

    def points_lost(self) -> NDArray[np.float64]:
        best = self.accuracy_J[self.first[0]]
        return np.array([100 * (best - self.accuracy_J[race.left].max()) for race in self.races])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=50, help="of each data set")
    parser.add_argument("--first", type=int, default=FIRST_LOOK, help="images of the first look")
    parser.add_argument("--weights", type=Path, default=Path(".cache/weights"))
    parser.add_argument("--without", nargs="*", default=[], help="models to leave out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tallies: dict[tuple[str, int], Tally] = {}
    with threadpool_limits(1, user_api="blas"):
        for name in DATA_SETS:
            found = pool(name, options.races, options.first, options.weights).without(options.without)
            describe(found)
            for keep in (1, 3):
                tallies[name, keep] = tally = tallied(found, keep)
                print(f"  k={keep}, dropped in how many races (without learning):", end="")
                for j, model in enumerate(found.models):
                    counts = [sum(j in race.dropped_at for race in races) for races in (tally.races, tally.still)]
                    print(f" {model.name} {counts[0]} ({counts[1]})", end="")
                print()
                for number, race in enumerate(tally.races):
                    for j in set(tally.first) & set(race.dropped_at):
                        print(f"  k={keep}, race {number}: {found.models[j].name} lost at {race.dropped_at[j]} images")
    summarise(tallies)


def tallied(pool: Pool, keep: int) -> Tally:
    ranking = rank(pool.candidates(pool.full(), range(len(pool.models))), pool.labels_N)
    place = {model.id: j for j, model in enumerate(pool.models)}
    races = range(len(pool.rows[min(pool.rows)]))
    return Tally(
        races=[run(pool, race, keep) for race in races],
        still=[run(pool, race, keep, learning=False) for race in races],
        first=[place[model.id] for model in ranking.models[:keep]],
        accuracy_J=pool.full().mean(axis=0),
    )


def describe(pool: Pool) -> None:
    """Print every model's place, cost and mean accuracy at each look."""
    sizes = list(pool.answers)
    ranking = rank(pool.candidates(pool.full(), range(len(pool.models))), pool.labels_N)
    print(f"\n{pool.name}: {sizes[-1]} images, {pool.labels_N.max() + 1} classes, looks {sizes}")
    print(f"  {ranking.verdict}")
    place = {model.id: j for j, model in enumerate(pool.models)}
    for model in ranking.models:
        j = place[model.id]
        curve = " ".join(f"{pool.answers[size][..., j].mean():.3f}" for size in sizes)
        probing = " ".join(f"{1000 * pool.probe_seconds[size][j]:.0f}" for size in sizes)
        image = f"{1000 * pool.seconds_J[j]:.1f} ms an image"
        print(f"  {model.name:22} group {model.tie_group}, {image}, probes {probing} ms, accuracy {curve}")


def summarise(tallies: dict[tuple[str, int], Tally]) -> None:
    print(
        "\n| data set | k | work saved (least to most) | with probes | winner lost | points lost, mean (most) |", end=""
    )
    print(" any of the first k lost | the same without learning |\n|---|---|---|---|---|---|---|---|")
    for (name, keep), tally in tallies.items():
        print(row(name, keep, [tally]))
    for keep in (1, 3):
        print(row("all", keep, [tally for (_, k), tally in tallies.items() if k == keep]))


def row(name: str, keep: int, tallies: list[Tally]) -> str:
    races = [race for tally in tallies for race in tally.races]
    saved_R = np.array([1 - race.work for race in races])
    with_probes = float(np.mean([1 - race.work_with_probes for race in races]))
    points_R = np.concatenate([tally.points_lost() for tally in tallies])
    cells = [
        f"{name} | {keep} | {saved_R.mean():.0%} ({saved_R.min():.0%} to {saved_R.max():.0%}) | {with_probes:.0%}",
        share(sum(tally.lost() for tally in tallies), len(races)),
        f"{points_R.mean():.2f} ({points_R.max():.1f})",
        share(sum(tally.any_lost() for tally in tallies), len(races)),
        share(sum(tally.any_lost_by_chance() for tally in tallies), len(races)),
    ]
    return f"| {' | '.join(cells)} |"


def share(count: int, races: int) -> str:
    low, high = wilson_interval(count, races, 0.8)
    return f"{count}/{races} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
