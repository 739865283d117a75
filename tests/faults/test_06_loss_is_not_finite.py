"""A loss that is infinite or not a number: the job fails with its reason, and nothing is exported."""

from __future__ import annotations

import json
import re
from pathlib import Path

from include.sagemaker.source import build_source_archive
from tests.local.cloud import BUCKET, Cloud
from tests.ml.jobs import ROOM

RATES = {"1e9": r"\d\S*e\+\d+, above \S+", "1e20": "(nan|inf), not a finite number"}


def test_a_job_that_diverges_fails_and_exports_nothing(cloud: Cloud, planted: Path) -> None:
    for path in planted.rglob("*"):
        if path.is_file():
            cloud.put(f"snapshot/{path.relative_to(planted)}", path.read_bytes())
    source = cloud.put("code/sourcedir.tar.gz", build_source_archive(ROOM))
    uri = {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/snapshot/"}
    jobs = {}
    for rate in RATES:
        hyper_parameters = {"sagemaker_submit_directory": json.dumps(source), "learning-rate": rate}
        request = cloud.job_request(
            "",
            hyper_parameters=hyper_parameters | {"embedding-dim": "8"},
            InputDataConfig=[{"ChannelName": "snapshot", "DataSource": {"S3DataSource": uri}}],
        )
        cloud.sagemaker.create_training_job(**request)
        jobs[rate] = request["TrainingJobName"]
    for rate, loss in RATES.items():
        told = cloud.finished(jobs[rate], seconds=180)
        assert told["TrainingJobStatus"] == "Failed"
        reason = told["FailureReason"]
        assert re.search(f"the training loss is {loss}: lower the learning rate$", reason), reason
        kept = cloud.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"models/{jobs[rate]}/")
        assert kept["KeyCount"] == 0
