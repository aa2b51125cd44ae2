"""/healthz and /readyz: for load balancers and orchestrators; no key needed."""

from typing import Literal

import structlog
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.api.access import Service
from app.api.probe import Probe
from app.storage.repositories.workers import alive

router = APIRouter(tags=["health"])
log = structlog.get_logger()

OK = "ok"
NEEDED = ("database", "objects")
"""Without these nothing can be answered; without the others work is late."""


class Readiness(BaseModel):
    """What works: `degraded` answers requests, and work may be late."""

    status: Literal["ready", "degraded", "down"]
    checks: dict[str, str]


class Checks:
    """Whether what the service stands on answers; each check takes two seconds at most."""

    def __init__(self, service: Service) -> None:
        """Look at nothing yet."""
        self._service = service
        self._probes = {
            "database": Probe(self._database),
            "objects": Probe(self._objects),
            "broker": Probe(self._broker),
            "workers": Probe(self._workers),
        }

    async def states(self) -> dict[str, str]:
        """Return ``ok`` or what is wrong, by check."""
        for probe in self._probes.values():
            probe.begin()  # all at the same time
        return {name: await _state(name, probe) for name, probe in self._probes.items()}

    def _database(self) -> str:
        with self._service.database.read() as session:
            session.execute(select(1))
        return OK

    def _objects(self) -> str:
        self._service.objects.check()
        return OK

    def _broker(self) -> str:
        return OK if self._service.bell.reachable() else "unreachable: work is found by the workers' sweep"

    def _workers(self) -> str:
        try:
            with self._service.database.read() as session:
                return OK if alive(session) else "no worker was seen lately"
        except SQLAlchemyError:
            return "not known without the database"


async def _state(name: str, probe: Probe[str]) -> str:
    try:
        return await probe.answer()
    except TimeoutError as silent:
        log.error("readyz.silent", check=name)
        return str(silent)
    except Exception as error:  # noqa: BLE001  (each part has its own errors; all of them mean the same here)
        log.error("readyz.unreachable", check=name, error=str(error))
        return "unreachable"


def checks_of(request: Request) -> Checks:
    """Return the checks of the service that answers this request."""
    checks: Checks = request.app.state.checks
    return checks


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> dict[str, str]:
    """Answer as long as the process lives."""
    return {"status": "alive"}


@router.get("/readyz", summary="Can it work?", responses={503: {"model": Readiness, "description": "Down"}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Try the database, the object store, the broker, and look for workers; answer within a few seconds in any case."""
    checks = await checks_of(request).states()
    if any(checks[name] != OK for name in NEEDED):
        response.status_code = 503
        return Readiness(status="down", checks=checks)
    is_ready = all(state == OK for state in checks.values())
    return Readiness(status="ready" if is_ready else "degraded", checks=checks)
