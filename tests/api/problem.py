"""What every error answer must look like."""

import httpx

FIELDS = {"type", "title", "status", "detail", "instance", "code", "param", "hint"}


def assert_problem(
    answer: httpx.Response, status: int, code: str | None = None, *, param: str | None = None
) -> dict[str, object]:
    """Assert that an answer is an RFC 9457 problem that says what to do, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, object] = answer.json()
    assert set(problem) == FIELDS
    assert problem["status"] == status
    assert problem["instance"] == answer.request.url.path
    assert problem["type"] == f"urn:foretune:error:{problem['code']}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["hint"], f"{problem['code']} has no hint"
    if code is not None:
        assert problem["code"] == code, problem
    if param is not None:
        assert problem["param"] == param, problem
    return problem
