from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from include.settings import Settings


@pytest.mark.parametrize("name", ["schedule", "dbt_cloud_job_id", "mlflow_tracking_uri"])
def test_empty_means_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"PMS_{name.upper()}", "")
    assert getattr(Settings(), name) is None


@pytest.mark.parametrize("job", ["0", "-1", "nightly"])
def test_job_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    monkeypatch.setenv("PMS_DBT_CLOUD_JOB_ID", job)
    with pytest.raises(ValidationError, match="dbt_cloud_job_id"):
        Settings()


def test_unknown_warehouse_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMS_WAREHOUSE", "oracle")
    with pytest.raises(ValidationError, match="warehouse"):
        Settings()


@pytest.mark.parametrize(
    ("tracking", "uri", "variables"),
    [
        ("none", "http://m:5000", {}),
        ("comet", "http://m:5000", {}),
        ("mlflow", "http://m:5000", {"MLFLOW_TRACKING_URI": "http://m:5000"}),
        ("mlflow", "databricks://shop", {"MLFLOW_TRACKING_URI": "databricks://shop"}),
        ("mlflow", None, {}),
    ],
)
def test_only_the_chosen_tracker_is_told(tracking: str, uri: str | None, variables: dict[str, str]) -> None:
    made = Settings(tracking=tracking, mlflow_tracking_uri=uri)  # type: ignore[arg-type]
    assert made.tracking_environment == variables


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:canary@mlflow.example",
        "https://canary@mlflow.example",
        "postgresql://db/x?password=canary",
    ],
    ids=["password", "token", "query"],
)
def test_address_with_a_login_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("PMS_MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValidationError, match="no user, password or query") as failure:
        Settings()
    assert "canary" not in str(failure.value)


def test_unknown_tracker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMS_TRACKING", "wandb")
    with pytest.raises(ValidationError, match="'none', 'mlflow' or 'comet'"):
        Settings()


def test_every_setting_and_its_default_is_in_the_readme(root: Path) -> None:
    readme = (root / "README.md").read_text()
    for name in Settings.model_fields:
        assert f"`PMS_{name.upper()}`" in readme


@pytest.mark.parametrize(
    ("given", "prefix", "home"),
    [
        ("shop", "shop", "s3://b/shop"),
        ("/shop/", "shop", "s3://b/shop"),
        ("a//b/", "a/b", "s3://b/a/b"),
        ("", "", "s3://b"),
        ("/", "", "s3://b"),
    ],
)
def test_prefix_may_be_empty_or_have_slashes_around_it(given: str, prefix: str, home: str) -> None:
    made = Settings(bucket="b", prefix=given)
    assert (made.prefix, made.home) == (prefix, home)


LINEAR: dict[str, object] = {"traffic_shift": "linear", "endpoint_instance_count": 4}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"vpc_subnets": "subnet-1"}, "set both, or none"),
        ({"traffic_shift": "canary"}, "endpoint_instance_count to 2 or more"),
        ({"traffic_shift": "linear", "endpoint_serverless": True}, "moves all_at_once"),
        ({**LINEAR, "traffic_step_percent": 5}, "of 10 to 50 %"),
        ({**LINEAR, "bake_seconds": 3600}, "bake_seconds to 2700 or less"),
    ],
)
def test_settings_that_cannot_go_together_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings(_env_file=None, **values)  # type: ignore[arg-type]


def test_subnets_become_a_vpc_config() -> None:
    made = Settings(_env_file=None, vpc_subnets="subnet-1, subnet-2", vpc_security_groups="sg-1")  # type: ignore[call-arg]
    assert made.network == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert Settings(_env_file=None).network is None  # type: ignore[call-arg]


def test_alarms_are_named_after_the_endpoint() -> None:
    made = Settings(_env_file=None, endpoint_name="e")  # type: ignore[call-arg]
    assert made.alarm_names == ("e-5xx", "e-latency", "e-model-errors")
    assert made.model_copy(update={"rollback_on_alarms": False}).alarm_names == ()


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("s" * 50, True),
        ("shop--2", True),
        ("s" * 51, False),
        ("shop-", False),
        ("-shop", False),
        ("shop_2", False),
        ("shop\n", False),
        ("", False),
    ],
)
def test_name_of_the_endpoint_is_one_that_sagemaker_and_the_template_take(
    root: Path, name: str, taken: bool
) -> None:
    template = (root / "include" / "cloud" / "aws.yaml").read_text()
    pattern = re.search(r'^  EndpointName:.*?AllowedPattern: "(.*?)"$', template, re.S | re.M)
    assert pattern and bool(re.fullmatch(pattern[1], name)) is taken
    if taken:
        assert Settings(endpoint_name=name).endpoint_name == name
    else:
        with pytest.raises(ValidationError, match="endpoint_name"):
            Settings(endpoint_name=name)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"k" * 129: "v"}, "no tag that AWS takes"),
        ({"team": "v" * 257}, "no tag that AWS takes"),
        ({"": "v"}, "no tag that AWS takes"),
        ({"team": "a;b"}, "no tag that AWS takes"),
        ({"team": "a\nb"}, "no tag that AWS takes"),
        ({"aws:team": "v"}, "AWS's or the project's own"),
        ({"AWS:team": "v"}, "AWS's or the project's own"),
        ({"project": "mine"}, "AWS's or the project's own"),
        ({"data_until": "2099-01-01"}, "AWS's or the project's own"),
        ({f"team-{number}": "v" for number in range(41)}, "give 40 at most"),
    ],
)
def test_tags_that_aws_would_refuse_or_the_project_goes_by_are_refused(
    tags: dict[str, str], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings(resource_tags=tags)


def test_tags_of_many_letters_are_taken() -> None:
    tags = {"Kostenstelle Köln/1": "a_b.c:d=e+f-g@h", "empty": ""}
    assert Settings(resource_tags=tags).resource_tags == tags
