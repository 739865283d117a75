from __future__ import annotations

import pytest
from pydantic import ValidationError

from include.contracts import Check, Verdict


def check(status: str) -> Check:
    return Check(
        name="hit_rate", status=status, value=0.1, comparison=">=", bound=0.2, sample_size=9, reason="r"
    )


def verdict(*checks: Check) -> Verdict:
    return Verdict(
        approved=False,
        job_name="j",
        snapshot_id="s",
        rules_version=1,
        checks=checks,
        metrics={},
        baselines={},
        report_uri="s3://b/r",
    )


def test_claim_checks_survive_xcom() -> None:
    original = verdict(check("passed"), check("failed"))
    assert Verdict.model_validate(original.to_xcom()) == original


def test_failures_are_the_failed_checks_only() -> None:
    assert [c.status for c in verdict(check("passed"), check("failed"), check("skipped")).failures] == [
        "failed"
    ]


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        Verdict.model_validate({**verdict().to_xcom(), "surprise": 1})


def test_contracts_are_frozen() -> None:
    with pytest.raises(ValidationError):
        check("passed").value = 1.0
