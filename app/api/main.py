"""The application: ``create_app(settings)`` puts the routes, the parts and the error handling together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI

from app.api import (
    datasets,
    events,
    explanations,
    finetunes,
    forecasts,
    health,
    keys,
    model_import,
    models,
    plan,
    problems,
    results,
    selections,
    weights,
    zoos,
)
from app.api.access import Service
from app.api.body_limit import LimitJsonBodies
from app.api.envelopes import refuse_unstorable_url
from app.api.observe import Observe
from app.api.query import KnownParameters
from app.bell import make_bell
from app.config import Settings
from app.storage.database import Database
from app.storage.objects import Objects

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

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        yield
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
    )
    api.state.service = Service(settings, database, Objects(settings.objects_url), make_bell(settings.broker_url))
    problems.install(api)
    known_parameters = Depends(KnownParameters())
    of_models = (model_import, models, zoos, weights)  # the first has a path that the second would take for an id
    for resource in (datasets, selections, plan, results, explanations, forecasts, finetunes, events, *of_models, keys):
        api.include_router(resource.router, dependencies=[known_parameters])
    api.include_router(health.router)  # monitoring may add to the query what it likes
    api.add_middleware(LimitJsonBodies, upload_paths=frozenset({"/v1/datasets", "/v1/weights"}))
    api.add_middleware(Observe)
    return api
