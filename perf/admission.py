"""Seconds of each admission check on this machine's CPU: a ResNet-50 with random weights, and packaged networks."""

import sys
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from app.domain.model_spec import Head, ModelSpec, Preprocessing, SafetensorsSource
from app.manifest import read_manifest
from workers.zoo.admission import CHECKS, admit
from workers.zoo.download import file_sha256

CACHE = Path(".cache/weights")
PACKAGED = ("mobilenetv2-imagenet", "efficientnet-lite2", "vgg16-hed-edges")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def resnet50(folder: Path) -> ModelSpec:
    """Write a ResNet-50 that was never trained, but for scales that differ, as training leaves them."""
    torch.manual_seed(0)
    network = timm.create_model("resnet50", num_classes=1000)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.9, 1.1)
            part.running_mean.normal_(0, 0.1)
    file = folder / "resnet50.safetensors"
    save_file(network.state_dict(), file)
    return ModelSpec(
        name="resnet50",
        source=SafetensorsSource(uri=file.as_uri(), sha256=file_sha256(file)),
        architecture="timm:resnet50",
        license="Apache-2.0",
        preprocessing=Preprocessing(resize=256, crop=(224, 224), interpolation="bilinear", mean=MEAN, std=DEVIATION),
        head=Head(num_classes=1000, label_set="random"),
    )


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    specs = {spec.name: spec for spec in read_manifest()}
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for spec in (resnet50(Path(folder)), *(specs[name] for name in PACKAGED)):
            cache = Path(folder) / "cache" if spec.name == "resnet50" else CACHE
            seconds[spec.name] = {check["name"]: check["seconds"] for check in admit(spec, cache).checks}
    print(f"{torch.get_num_threads()} threads\n")
    print("| check | " + " | ".join(f"{name}, s" for name in seconds) + " |\n|" + "---|" * (1 + len(seconds)))
    for check in CHECKS:
        print(f"| `{check}` | " + " | ".join(f"{times[check]:.2f}" for times in seconds.values()) + " |")
    print("| all | " + " | ".join(f"{sum(times.values()):.1f}" for times in seconds.values()) + " |")


if __name__ == "__main__":
    main()
