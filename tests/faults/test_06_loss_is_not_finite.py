"""A loss that is infinite or not a number: the job fails with its reason, and nothing is exported."""

from __future__ import annotations

import json
import re
from pathlib import Path

from include.sagemaker.source import build_source_archive
from tests.local.cloud import BUCKET, Cloud
from tests.ml.jobs import ROOM


def test_a_job_that_diverges_fails_and_exports_nothing(cloud: Cloud, planted: Path) -> None:
    for path in planted.rglob("*"):
        if path.is_file():
            cloud.put(f"snapshot/{path.relative_to(planted)}", path.read_bytes())
    source = cloud.put("code/sourcedir.tar.gz", build_source_archive(ROOM))
    uri = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/snapshot/"}
    job = cloud.run_job(
        "",
        hyper_parameters={
            "sagemaker_submit_directory": json.dumps(source),
            "learning-rate": "1e9",
            "embedding-dim": "8",
        },
        InputDataConfig=[{"ChannelName": "snapshot", "DataSource": {"S3DataSource": uri}}],
    )
    assert job["TrainingJobStatus"] == "Failed"
    reason = job["FailureReason"]
    assert re.search(r"the training loss is \S+, .*: lower the learning rate$", reason), reason
    kept = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"models/{job['TrainingJobName']}/")
    assert kept["KeyCount"] == 0
