"""Errors as RFC 9457 problems: ``application/problem+json`` with a stable code, the field at fault and a hint."""

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from prometheus_client import Counter
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app.api.body_limit import BodyTooLarge
from app.domain.errors import BadRequest, ForetuneError, TooManyRequests
from app.storage.outage import database_unavailable, is_away, is_in_trouble

log = structlog.get_logger()

_PROBLEMS = Counter("foretune_problems_total", "Requests that were answered with a problem, by its code.", ["code"])
_TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    410: "Gone",
    413: "Payload too large",
    415: "Unsupported media type",
    422: "Unprocessable request",
    429: "Too many requests",
    500: "Internal error",
    503: "Service unavailable",
    507: "Insufficient storage",
}


class Problem(BaseModel):
    """An error as it is sent."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    param: str | None = None
    hint: str | None = None


_PROBLEM_SCHEMA = Problem.model_json_schema()
_SECONDS = {"description": "Seconds to wait before asking again.", "required": True, "schema": {"type": "integer"}}
_HEADERS = {
    401: {"WWW-Authenticate": {"description": "`Bearer`.", "required": True, "schema": {"type": "string"}}},
    429: {"Retry-After": _SECONDS},
    503: {"Retry-After": _SECONDS},
}
_ANYWHERE = (429, 503, 507)
"""Too many requests, an outage, and a full disk: PostgreSQL may need room to read, too."""


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None
    hint: str | None = None


def respond(request: Request, error: ForetuneError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the problem response of an error."""
    _PROBLEMS.labels(error.code).inc()
    problem = Problem(
        type=f"urn:foretune:error:{error.code}",
        title=_TITLES.get(error.http_status, "Error"),
        status=error.http_status,
        detail=error.message,
        instance=request.url.path,
        code=error.code,
        param=error.param,
        hint=error.hint,
    )
    return JSONResponse(problem.model_dump(), error.http_status, headers=headers, media_type="application/problem+json")


def responses(*statuses: int, also: dict[int | str, dict[str, Any]] | None = None) -> dict[int | str, dict[str, Any]]:
    """Document the problems a route may answer with, besides those of any route, and ``also`` its other answers."""
    return (also or {}) | {
        status: {
            "description": _TITLES[status],
            "content": {"application/problem+json": {"schema": _PROBLEM_SCHEMA}},
            "headers": _HEADERS.get(status, {}),
        }
        for status in (*statuses, *_ANYWHERE)
    }


def install(api: FastAPI) -> None:
    """Answer every error of ``api`` with a problem."""
    api.add_exception_handler(ForetuneError, _foretune_error)
    api.add_exception_handler(RequestValidationError, _validation_error)
    api.add_exception_handler(HTTPException, _http_error)
    api.add_exception_handler(DBAPIError, _database_error)
    api.add_exception_handler(PoolTimeout, _database_error)
    api.add_exception_handler(Exception, _unexpected_error)


def _foretune_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ForetuneError)
    headers = {}
    if error.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.http_status == 503:
        headers["Retry-After"] = "5"
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after)
    return respond(request, error, headers)


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()  # an unknown field often explains why another is missing
    first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
    param = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        known = BadRequest(
            "unknown_field",
            f"The request has a field {param!r} that this route does not know.",
            param=param,
            hint="Check its spelling; /docs lists the fields.",
        )
        return respond(request, known)
    if first["type"] == "json_invalid":
        return respond(request, _invalid_json(first["ctx"]["error"]))
    invalid = BadRequest(
        "invalid_request", f"{param}: {first['msg']}.", param=param, hint="See /docs for what the route takes."
    )
    return respond(request, invalid)


def _invalid_json(why: str) -> BadRequest:
    return BadRequest(
        "invalid_json",
        f"The body is not JSON: {why}.",
        param="body",
        hint="Send one JSON object, encoded as UTF-8.",
        status=400,
    )


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        return respond(request, _invalid_json("it is nested too deep, not UTF-8, or was not sent to its end"))
    code = {404: "route_not_found", 405: "method_not_allowed", 413: "body_too_large"}.get(
        error.status_code, "http_error"
    )
    known = BadRequest(
        code,
        f"{request.method} {request.url.path}: {error.detail}.",
        hint=error.hint if isinstance(error, BodyTooLarge) else "The routes are listed at /docs.",
        status=error.status_code,
    )
    headers = error.headers
    if error.status_code == 405:  # the routing itself names the methods of one route of several that have this path
        methods = request.app.state.methods.get(getattr(request.scope.get("route"), "path", None))
        headers = {"Allow": ", ".join(methods)} if methods else headers
    return respond(request, known, headers)


def methods_by_path(routers: Iterable[APIRouter]) -> dict[str, list[str]]:
    """Return which methods the routes of each path take together."""
    methods: dict[str, list[str]] = {}
    for route in (route for router in routers for route in router.routes):
        assert isinstance(route, APIRoute)
        methods.setdefault(route.path, []).extend(sorted(route.methods or ()))
    return methods


def _database_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SQLAlchemyError)
    if not (isinstance(error, OperationalError) or is_away(error) or is_in_trouble(error)):
        raise error
    log.error("database.unavailable", error=str(error), path=request.url.path)
    told = database_unavailable(error)
    return respond(request, told, {"Retry-After": "5"} if told.http_status == 503 else None)


def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    request_id = request.state.request_id
    log.error("request.failed", path=request.url.path, request_id=request_id, exc_info=error)
    unexpected = ForetuneError(
        "internal_error",
        "The service failed to answer this request; nothing more is known here.",
        hint="The service's log has the details under this request's X-Request-Id.",
    )
    return respond(request, unexpected, {"X-Request-Id": request_id})
