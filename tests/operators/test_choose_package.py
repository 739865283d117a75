from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from include.contracts import Deployment, Registered, TrainedModel, Verdict
from include.operators.choose_package import ChoosePackageOperator, RecordRollbackOperator
from include.operators.register_model import RegisterModelOperator
from include.sagemaker.registry import Package, list_packages
from include.sagemaker.storage import parse_s3_uri
from tests.operators.fake_sagemaker import FakeSageMaker, TaskStore, refusal

GROUP = "shop-recommender"


def packages() -> dict[int, Package]:
    client = boto3.client("sagemaker", aws_access_key_id="x", aws_secret_access_key="x")
    return {package.version: package for package in list_packages(client, GROUP)}


def put(s3: Any, uri: str, body: bytes) -> None:
    bucket, key = parse_s3_uri(uri)
    s3.put_object(Bucket=bucket, Key=key, Body=body)


def enter(s3: Any, trained: TrainedModel, verdict: Verdict, number: int) -> TrainedModel:
    """Registers a model as version `number`, with all that its run left on S3."""
    job = f"pms-00000000000{number}"
    output = f"s3://post-modern-stack/shop/models/{job}/output"
    model = trained.model_copy(
        update={
            "job_name": job,
            "model_uri": f"{output}/model.tar.gz",
            "evaluation_uri": f"{output}/output.tar.gz",
            "billable_seconds": 0,
            "data_until": f"2026-11-2{number}",
            "trained_at": f"2026-11-2{number}T03:00:00+00:00",
        }
    )
    folder = f"s3://post-modern-stack/shop/reports/{job}/ab"
    judged = verdict.model_copy(update={"job_name": job, "report_uri": f"{folder}/report.json"})
    for uri, body in (
        (model.model_uri, b"model"),
        (model.evaluation_uri, b"evaluation"),
        (f"{folder}/verdict.json", judged.model_dump_json().encode()),
    ):
        put(s3, uri, body)
    RegisterModelOperator(
        task_id="register_model", trained_model=model.to_xcom(), verdict=judged.to_xcom()
    ).execute({})  # type: ignore[typeddict-item]
    return model


@pytest.fixture
def models(
    aws: Any, sagemaker: FakeSageMaker, trained: TrainedModel, approval: Verdict
) -> dict[int, TrainedModel]:
    """Two registered models, the second of which is live."""
    made = {number: enter(aws, trained, approval, number) for number in (1, 2)}
    go_live(sagemaker, made[2])
    return made


def go_live(sagemaker: FakeSageMaker, model: TrainedModel) -> None:
    arn = "arn:aws:sagemaker:us-east-1:123456789012:model/m"
    sagemaker.models["m"] = {"ModelArn": arn, "PrimaryContainer": {"ModelDataUrl": model.model_uri}}
    sagemaker.configs["c"] = {"ProductionVariants": [{"VariantName": "AllTraffic", "ModelName": "m"}]}
    sagemaker.endpoints[GROUP] = [{"EndpointStatus": "InService", "EndpointConfigName": "c"}]


def choose(version: object = None, **context: Any) -> Any:
    operator = ChoosePackageOperator(task_id="choose_package", version=version)
    return operator.execute(context)  # type: ignore[arg-type]


def test_the_version_before_is_chosen_with_the_claim_checks_of_its_run(
    models: dict[int, TrainedModel],
) -> None:
    chosen = choose()
    # All but what only a pipeline run knows: `job_arn` is kept, costs are not of this run.
    assert TrainedModel.model_validate(chosen["trained_model"]) == models[1].model_copy(
        update={"billable_seconds": 0}
    )
    assert Verdict.model_validate(chosen["verdict"]).job_name == models[1].job_name
    assert Registered.model_validate(chosen["registered"]).version == 1
    assert chosen["before"] == {"package_arn": packages()[2].arn, "version": 2}


@pytest.mark.parametrize(
    ("version", "said"), [(2, "Version 2 is live already"), (7, "There is no version 7. Approved are: 2, 1.")]
)
def test_what_is_no_way_back_fails_at_once(
    models: dict[int, TrainedModel], sagemaker: FakeSageMaker, version: int, said: str
) -> None:
    with pytest.raises(AirflowFailException, match=said):
        choose(version)
    assert sagemaker.made("UpdateEndpoint") == []


def test_a_version_whose_artefact_is_gone_fails_at_once(aws: Any, models: dict[int, TrainedModel]) -> None:
    bucket, key = parse_s3_uri(models[1].model_uri)
    aws.delete_object(Bucket=bucket, Key=key)
    with pytest.raises(AirflowFailException, match="The model of version 1 is gone"):
        choose()


def test_an_endpoint_on_its_way_is_waited_for(
    aws: Any,
    sagemaker: FakeSageMaker,
    models: dict[int, TrainedModel],
    naps: list[float],
    trained: TrainedModel,
    approval: Verdict,
) -> None:
    """A nightly run moves it to a third model at this moment: the one before that is the second."""
    third = enter(aws, trained, approval, 3)
    go_live(sagemaker, third)
    moving = {"EndpointStatus": "Updating", "EndpointConfigName": "old"}
    sagemaker.endpoints[GROUP] = [moving, moving, *sagemaker.endpoints[GROUP]]
    chosen = choose()
    assert chosen["before"]["version"] == 3
    assert Registered.model_validate(chosen["registered"]).version == 2
    assert naps.count(1) == 2


def test_a_choice_outlives_the_move_that_it_led_to(
    sagemaker: FakeSageMaker, models: dict[int, TrainedModel]
) -> None:
    store = TaskStore()
    first = choose(task_state_store=store)
    go_live(sagemaker, models[1])
    assert choose(task_state_store=store) == first


def test_a_live_model_that_cannot_be_known_wants_a_version(
    sagemaker: FakeSageMaker, models: dict[int, TrainedModel]
) -> None:
    del sagemaker.configs["c"]
    with pytest.raises(AirflowFailException, match="was deleted.*name a version"):
        choose()
    assert choose(1)["before"] is None


def test_throttling_is_worth_a_retry(sagemaker: FakeSageMaker, models: dict[int, TrainedModel]) -> None:
    sagemaker.faults["ListModelPackages"] = refusal("ListModelPackages", "ThrottlingException", "slow down")
    with pytest.raises(AirflowException) as fault:
        choose()
    assert not isinstance(fault.value, AirflowFailException)


def record(chosen: dict[str, Any], run_id: str = "run-1", **changes: Any) -> Any:
    live = Deployment(
        endpoint_name=GROUP,
        endpoint_config_name="c1",
        model_name="m1",
        job_name=chosen["registered"]["job_name"],
        snapshot_id=chosen["registered"]["snapshot_id"],
        smoke_cases=5,
    )
    operator = RecordRollbackOperator(
        task_id="record_rollback",
        registered=chosen["registered"],
        before=chosen["before"],
        deployed=live.to_xcom(),
        **{"reason": "it sells 'out',\nof stock", "reject_current": True, **changes},
    )
    context: Any = {"run_id": run_id, "dag_run": SimpleNamespace(triggering_user_name="ada")}
    return operator.execute(context)


def test_both_versions_say_who_went_back_and_why(
    sagemaker: FakeSageMaker, models: dict[int, TrainedModel]
) -> None:
    chosen = choose()
    for _ in range(2):  # a retry writes nothing new
        assert record(chosen)["smoke_cases"] == 5
    assert len(sagemaker.made("UpdateModelPackage")) == 2
    now = packages()
    assert (now[1].approval, now[2].approval) == ("Approved", "Rejected")
    for version, words in (
        (1, "Rolled back to from version 2 on "),
        (2, "Rolled back from, to version 1, on "),
    ):
        description = now[version].approval_description
        assert description is not None and description.startswith(words)
        assert "by ada, because: it sells 'out', of stock (run run-1)" in description


def test_the_live_model_stays_approved_where_that_is_asked_for(models: dict[int, TrainedModel]) -> None:
    record(choose(), reject_current=False)
    assert packages()[2].approval == "Approved"
    assert "Rolled back from" in str(packages()[2].approval_description)


def test_a_model_without_an_entry_is_left_without_a_note(
    sagemaker: FakeSageMaker, models: dict[int, TrainedModel]
) -> None:
    del sagemaker.endpoints[GROUP]
    record(choose(1), reason=42)  # native rendering makes a number of it
    assert len(sagemaker.made("UpdateModelPackage")) == 1
    assert "because: 42" in str(packages()[1].approval_description)


def test_what_was_rolled_back_from_is_no_way_back(models: dict[int, TrainedModel]) -> None:
    record(choose())
    with pytest.raises(AirflowFailException, match=r"Version 2 is (live|Rejected)"):
        choose(2)
