from __future__ import annotations

import pytest

from include.contracts import BadInputError
from include.dbt_artifacts import attempt_prefix, docs_page, refuse_failed_tests


@pytest.mark.parametrize(
    "run_id", ["manual__2026-01-01T00:00:00+00:00", "../../reports/x", "a/b", "what? #1"]
)
def test_run_is_one_part_of_the_key(run_id: str) -> None:
    parts = attempt_prefix("shop", run_id, "transform.a", 1).split("/")
    assert len(parts) == 5
    assert (*parts[:2], *parts[3:]) == ("shop", "dbt", "transform.a", "1")


def test_failed_tests_are_all_named_and_errors_left_to_dbt() -> None:
    def result(name: str, status: str, message: str | None = None) -> dict[str, object]:
        return {"unique_id": f"test.project.{name}.0a1b", "status": status, "message": message}

    passing = [result("a", "pass"), result("b", "error", "no connection"), result("c", "warn", "2 rows")]
    refuse_failed_tests({"results": passing})
    with pytest.raises(BadInputError, match=r"2 dbt test.*\n  d: Got 3 results\n  e: failed\n") as refusal:
        refuse_failed_tests(
            {"results": [*passing, result("d", "fail", "Got 3 results"), result("e", "fail")]}
        )
    assert "no connection" not in str(refusal.value)


def test_text_from_outside_cannot_end_the_pages_script() -> None:
    index = '<script>n={"manifest":"MANIFEST.JSON INLINE DATA","catalog":"CATALOG.JSON INLINE DATA"}</script>'
    page = docs_page(index, b'{"description": "</script><img src=x>"}', b"[1]").decode()
    assert page.count("</script>") == 1
    assert page.startswith('<script>n={"manifest":{"description": "<\\/script>')
