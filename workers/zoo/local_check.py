"""``python -m workers.zoo.local_check FOLDER``: the admission checks of models that nobody registered.

Reads a JSON list of specifications from standard input, and keeps weights in FOLDER. Writes one JSON object a line:

    {"event": "start", "model": NAME, "check": NAME}
    {"event": "check", "model": NAME, "check": {...}}                    as ``workers.zoo.check_log.Check``
    {"event": "end", "model": NAME, "facts": {...}, "error": null}       or facts null and the error of what failed
"""

import json
import sys
from pathlib import Path
from typing import Any, TextIO

import structlog
import torch

from app.config import Settings
from app.domain.errors import ForetuneError, ModelRejected
from app.manifest import read_row
from app.storage.objects import Objects
from workers.zoo.admission import Check, admit
from workers.zoo.library_errors import first_line
from workers.zoo.transfer import Supervision
from workers.zoo.weights_cache import WeightsCache

log = structlog.get_logger()


def main() -> None:
    """Check each model on the device that a worker of this machine would use."""
    settings = Settings()
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if settings.threads:
        torch.set_num_threads(settings.threads)
    # What a library prints must not come between the lines.
    out, sys.stdout = sys.stdout, sys.stderr
    for data in json.load(sys.stdin):
        _check(data, Path(sys.argv[1]), settings, device, out)


def _check(data: dict[str, Any], cache: Path, settings: Settings, device: torch.device, out: TextIO) -> None:
    name = data.get("name")

    def tell(event: str, **values: Any) -> None:
        out.write(json.dumps({"event": event, "model": name, **values}) + "\n")
        out.flush()

    def tell_check(check: Check) -> None:
        tell("check", check=check)

    try:
        admission = admit(
            read_row(data)[0],
            WeightsCache(cache, settings.weights_cache_bytes),
            objects=Objects(settings.objects_url, settings.s3),
            device=device,
            on_start=lambda check: tell("start", check=check),
            on_check=tell_check,
            supervision=Supervision.of(settings),
        )
    except ForetuneError as error:
        tell("end", facts=None, error=error.as_dict())
    except Exception as error:  # one model's failure is not the next one's
        log.exception("check.crashed", model=name)
        told = f"The checks ended with {type(error).__name__}: {first_line(error)}"
        tell("end", facts=None, error=ModelRejected("internal_error", told, hint="See what was printed.").as_dict())
    else:
        tell("end", facts=admission.facts | {"resolved": admission.spec.as_dict()}, error=None)


if __name__ == "__main__":
    main()
