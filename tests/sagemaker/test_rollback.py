"""Which version a roll-back chooses, and what it wants to find first."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from include.contracts import BadInputError, Verdict
from include.sagemaker import rollback
from include.sagemaker.registry import MOST_TEXT, Package
from include.sagemaker.rollback import again, choose, claims_of, note_of, packages_of

JOBS = "s3://bucket/shop/models"


def package(version: int, **changes: Any) -> Package:
    job = f"pms-{version}"
    return Package(
        **{
            "arn": f"arn:aws:sagemaker:us-east-1:123456789012:model-package/shop/{version}",
            "version": version,
            "created": datetime(2026, 11, 1, tzinfo=UTC) + timedelta(days=version),
            "approval": "Approved",
            "job_name": job,
            "job_arn": f"arn:aws:sagemaker:us-east-1:123456789012:training-job/{job}",
            "snapshot_id": f"snap-{version}",
            "model_uri": f"{JOBS}/{job}/output/model.tar.gz",
            "report_uri": f"s3://bucket/shop/reports/{job}/ab/report.json",
            "data_until": "2026-11-24",
            "trained_at": "2026-11-24T08:00:00+00:00",
            **changes,
        }
    )


def uri(version: int) -> str:
    return str(package(version).model_uri)


THREE = [package(3), package(2), package(1)]
REFUSED = [package(3), package(2, approval="Rejected"), package(1)]
WAITING = [package(3), package(2, approval="PendingManualApproval"), package(1)]
# Version 3 is version 1, judged anew.
ENTERED_AGAIN = [package(3, model_uri=uri(1)), package(2), package(1)]
# Version 3 is version 2, taken back.
TAKEN_BACK = [
    package(4),
    package(3, model_uri=uri(2), approval="Rejected", approval_description="It failed the smoke test"),
    package(2),
    package(1),
]


@pytest.mark.parametrize(
    ("packages", "live", "version", "chosen", "leaves"),
    [
        (THREE, uri(3), None, 2, 3),
        (THREE, uri(2), None, 1, 2),
        (REFUSED, uri(3), None, 1, 3),
        (WAITING, uri(3), None, 1, 3),
        (ENTERED_AGAIN, uri(1), None, 2, 3),
        (TAKEN_BACK, uri(4), None, 1, 4),
        # What was live may have been rejected before, by hand: it is still what the endpoint leaves.
        ([package(2, approval="Rejected"), package(1)], uri(2), None, 1, 2),
        (THREE, uri(3), 1, 1, 3),
        (THREE, uri(1), 3, 3, 1),
        (THREE, "s3://somebody/elses.tar.gz", 2, 2, None),
        (THREE, None, 2, 2, None),
    ],
)
def test_the_approved_version_before_the_live_one_or_the_named_one_is_chosen(
    packages: Sequence[Package], live: str | None, version: int | None, chosen: int, leaves: int | None
) -> None:
    choice = choose(packages, live, version)
    assert choice.package.version == chosen
    assert (choice.leaves.version if choice.leaves else None) == leaves


@pytest.mark.parametrize(
    ("packages", "live", "version", "said"),
    [
        (THREE, uri(3), 9, "no version 9. Approved are: 3, 2, 1."),
        (THREE, uri(3), 3, "Version 3 is live already"),
        (ENTERED_AGAIN, uri(1), 1, "Version 1 is live already"),
        (REFUSED, uri(3), 2, "Version 2 is Rejected"),
        (WAITING, uri(3), 2, "Version 2 is PendingManualApproval"),
        (
            TAKEN_BACK,
            uri(4),
            2,
            "Version 3, of the same model as version 2, is Rejected (It failed",
        ),
        (THREE, uri(1), None, "No approved model comes before the live one, version 1"),
        ([package(1)], uri(1), None, "Approved are: 1."),
        ([package(2), package(1, approval="Rejected")], uri(2), None, "No approved model comes before"),
        (THREE, "s3://somebody/elses.tar.gz", None, "What is live was never registered"),
        (THREE, None, None, "Nothing is live"),
        ([], None, None, "No version is Approved."),
        ([], None, 1, "There is no version 1"),
    ],
)
def test_what_is_no_way_back_is_refused_with_what_there_is(
    packages: Sequence[Package], live: str | None, version: int | None, said: str
) -> None:
    with pytest.raises(BadInputError, match=r".") as refused:
        choose(packages, live, version)
    assert said in str(refused.value)


def test_a_choice_is_kept_where_the_chosen_version_is_live_by_now() -> None:
    choice = again(THREE, 2, 3)
    assert choice.leaves is not None
    assert (choice.package.version, choice.leaves.version) == (2, 3)
    assert again(THREE, 2, None).leaves is None
    with pytest.raises(BadInputError, match="was deleted"):
        again(THREE, 9, 3)


def test_a_named_version_is_found_behind_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [package(version) for version in range(150, 0, -1)]

    def listed(client: Any, group: str, limit: int = 100, before: int | None = None) -> list[Package]:
        return [one for one in every if before is None or one.version < before][:limit]

    monkeypatch.setattr(rollback, "list_packages", listed)
    assert len(packages_of(None, "shop", None)) == 100
    assert packages_of(None, "shop", 7)[-1].version == 7
    assert len(packages_of(None, "shop", 400)) == 100


class S3:
    """Objects by URI."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def _find(self, operation: str, code: str, uri: str) -> bytes:
        if uri not in self.objects:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)
        return self.objects[uri]

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # boto3's names
        return {"ContentLength": len(self._find("HeadObject", "404", f"s3://{Bucket}/{Key}"))}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": io.BytesIO(self._find("GetObject", "NoSuchKey", f"s3://{Bucket}/{Key}"))}


def judged(**changes: Any) -> Verdict:
    content: dict[str, Any] = {
        "approved": True,
        "job_name": "pms-1",
        "snapshot_id": "snap-1",
        "rules_version": 1,
        "checks": (),
        "metrics": {},
        "baselines": {},
        "report_uri": str(package(1).report_uri),
    }
    return Verdict(**{**content, **changes})


def stored(verdict: bytes) -> dict[str, bytes]:
    return {
        f"{JOBS}/pms-1/output/model.tar.gz": b"model",
        f"{JOBS}/pms-1/output/output.tar.gz": b"evaluation",
        "s3://bucket/shop/reports/pms-1/ab/verdict.json": verdict,
    }


SOUND = stored(judged().model_dump_json().encode())


def test_claim_checks_are_those_of_the_run_that_registered_the_model() -> None:
    claims = claims_of(S3(SOUND), "shop", package(1))
    assert claims.verdict == judged()
    assert claims.trained_model.model_uri == f"{JOBS}/pms-1/output/model.tar.gz"
    assert claims.trained_model.evaluation_uri == f"{JOBS}/pms-1/output/output.tar.gz"
    assert (claims.trained_model.data_until, claims.trained_model.trained_at) == (
        "2026-11-24",
        "2026-11-24T08:00:00+00:00",
    )
    assert (claims.registered.group_name, claims.registered.version) == ("shop", 1)


@pytest.mark.parametrize("gone", list(SOUND))
def test_a_version_whose_files_are_gone_is_no_way_back(gone: str) -> None:
    with pytest.raises(BadInputError, match="of version 1 is gone"):
        claims_of(S3({key: body for key, body in SOUND.items() if key != gone}), "shop", package(1))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "holds no verdict"),
        (judged(approved=False).model_dump_json().encode(), "The gate did not approve version 1"),
        (judged(job_name="pms-other").model_dump_json().encode(), "The gate did not approve version 1"),
    ],
)
def test_a_version_that_the_gate_did_not_approve_is_no_way_back(body: bytes, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        claims_of(S3(stored(body)), "shop", package(1))


@pytest.mark.parametrize("field", ["job_name", "snapshot_id", "model_uri", "report_uri"])
def test_somebody_elses_entry_is_no_way_back(field: str) -> None:
    with pytest.raises(BadInputError, match="not registered by this project"):
        claims_of(S3(SOUND), "shop", package(1, **{field: None}))


def test_a_note_keeps_what_was_said_before_and_is_made_once() -> None:
    note = note_of("Rolled back to by Ada,\nbecause: slow", "run-1", "Approved by Eve (run run-0)")
    assert note == (
        "Rolled back to by Ada, because: slow (run run-1) Before that: Approved by Eve (run run-0)"
    )
    assert note_of("Rolled back to by Ada", "run-1", note) is None
    long = note_of("Rolled back to", "run-2", "x" * 2000)
    assert long is not None and len(long) == MOST_TEXT
