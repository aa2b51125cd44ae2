"""What schemathesis is told of this service; it loads this file by the name that its configuration gives.

``FUZZING_KEY_ID`` and ``FUZZING_TENANT`` name the key that it asks with and that key's tenant.
"""

import os
from typing import Any

import schemathesis
from schemathesis.generation import GenerationMode

_LONGEST_WAIT = 0.2
_FORMAL = {"invalid_request", "invalid_json", "unknown_field", "unknown_parameter", "repeated_parameter"}
_BEYOND_SCHEMAS = {
    ("POST /v1/keys", "expires_at"): "a moment that is to come",
    ("PATCH /v1/models/{model_id}", "status"): "something has to change",
    ("POST /v1/models", "body"): "no number in it, however deep, has more than 64 bits",
}
"""What JSON Schema cannot say, or not in a form that people can read."""


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Spare the key that asks, and its tenant: without them everything would be a 401 or 403 from then on."""
    ids = {os.environ["FUZZING_KEY_ID"], os.environ["FUZZING_TENANT"], "me"}
    changes = case.method.upper() not in ("GET", "HEAD")
    return not (changes and ids & {str(value) for value in (case.path_parameters or {}).values()})


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Do not hold answers for as long as the schema allows: half a minute for each would be the whole run."""
    wait = (case.query or {}).get("wait")
    if isinstance(wait, int | float) and not isinstance(wait, bool) and _LONGEST_WAIT < wait <= 30:
        case.query["wait"] = _LONGEST_WAIT


@schemathesis.check
def form_as_documented(ctx: Any, response: Any, case: Any) -> None:
    """Demand that a request that the document allows is not refused for its form.

    It may well be refused for what it names: a 422 is also the answer to a score that does not exist.
    """
    if response.status_code != 422 or case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    problem = response.json()
    place = (case.operation.label, problem["param"])
    refused_for_form = problem["code"] in _FORMAL and place not in _BEYOND_SCHEMAS
    assert not refused_for_form, f"the document allows what the service refuses: {problem['detail']}"


@schemathesis.check
def problems_say_what_to_do(ctx: Any, response: Any, case: Any) -> None:
    """Demand a code and a hint of every refusal."""
    if response.status_code >= 400 and response.content:
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["code"]
        assert problem["hint"]
