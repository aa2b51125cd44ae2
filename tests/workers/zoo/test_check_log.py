"""What is kept of a check that ends otherwise than checks do."""

import pytest

from workers.zoo.check_log import AdmissionRefused, CheckLog


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyError("categories"), "check_failed"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA out of memory"), "out_of_memory"),
    ],
)
def test_what_nobody_foresaw_is_a_failed_check_and_the_last_one(error: Exception, code: str) -> None:
    log = CheckLog()
    with log.check("first") as finding:
        finding.detail = "fine"
    with pytest.raises(AdmissionRefused) as caught, log.check("second"):
        raise error
    assert (caught.value.code, bool(caught.value.hint)) == (code, True)
    assert [(one["name"], one["outcome"], one["code"]) for one in caught.value.checks] == [
        ("first", "pass", None),
        ("second", "fail", code),
    ]
