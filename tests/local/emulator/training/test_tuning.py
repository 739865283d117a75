from __future__ import annotations

import json
import re
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.local.cloud import BUCKET, Cloud, alive, eventually
from tests.local.emulator.training.test_jobs import HANGS

TRAINS = """
    import argparse, os, pathlib, sys
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--size", type=int)
    options = parser.parse_args()
    print("mrr=0.99 before the last word")
    if options.size == 2:
        sys.exit("two is too much")
    print(f"mrr={options.rate:.6f}")
    pathlib.Path(os.environ["SM_MODEL_DIR"], "behaviour").write_text(os.environ["SM_HPS"])
"""
RATE = {"Name": "rate", "MinValue": "0.1", "MaxValue": "0.9"}


def tuning_request(cloud: Cloud, script: str, **changes: Any) -> dict[str, Any]:
    """A request with four trials, two at a time, in a space of one number."""
    training = cloud.job_request(script)
    name = changes.pop("name", None) or cloud.name("tuning")
    limits = {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2, **changes.pop("limits", {})}
    metrics = [{"Name": "mrr", "Regex": r"mrr=([0-9.]+)"}]
    algorithm = {**training["AlgorithmSpecification"], "MetricDefinitions": metrics}
    members = ("RoleArn", "OutputDataConfig", "ResourceConfig", "StoppingCondition")
    return {
        "HyperParameterTuningJobName": name,
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {
                "Type": changes.pop("type", "Maximize"),
                "MetricName": "mrr",
            },
            "ResourceLimits": limits,
            "ParameterRanges": changes.pop("ranges", {"ContinuousParameterRanges": [RATE]}),
            "RandomSeed": 3,
        },
        "TrainingJobDefinition": {
            **{member: training[member] for member in members},
            "AlgorithmSpecification": algorithm,
            "StaticHyperParameters": {**training["HyperParameters"], "epochs": "3"},
            **changes.pop("definition", {}),
        },
        **changes,
    }


def start(cloud: Cloud, script: str, **changes: Any) -> str:
    request = tuning_request(cloud, script, **changes)
    cloud.sagemaker.create_hyper_parameter_tuning_job(**request)
    return str(request["HyperParameterTuningJobName"])


def describe(cloud: Cloud, name: str) -> dict[str, Any]:
    told: dict[str, Any] = cloud.sagemaker.describe_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name
    )
    return told


def trials_of(cloud: Cloud, name: str, **options: Any) -> list[dict[str, Any]]:
    answer = cloud.sagemaker.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=name, **options
    )
    found: list[dict[str, Any]] = answer["TrainingJobSummaries"]
    return found


def finished(cloud: Cloud, name: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        told = describe(cloud, name)
        return told if told["HyperParameterTuningJobStatus"] in ("Completed", "Failed", "Stopped") else None

    return eventually(ended, 60)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "pick"), [("Maximize", max), ("Minimize", min)])
def test_a_search_runs_its_trials_and_names_the_best(cloud: Cloud, kind: str, pick: Any) -> None:
    tags = [{"Key": "run", "Value": "7"}]
    name = start(cloud, TRAINS, type=kind, Tags=tags)
    told = finished(cloud, name)
    assert told["HyperParameterTuningJobStatus"] == "Completed"
    assert told["CreationTime"] <= told["HyperParameterTuningEndTime"]
    assert told["TrainingJobStatusCounters"] == {
        "Completed": 4,
        "InProgress": 0,
        "RetryableError": 0,
        "NonRetryableError": 0,
        "Stopped": 0,
    }
    assert told["ObjectiveStatusCounters"] == {"Succeeded": 4, "Pending": 0, "Failed": 0}

    trials = trials_of(cloud, name)
    for number, trial in enumerate(trials, 1):
        assert re.fullmatch(rf"{name}-00{number}-[0-9a-f]{{8}}", trial["TrainingJobName"])
        assert list(trial["TunedHyperParameters"]) == ["rate"]
        # The last word counts, not the best.
        score = trial["FinalHyperParameterTuningJobObjectiveMetric"]
        assert score["MetricName"] == "mrr"
        assert score["Value"] == pytest.approx(float(trial["TunedHyperParameters"]["rate"]), abs=1e-6)
    scores = [trial["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] for trial in trials]
    best = trials[scores.index(pick(scores))]
    assert told["BestTrainingJob"] == best

    job = cloud.sagemaker.describe_training_job(TrainingJobName=best["TrainingJobName"])
    assert job["TuningJobArn"] == told["HyperParameterTuningJobArn"]
    assert job["HyperParameters"] == {
        **told["TrainingJobDefinition"]["StaticHyperParameters"],
        **best["TunedHyperParameters"],
    }
    # SageMaker's own word to the container; the script never sees it.
    assert job["HyperParameters"]["_tuning_objective_metric"] == "mrr"
    assert cloud.sagemaker.list_tags(ResourceArn=job["TrainingJobArn"])["Tags"] == tags
    assert cloud.sagemaker.list_tags(ResourceArn=told["HyperParameterTuningJobArn"])["Tags"] == tags


def test_the_same_seed_searches_the_same_points(cloud: Cloud) -> None:
    first, second = (start(cloud, TRAINS, limits={"MaxNumberOfTrainingJobs": 2}) for _ in range(2))
    points = []
    for name in (first, second):
        finished(cloud, name)
        points.append([trial["TunedHyperParameters"] for trial in trials_of(cloud, name)])
    assert points[0] == points[1]
    assert points[0][0] != points[0][1]


def test_no_more_trials_at_a_time_than_asked_for(cloud: Cloud) -> None:
    script = "import time; time.sleep(0.7); print('mrr=0.5')"
    name = start(cloud, script, limits={"MaxNumberOfTrainingJobs": 3})
    finished(cloud, name)
    spans = [(trial["CreationTime"], trial["TrainingEndTime"]) for trial in trials_of(cloud, name)]
    at_once = [sum(begun <= moment < ended for begun, ended in spans) for moment, _ in spans]
    assert max(at_once) == 2


def sizes(*values: int) -> dict[str, Any]:
    entry = {"Name": "size", "Values": [str(value) for value in values]}
    return {"ContinuousParameterRanges": [RATE], "CategoricalParameterRanges": [entry]}


def test_some_failed_trials_do_not_fail_the_search(cloud: Cloud) -> None:
    name = start(cloud, TRAINS, ranges=sizes(1, 2), limits={"MaxNumberOfTrainingJobs": 6})
    told = finished(cloud, name)
    assert told["HyperParameterTuningJobStatus"] == "Completed"
    counters = told["TrainingJobStatusCounters"]
    assert counters["Completed"] + counters["NonRetryableError"] == 6
    assert counters["Completed"] and counters["NonRetryableError"]
    assert told["ObjectiveStatusCounters"]["Failed"] == counters["NonRetryableError"]
    assert told["BestTrainingJob"]["TunedHyperParameters"]["size"] == "1"
    for trial in trials_of(cloud, name, StatusEquals="Failed"):
        assert "two is too much" in trial["FailureReason"]
        assert trial["ObjectiveStatus"] == "Failed"


@pytest.mark.parametrize(("asked", "attempts"), [(2, 2), (9, 5)], ids=["all of few", "gives up on many"])
def test_a_search_whose_trials_all_fail_fails(cloud: Cloud, asked: int, attempts: int) -> None:
    limits = {"MaxNumberOfTrainingJobs": asked, "MaxParallelTrainingJobs": 1}
    told = finished(cloud, start(cloud, TRAINS, ranges=sizes(2), limits=limits))
    assert told["HyperParameterTuningJobStatus"] == "Failed"
    assert told["FailureReason"].startswith(f"No training job succeeded after {attempts} attempts.")
    assert told["TrainingJobStatusCounters"]["NonRetryableError"] == attempts
    assert "BestTrainingJob" not in told


def test_trials_that_tell_no_score_have_no_best(cloud: Cloud) -> None:
    name = start(cloud, "print('done')", limits={"MaxNumberOfTrainingJobs": 2})
    told = finished(cloud, name)
    assert told["HyperParameterTuningJobStatus"] == "Completed"
    assert told["ObjectiveStatusCounters"] == {"Succeeded": 0, "Pending": 0, "Failed": 2}
    assert "BestTrainingJob" not in told


def pids_of(cloud: Cloud, name: str) -> list[int]:
    """The processes of two trials that hang."""

    def found() -> list[int] | None:
        logs = (cloud.state_dir / "jobs").glob(f"{name}-*/training.log")
        told = [re.search(r"pids (\d+) (\d+)\n", log.read_text()) for log in logs]
        return [int(pid) for match in told if match for pid in match.groups()] if all(told) and told else None

    eventually(lambda: len(found() or []) == 4, 30)
    return found() or []


def test_stop_ends_the_trials_and_starts_no_others(cloud: Cloud) -> None:
    name = start(cloud, HANGS)
    pids = pids_of(cloud, name)
    assert all(map(alive, pids))
    running = describe(cloud, name)
    assert running["HyperParameterTuningJobStatus"] == "InProgress"
    assert running["TrainingJobStatusCounters"]["InProgress"] == 2
    assert running["ObjectiveStatusCounters"]["Pending"] == 2
    cloud.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    assert describe(cloud, name)["HyperParameterTuningJobStatus"] in ("Stopping", "Stopped")
    told = finished(cloud, name)
    assert told["HyperParameterTuningJobStatus"] == "Stopped"
    assert told["TrainingJobStatusCounters"]["Stopped"] == 2
    assert len(trials_of(cloud, name)) == 2
    assert not any(map(alive, pids))
    with pytest.raises(ClientError, match="is in status Stopped"):
        cloud.sagemaker.stop_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)


def test_a_trial_that_is_stopped_by_hand_is_one_of_the_search(cloud: Cloud) -> None:
    name = start(cloud, HANGS, limits={"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1})
    [trial] = eventually(lambda: trials_of(cloud, name))
    cloud.sagemaker.stop_training_job(TrainingJobName=trial["TrainingJobName"])
    told = finished(cloud, name)
    assert told["HyperParameterTuningJobStatus"] == "Failed"
    assert told["TrainingJobStatusCounters"]["Stopped"] == 1


def test_the_same_name_twice_is_in_use(cloud: Cloud) -> None:
    request = tuning_request(cloud, "print('mrr=1')", limits={"MaxNumberOfTrainingJobs": 2})
    cloud.sagemaker.create_hyper_parameter_tuning_job(**request)
    with pytest.raises(cloud.sagemaker.exceptions.ResourceInUse, match="unique"):
        cloud.sagemaker.create_hyper_parameter_tuning_job(**request)
    finished(cloud, request["HyperParameterTuningJobName"])
    assert len(trials_of(cloud, request["HyperParameterTuningJobName"])) == 2


@pytest.mark.parametrize(
    "call",
    [
        "describe_hyper_parameter_tuning_job",
        "stop_hyper_parameter_tuning_job",
        "list_training_jobs_for_hyper_parameter_tuning_job",
    ],
)
def test_an_unknown_search_is_not_found(cloud: Cloud, call: str) -> None:
    with pytest.raises(cloud.sagemaker.exceptions.ResourceNotFound, match="can't find a tuning job"):
        getattr(cloud.sagemaker, call)(HyperParameterTuningJobName="no-such-job")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "a" * 33}, "length less than or equal to 32"),
        ({"name": "under_score"}, "regular expression pattern"),
        ({"definition": {"StaticHyperParameters": {}}}, "sagemaker_program is missing"),
        (
            {
                "definition": {
                    "InputDataConfig": [
                        {
                            "ChannelName": "snapshot",
                            "DataSource": {
                                "S3DataSource": {
                                    "S3DataType": "S3Prefix",
                                    "S3Uri": f"s3://{BUCKET}/nothing/here/",
                                }
                            },
                        }
                    ]
                }
            },
            "No S3 objects found",
        ),
    ],
    ids=["long name", "name", "no script", "no data"],
)
def test_a_search_that_cannot_start_is_refused(cloud: Cloud, changes: dict[str, Any], said: str) -> None:
    request = tuning_request(cloud, "pass", **changes)
    with pytest.raises(ClientError, match=said):
        cloud.sagemaker.create_hyper_parameter_tuning_job(**request)
    listed = cloud.sagemaker.list_hyper_parameter_tuning_jobs()["HyperParameterTuningJobSummaries"]
    assert request["HyperParameterTuningJobName"] not in [
        job["HyperParameterTuningJobName"] for job in listed
    ]


def test_searches_and_trials_are_listed_sorted_and_paged(cloud: Cloud) -> None:
    stem = cloud.name("many")
    for letter in "ba":
        finished(cloud, start(cloud, TRAINS, name=f"{stem}-{letter}", ranges=sizes(1, 2)))
    sagemaker = cloud.sagemaker
    listed = sagemaker.list_hyper_parameter_tuning_jobs(NameContains=stem)
    names = [job["HyperParameterTuningJobName"] for job in listed["HyperParameterTuningJobSummaries"]]
    assert names == [f"{stem}-a", f"{stem}-b"]

    pages = sagemaker.get_paginator("list_training_jobs_for_hyper_parameter_tuning_job").paginate(
        HyperParameterTuningJobName=names[0],
        SortBy="FinalObjectiveMetricValue",
        SortOrder="Descending",
        PaginationConfig={"PageSize": 3},
    )
    trials = [page["TrainingJobSummaries"] for page in pages]
    assert [len(page) for page in trials] == [3, 1]
    scores = [
        trial.get("FinalHyperParameterTuningJobObjectiveMetric", {}).get("Value", -1.0)
        for page in trials
        for trial in page
    ]
    assert scores == sorted(scores, reverse=True)
    oldest = trials_of(cloud, names[0], SortBy="CreationTime", SortOrder="Ascending")
    assert [trial["TrainingJobName"][len(names[0]) : len(names[0]) + 4] for trial in oldest] == [
        "-001",
        "-002",
        "-003",
        "-004",
    ]


def test_the_winner_is_what_was_trained(cloud: Cloud) -> None:
    name = start(cloud, TRAINS, limits={"MaxNumberOfTrainingJobs": 2})
    best = finished(cloud, name)["BestTrainingJob"]
    job = cloud.sagemaker.describe_training_job(TrainingJobName=best["TrainingJobName"])
    bucket, key = job["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").split("/", 1)
    assert cloud.s3.head_object(Bucket=bucket, Key=key)["ContentLength"] > 0
    told = (cloud.state_dir / "jobs" / best["TrainingJobName"] / "ml/model/behaviour").read_text()
    rate = float(best["TunedHyperParameters"]["rate"])
    assert json.loads(told) == {"epochs": 3, "rate": rate}
