"""The application: ``create_app(settings)`` puts the routes, the parts and the error handling together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from app.api import (
    audit,
    datasets,
    events,
    explanations,
    finetunes,
    forecasts,
    health,
    keys,
    metrics,
    model_import,
    models,
    plan,
    problems,
    queue,
    results,
    selections,
    tenants,
    usage,
    webhooks,
    weights,
    zoos,
)
from app.api.access import Service
from app.api.body_limit import MAX_MANIFEST_BYTES, LimitJsonBodies
from app.api.changes import Changes
from app.api.envelopes import refuse_unstorable_url
from app.api.observe import Observe, traced_requests
from app.api.query import KnownParameters
from app.api.rate_limits import RateLimits, TellRateLimit
from app.api.recent_callers import LastUses
from app.bell import make_bell
from app.config import Settings
from app.storage.database import Database
from app.storage.objects import Objects
from app.tracing import Tracing

DESCRIPTION = """
Which pretrained model should I fine-tune on my images? Upload a labelled data set, ask for a selection, poll its
ranking.

Every route but the health checks wants `Authorization: Bearer <key>`. Errors are `application/problem+json` with a
stable `code`, the `param` at fault and a `hint`.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the ASGI application; it connects to its database on first use."""
    settings = settings or Settings()
    database = Database(settings.database_url)

    last_uses, rate_limits = LastUses(database), RateLimits(settings)
    tracing = Tracing(settings.otlp_endpoint, service="foretune-api")

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        writing = asyncio.create_task(_write_every_second(last_uses))
        yield
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await run_in_threadpool(last_uses.write)
        await rate_limits.close()
        await run_in_threadpool(tracing.close)
        database.close()

    api = FastAPI(
        title="Foretune",
        version="0.1.0",
        summary="Model selection before training",
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        redirect_slashes=False,  # a redirected upload would be sent twice
        dependencies=[Depends(refuse_unstorable_url)],
        telemetry=traced_requests(tracing),
    )
    objects = Objects(settings.objects_url, settings.s3)
    bell = make_bell(settings.broker_url)
    api.state.service = Service(settings, database, objects, bell, rate_limits, last_uses, Changes(database))
    api.state.checks = health.Checks(api.state.service)
    api.state.metrics = metrics.Metrics(api.state.service, api.state.checks)
    problems.install(api)
    known_parameters = Depends(KnownParameters())
    of_models = (model_import, models, zoos, weights)  # the first has a path that the second would take for an id
    of_tenants = (keys, tenants, usage, audit, queue, webhooks)
    of_jobs = (datasets, selections, plan, results, explanations, forecasts, finetunes, events)
    for resource in (*of_jobs, *of_models, *of_tenants):
        api.include_router(resource.router, dependencies=[known_parameters])
    of_monitoring = (health, metrics)
    for monitored in of_monitoring:
        api.include_router(monitored.router)  # monitoring may add to the query what it likes
    routers = [resource.router for resource in (*of_jobs, *of_models, *of_tenants, *of_monitoring)]
    api.state.methods = problems.methods_by_path(routers)
    api.add_middleware(
        LimitJsonBodies,
        upload_paths=frozenset({"/v1/datasets", "/v1/weights"}),
        larger={"/v1/models/import": MAX_MANIFEST_BYTES},
    )
    api.add_middleware(TellRateLimit)
    api.add_middleware(Observe)
    return api


async def _write_every_second(last_uses: LastUses) -> None:
    while True:
        await asyncio.sleep(1)
        await run_in_threadpool(last_uses.write)
