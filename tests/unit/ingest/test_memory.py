"""What a preparation takes in memory does not grow with the archive."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fixtures.image_files import encoded

ROOT = Path(__file__).parents[3]
SCRIPT = """
import resource, sys
from pathlib import Path
from app.ingest.prepare import prepare
peaks = []
for name in ("small.zip", "large.zip"):
    report = prepare(Path(sys.argv[1], name), Path(sys.argv[1])).report
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(report["files"]["used"], *peaks)
"""


def write_noise(path: Path, count: int) -> None:
    """Images of noise, stored as they are, 768 KiB each."""
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            pixels = generator.integers(0, 256, (512, 512, 3), np.uint8)
            data = encoded(Image.fromarray(pixels), "PNG", compress_level=0)
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", data)


def test_memory_is_constant_in_the_archive(tmp_path):
    write_noise(tmp_path / "small.zip", 30)
    write_noise(tmp_path / "large.zip", 180)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    used, small, large = map(int, run.stdout.split())
    assert used == 180
    assert large - small < 40, f"{small} MiB for 23 MiB of images, {large} MiB for 135 MiB"
