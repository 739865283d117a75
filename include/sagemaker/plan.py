"""From what a run chose, and the settings, to the one request of its training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from include.contracts import Snapshot
from include.sagemaker.images import training_image
from include.sagemaker.naming import training_job_name
from include.sagemaker.prices import check_budget
from include.sagemaker.training import Machines, training_request
from include.sagemaker.tuning import tuning_request
from include.settings import Settings


class Choice(NamedTuple):
    """What a run chose of its training; Airflow may hand numbers over as text.

    Attributes:
        hyperparameters: What reaches `train.py` as `--name value`.
        max_runtime_seconds: SageMaker stops a training after this long.
        max_cost: US dollars that a new job may cost at most; None for no limit.
        tune_trials: 0 trains once; N is a search of N trainings.
        tune_parallel: Trainings of a search at a time.
    """

    hyperparameters: Mapping[str, object]
    instance_type: str
    max_runtime_seconds: int | str
    instances: int | str = 1
    spot: bool = False
    max_cost: float | str | None = None
    tune_trials: int | str = 0
    tune_parallel: int | str = 1


def source_uri(settings: Settings, digest: str) -> str:
    """Returns where the training code of a digest lies."""
    return f"{settings.home}/code/{digest}/sourcedir.tar.gz"


def job_request(
    choice: Choice, settings: Settings, snapshot: Snapshot, digest: str, region: str | None
) -> dict[str, Any]:
    """Returns the request of the training job, or of the tuning job where trials are wanted.

    Args:
        choice: The run's choice.
        settings: Everything else.
        snapshot: The data.
        digest: Of the training code.
        region: Region of the job.

    Raises:
        BadInputError: A number is out of bounds, or a name reserved.
        SettingsError: There is no image of AWS's for the job.
    """
    image = training_image(settings, region, choice.instance_type)
    instances = int(choice.instances)
    request = training_request(
        # Tracking is no part of the name: it changes nothing of what is learned.
        job_name=training_job_name(
            snapshot.snapshot_id, digest, choice.hyperparameters, image, choice.instance_type, instances
        ),
        snapshot=snapshot,
        hyperparameters=choice.hyperparameters,
        source_uri=source_uri(settings, digest),
        output_uri=f"{settings.home}/models",
        image=image,
        role_arn=settings.sagemaker_role_arn,
        machines=Machines(
            instance_type=choice.instance_type,
            instances=instances,
            volume_gb=settings.training_volume_gb,
            spot_wait_seconds=settings.spot_wait_minutes * 60 if choice.spot else None,
            network=settings.network,
            kms_key_id=settings.kms_key_id,
        ),
        max_runtime_seconds=int(choice.max_runtime_seconds),
        region=region,
        tracking=settings.tracking,
        environment=settings.tracking_environment,
        resource_tags=settings.resource_tags,
    )
    if trials := int(choice.tune_trials):
        return tuning_request(request, trials=trials, parallel=int(choice.tune_parallel))
    return request


def check_cost(choice: Choice, region: str | None) -> str | None:
    """Refuses a choice whose longest run costs more than it allows.

    Returns:
        Why that cannot be checked; None where it was, or where there is no limit.

    Raises:
        BadInputError: It could cost more.
    """
    return check_budget(
        None if choice.max_cost is None else float(choice.max_cost),
        region=region,
        instance=choice.instance_type,
        instances=int(choice.instances),
        seconds=int(choice.max_runtime_seconds),
        trials=int(choice.tune_trials),
    )
