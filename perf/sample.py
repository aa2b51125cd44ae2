"""Real images for the measurements: a larger sample than the example's (needs Debian's dataset-fashion-mnist)."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "make_fashion_mnist_sample.py"


def fashion_mnist_zip(path: Path, *, per_class: int) -> Path:
    """Write ``per_class`` images of each of the ten classes and return the path."""
    subprocess.run([sys.executable, str(SCRIPT), "--per-class", str(per_class), "--output", str(path)], check=True)
    return path
