"""Every setting that is not a DAG run's choice, in one class (environment prefix `PMS_`)."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from include.tags import tags_that_aws_takes

PROJECT_ROOT = Path(__file__).resolve().parent.parent
# Of a Param's pattern: Python's `$` alone lets a line feed follow.
PATTERN_END = r"$(?!\n)"
# Starts with a letter and is no Python literal: templates would turn "2021" or "None" into something else.
TENANT_PATTERN = rf"^(?!(?:None|True|False|inf|nan)$)[A-Za-z][A-Za-z0-9_.-]{{0,63}}{PATTERN_END}"
_IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_$]{0,254}$"


class Settings(BaseSettings):
    """Settings and their defaults; the README's table is generated from these descriptions."""

    # An input that is refused may be one that holds a password; the name of its field is told, and why.
    model_config = SettingsConfigDict(
        env_prefix="PMS_", env_file=PROJECT_ROOT / ".env", extra="ignore", hide_input_in_errors=True
    )

    warehouse: Literal["duckdb", "snowflake"] = Field(
        "duckdb", description="Which SQL dialect and profile the pipeline uses."
    )
    warehouse_conn_id: str = Field("warehouse_default", description="Airflow connection of the warehouse.")
    warehouse_schema: str = Field("shop", description="Schema of the dbt models (raw tables live in `raw`).")
    dbt_runner: Literal["core", "cloud"] = Field(
        "core", description="Who runs dbt: tasks of ours, one per model, or a job of dbt Cloud."
    )
    dbt_cloud_conn_id: str = Field("dbt_cloud_default", description="Airflow connection of dbt Cloud.")
    dbt_cloud_job_id: int | None = Field(
        None, ge=1, description="Job of dbt Cloud that builds and tests the project; needed with `cloud`."
    )
    dbt_cloud_minutes: int = Field(
        120, ge=1, le=1440, description="A run of that job is cancelled, and fails, after this long."
    )
    duckdb_memory_limit: str = Field(
        "4GB", description="Memory that DuckDB may take for a dbt model; what does not fit spills to disk."
    )
    snowflake_warehouse: str | None = Field(
        None, pattern=_IDENTIFIER, description="Virtual warehouse, where not the one of the connection."
    )
    snowflake_role: str | None = Field(
        None, pattern=_IDENTIFIER, description="Snowflake role, where not the one of the connection."
    )
    aws_conn_id: str = Field("aws_default", description="Airflow connection of AWS or of the local emulator.")
    bucket: str = Field("post-modern-stack", description="S3 bucket of snapshots, code, models and reports.")
    prefix: str = Field("shop", description="Key prefix inside the bucket; may be empty.")
    tenant: str = Field("demo-shop", description="Tenant key (`api_key`) of the rows loaded and read.")
    schedule: str | None = Field(
        "@daily",
        description="Schedule of `post_modern_stack`; `on_load` for a run after every load of the tenant, "
        "empty for none.",
    )
    window_days: int = Field(60, ge=1, le=3650, description="Length of the default rolling window, in days.")
    max_reject_share: float = Field(
        0.05, ge=0, le=1, description="Share of rejected rows above which a load lands nothing."
    )
    sagemaker_role_arn: str = Field(
        "arn:aws:iam::123456789012:role/post-modern-stack-sagemaker",
        description="Execution role of training jobs and models.",
    )
    training_framework_version: str = Field(
        "2.21",
        pattern=r"^\d+\.\d+$",
        description="TensorFlow of the training job; its image is AWS's own for the region and the instance.",
    )
    serving_framework_version: str = Field(
        "2.20",
        pattern=r"^\d+\.\d+$",
        description="TensorFlow Serving of the endpoint; its image is found likewise.",
    )
    training_image: str | None = Field(None, description="Image of the training job, where not AWS's own.")
    serving_image: str | None = Field(None, description="Image of the endpoint, where not AWS's own.")
    training_instance_type: str = Field("ml.g5.xlarge", description="Default instance of the training job.")
    training_volume_gb: int = Field(
        50, ge=1, le=16384, description="Disk of a training instance without one of its own."
    )
    training_spot: bool = Field(
        False, description="Train on spare capacity, cheaper and interruptible, unless a run says otherwise."
    )
    spot_wait_minutes: int = Field(
        60, ge=1, le=1440, description="Time that a job on spare capacity may wait for it, in all."
    )
    max_cost: float | None = Field(
        25,
        gt=0,
        description="A training that could cost more US dollars is refused, unless a run says otherwise; "
        "empty for no limit.",
    )
    vpc_subnets: str = Field(
        "", description="Subnets of jobs and endpoints, with commas between; empty for no VPC."
    )
    vpc_security_groups: str = Field("", description="Their security groups; needed with subnets.")
    kms_key_id: str | None = Field(
        None, description="KMS key of volumes, artefacts and captured data, where not AWS's own."
    )
    resource_tags: Annotated[dict[str, str], AfterValidator(tags_that_aws_takes)] = Field(
        default_factory=dict,
        description="Tags, as JSON, of all that is made in SageMaker, besides the project's own.",
    )
    tracking: Literal["none", "mlflow", "comet"] = Field(
        "none", description="Where training jobs copy parameters and learning curve."
    )
    mlflow_tracking_uri: str | None = Field(
        None,
        max_length=512,
        description="Address of the MLflow server, without a password; needed with `mlflow`.",
    )
    endpoint_instance_type: str = Field("ml.m5.large", description="Instance behind the endpoint.")
    endpoint_instance_count: int = Field(1, ge=1, le=50, description="Number of instances, to begin with.")
    endpoint_max_instances: int = Field(
        1,
        ge=1,
        le=50,
        description="Most instances that autoscaling may make; no autoscaling where no more than to begin "
        "with.",
    )
    endpoint_invocations_per_instance: int = Field(
        6000, ge=1, description="Requests a minute and instance that autoscaling aims at."
    )
    endpoint_serverless: bool = Field(
        False, description="Serve without instances of one's own: paid by request, with cold starts."
    )
    serverless_memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144] = Field(
        3072, description="Memory of a serverless endpoint."
    )
    serverless_max_concurrency: int = Field(
        20, ge=1, le=200, description="Requests at a time of a serverless endpoint."
    )
    traffic_shift: Literal["all_at_once", "canary", "linear"] = Field(
        "all_at_once",
        description="How traffic moves to a new model; the other two need two instances or more.",
    )
    traffic_step_percent: int = Field(
        10, ge=5, le=50, description="Share of the canary, or of a linear step."
    )
    bake_seconds: int = Field(
        300, ge=0, le=3600, description="Time that alarms watch each step of the new model."
    )
    rollback_on_alarms: bool = Field(
        True, description="Have SageMaker put the old model back where an alarm of `aws.yaml` goes off."
    )
    capture_percent: int = Field(
        20,
        ge=0,
        le=100,
        description="Share of requests and answers that is kept on S3; 0 for none. A shadow test keeps all.",
    )
    keep_versions: int = Field(
        10, ge=2, le=1000, description="SageMaker models and endpoint configurations to keep, the newest."
    )
    keep_snapshots: int = Field(30, ge=2, le=10000, description="Snapshots to keep, the newest of a tenant.")
    # SageMaker takes 63 letters; the endpoint of a run's own adds 13.
    endpoint_name: str = Field(
        "shop-recommender",
        max_length=50,
        pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$",
        description="Stable name of the endpoint.",
    )
    model_package_group: str = Field(
        "",
        pattern=r"^([a-zA-Z0-9](-*[a-zA-Z0-9]){0,62})?$",
        description="Model package group of the registry; empty for the endpoint's name.",
    )
    require_approval: bool = Field(False, description="Ask a person before a deploy, unless a run says no.")
    git_revision: str | None = Field(
        None,
        max_length=100,
        description="Revision of the project, for the registry; asked of git where it can be.",
    )
    poll_seconds: int = Field(30, ge=1, le=300, description="Pause between two looks at a job or endpoint.")
    ml_python: Path = Field(
        PROJECT_ROOT / ".venv-ml" / "bin" / "python",
        description="Interpreter of the ML environment (RecList, TensorFlow, the SageMaker SDK).",
    )

    @property
    def warehouse_pool(self) -> str:
        """Airflow pool of every task that opens the warehouse.

        DuckDB lets one process in at a time, hence a pool with one slot; Snowflake needs no queue of ours.
        """
        return "warehouse" if self.warehouse == "duckdb" else "default_pool"

    @property
    def home(self) -> str:
        """Where on S3 the project's folders lie, without a slash at the end."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def alarm_names(self) -> tuple[str, ...]:
        """CloudWatch alarms that watch a new model; `include/cloud/aws.yaml` makes them."""
        if not self.rollback_on_alarms or self.endpoint_serverless:
            return ()
        return tuple(f"{self.endpoint_name}-{what}" for what in ("5xx", "latency", "model-errors"))

    @property
    def network(self) -> dict[str, list[str]] | None:
        """`VpcConfig` of jobs and models; None for no VPC."""
        if not self.vpc_subnets:
            return None
        return {
            "SecurityGroupIds": [part.strip() for part in self.vpc_security_groups.split(",")],
            "Subnets": [part.strip() for part in self.vpc_subnets.split(",")],
        }

    @property
    def tracking_environment(self) -> dict[str, str]:
        """Variables of a training job that tell it where to track; many may read them, none is secret."""
        if self.tracking == "mlflow" and self.mlflow_tracking_uri:
            return {"MLFLOW_TRACKING_URI": self.mlflow_tracking_uri}
        return {}

    @field_validator("prefix")
    @classmethod
    def _prefix_is_joined_with_slashes_by_others(cls, value: str) -> str:
        return "/".join(part for part in value.split("/") if part)

    @field_validator("tenant")
    @classmethod
    def _tenant_survives_templates(cls, value: str) -> str:
        if not re.fullmatch(TENANT_PATTERN, value):
            raise ValueError("a tenant is a letter, then up to 63 letters, digits, '_', '.' or '-'")
        return value

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _address_holds_no_password(cls, value: str | None) -> str | None:
        if value and ("@" in value or "?" in value):
            raise ValueError(
                "whoever may describe a training job can read this address, so that no user, password or "
                "query may stand in it: give the host alone, and the login to the training image"
            )
        return value

    @model_validator(mode="after")
    def _registry_is_named_as_the_endpoint(self) -> Settings:
        self.model_package_group = self.model_package_group or self.endpoint_name
        return self

    @model_validator(mode="after")
    def _network_is_whole(self) -> Settings:
        if bool(self.vpc_subnets) != bool(self.vpc_security_groups):
            raise ValueError("vpc_subnets and vpc_security_groups go together: set both, or none")
        return self

    @model_validator(mode="after")
    def _traffic_can_be_shared(self) -> Settings:
        if self.endpoint_serverless and self.traffic_shift != "all_at_once":
            raise ValueError("a serverless endpoint moves all_at_once: SageMaker has no other way for it")
        if self.traffic_shift != "all_at_once" and self.endpoint_instance_count < 2:
            raise ValueError(
                f"traffic_shift {self.traffic_shift!r} puts at most half of the instances to work first: set "
                "endpoint_instance_count to 2 or more, or traffic_shift to 'all_at_once'"
            )
        if self.traffic_shift == "linear" and self.traffic_step_percent < 10:
            raise ValueError("a linear step is of 10 to 50 %: set traffic_step_percent to 10 or more")
        if self.traffic_shift == "linear" and self.bake_seconds > 2700:
            raise ValueError(
                "SageMaker gives an update eight hours, and a linear one may wait ten times: set "
                "bake_seconds to 2700 or less"
            )
        return self

    @field_validator(
        "schedule",
        "training_image",
        "serving_image",
        "max_cost",
        "kms_key_id",
        "dbt_cloud_job_id",
        "git_revision",
        "snowflake_warehouse",
        "snowflake_role",
        "mlflow_tracking_uri",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Returns the process's settings, read once.

    Raises:
        pydantic.ValidationError: A `PMS_` variable has a value that its field does not allow.
    """
    return Settings()
