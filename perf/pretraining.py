"""Networks of families that no wheel ships, pretrained here: what forecasts are also held against.

Small and capital letters of Debian's fonts, turned, stretched, recoloured and blurred at random, 64 x 64 pixels. The
weights go to .cache/pretrained, with the accuracy on fonts that were not trained on; they are for measuring alone.

    OMP_NUM_THREADS=1 python -m perf.pretraining
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageFilter, ImageFont
from safetensors.torch import save_file
from torch import Tensor, nn

from app.domain.model_spec import ModelSpec, Preprocessing, Pretraining, SafetensorsSource
from perf.racing import FONTS, drawn, unpacked
from workers.zoo.download import file_sha256

FOLDER = Path(".cache/pretrained")
ARCHITECTURES = {"resnet18-letters": "timm:resnet18", "regnet-letters": "timm:regnety_002"}
STEPS = {"resnet18-letters": 700, "regnet-letters": 1600}
SIGNS = "ABCDEFGHJKLMNPQRTUYabdefghijklmnqrtuy"
HELD_OUT = FONTS[::6]
SIDE, BATCH = 64, 64
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05


def pretrained(name: str) -> ModelSpec:
    """Return the specification of weights that ``main`` left."""
    file = FOLDER / f"{name}.safetensors"
    return ModelSpec(
        name=name,
        source=SafetensorsSource(uri=file.absolute().as_uri(), sha256=file_sha256(file)),
        architecture=ARCHITECTURES[name],
        license="none: for measuring alone",
        preprocessing=Preprocessing(
            resize=None, crop=(SIDE, SIDE), interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
        ),
        pretraining=Pretraining(datasets=("letters of Debian's fonts",)),
    )


def rendered(fonts: tuple[str, ...]) -> tuple[list[Image.Image], np.ndarray]:
    """Return every sign in every face of these fonts, black on white, and which sign it is."""
    images, labels = [], []
    for name in fonts:
        for file in sorted(file for file in unpacked(f"fonts-{name}").rglob("*.[ot]tf") if not file.is_symlink())[:4]:
            font = ImageFont.truetype(file, 72)
            images += [drawn(sign, font, (96, 96)).convert("L") for sign in SIGNS]
            labels += range(len(SIGNS))
    return images, np.array(labels)


def augmented(image: Image.Image, random: np.random.Generator) -> np.ndarray:
    """Return the sign turned, stretched, moved, blurred and in two colours of its own (H x W x 3, in -1 .. 1)."""
    angle, scale_X, scale_Y = random.uniform(-0.35, 0.35), *np.exp(random.uniform(-0.25, 0.25, 2))
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ np.diag([scale_X, scale_Y])
    offset = 48 - matrix @ (48 + random.uniform(-6, 6, 2))
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    turned = image.transform((96, 96), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=255)
    if random.random() < 0.3:
        turned = turned.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2)))
    ink_HW = 1 - np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32) / 255
    paper, colour = random.uniform(0, 1, (2, 3))
    while abs(float(np.mean(paper - colour))) < 0.25:
        paper, colour = random.uniform(0, 1, (2, 3))
    mixed_HWC = ink_HW[..., None] * colour + (1 - ink_HW[..., None]) * paper
    return np.asarray(2 * (mixed_HWC + random.normal(0, 0.03, mixed_HWC.shape)) - 1, dtype=np.float32)


def batch(images: list[Image.Image], rows: np.ndarray, random: np.random.Generator) -> Tensor:
    """Return augmented images (B, 3, H, W)."""
    pixels_BHWC = np.stack([augmented(images[row], random) for row in rows])
    return torch.from_numpy(pixels_BHWC).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def train(architecture: str, steps: int, seed: int = 0) -> tuple[dict[str, Tensor], float]:
    """Return the weights without the classifier, and the accuracy on fonts not trained on."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    images, labels_N = rendered(tuple(font for font in FONTS if font not in HELD_OUT))
    network = timm.create_model(architecture.partition(":")[2], num_classes=len(SIGNS))
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        rows = random.integers(len(images), size=BATCH)
        loss = nn.functional.cross_entropy(network(batch(images, rows, random)), torch.from_numpy(labels_N[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"{architecture} step {step + 1}: batch loss {loss.item():.3f}", flush=True)
    network.eval()
    others, other_labels_N = rendered(HELD_OUT)
    right = 0
    with torch.inference_mode():
        for start in range(0, len(others), BATCH):
            rows = np.arange(start, min(start + BATCH, len(others)))
            right += int((network(batch(others, rows, random)).argmax(1).numpy() == other_labels_N[rows]).sum())
    network.reset_classifier(0)
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}, right / len(others)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, architecture in ARCHITECTURES.items():
        if (FOLDER / f"{name}.json").is_file():
            continue
        started = time.process_time()
        tensors, accuracy = train(architecture, STEPS[name])
        save_file(tensors, FOLDER / f"{name}.safetensors")
        facts = {"accuracy on other fonts": accuracy, "processor seconds": time.process_time() - started}
        (FOLDER / f"{name}.json").write_text(json.dumps(facts))
        print(name, facts)


if __name__ == "__main__":
    main()
