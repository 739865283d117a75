"""Clears away what is old and what nothing needs: endpoint configurations, models, snapshots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.sagemaker import SageMakerHook
from airflow.sdk import BaseOperator, Context
from botocore.exceptions import ClientError

from include.contracts import Snapshot
from include.operators.guard import aws_faults, read_claim
from include.sagemaker.errors import is_missing
from include.sagemaker.inventory import in_use
from include.sagemaker.retention import Surplus, snapshots_in_training, surplus, take_stock
from include.settings import Settings, get_settings
from include.snapshot_retention import (
    YOUNG,
    compared_with,
    delete_snapshot,
    find_folders,
    surplus_snapshots,
    used_by_runs,
)
from include.snapshots import snapshot_uri


class CleanUpOperator(BaseOperator):
    """Keeps the newest configurations, models and snapshots, and what is in use; removes the others.

    Only what has the project's tag or lies in its place on S3 is looked at. What is gone already is no fault,
    so that two runs may clean up at once.

    Args:
        snapshot: The `Snapshot` claim check of the run, which stays.
        aws_conn_id: Airflow connection of AWS; that of the settings by default.
        **kwargs: Arguments of the base operator.
    """

    template_fields: Sequence[str] = ("snapshot", "aws_conn_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"snapshot": "json"}

    def __init__(self, *, snapshot: Any, aws_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.aws_conn_id = aws_conn_id or get_settings().aws_conn_id

    def execute(self, context: Context) -> dict[str, object]:
        """Cleans up; returns the names of what went, by kind."""
        settings = get_settings()
        own = read_claim(Snapshot, self.snapshot).snapshot_id
        now = _now()
        with aws_faults("Cleaning up"):
            hook: SageMakerHook = SageMakerHook(aws_conn_id=self.aws_conn_id)  # type: ignore[no-untyped-call]
            client: Any = hook.get_conn()
            stock = take_stock(client, settings)
            if stock is None:
                self.log.warning("What an endpoint serves cannot be known: nothing is cleaned up.")
                return {"endpoint_configs": [], "models": [], "snapshots": []}
            old = surplus(stock, settings.keep_versions, now)
            gone = {**self._serving(client, old), "snapshots": self._snapshots(hook, settings, old, own, now)}
        for kind, names in gone.items():
            self.log.info("%s removed: %s.", kind, ", ".join(names) if names else "none")
        return dict(gone)

    def _serving(self, client: Any, old: Surplus) -> dict[str, list[str]]:
        gone: dict[str, list[str]] = {"endpoint_configs": [], "models": []}
        left = False
        # Looked at again before each: an endpoint may go back to an old one at any moment.
        for name in old.configs:
            now = in_use(client)
            if not now.known or name in now.configs:
                left = True
            elif _deleted(partial(client.delete_endpoint_config, EndpointConfigName=name)):
                gone["endpoint_configs"].append(name)
        # After their configurations, which a killed clean-up could not know to be the project's else.
        for name in () if left else old.models:
            now = in_use(client)
            if (
                now.known
                and name not in now.models
                and _deleted(partial(client.delete_model, ModelName=name))
            ):
                gone["models"].append(name)
        return gone

    def _snapshots(
        self, hook: SageMakerHook, settings: Settings, old: Surplus, own: str, now: datetime
    ) -> list[str]:
        s3: Any = hook.s3_hook.get_conn()
        place = (settings.bucket, settings.prefix)
        in_use = {own, *old.snapshots_in_use, *snapshots_in_training(hook.get_conn())}
        in_use |= used_by_runs(s3, *place, since=now - YOUNG)
        names = surplus_snapshots(
            find_folders(s3, *place), settings.keep_snapshots, now, in_use, compared_with(s3, *place)
        )
        for name in names:
            delete_snapshot(s3, snapshot_uri(*place, name))
        return names


def _deleted(delete: Callable[[], object]) -> bool:
    """Deletes something; tells whether it was still there."""
    try:
        delete()
    except ClientError as error:
        if is_missing(error):
            return False
        raise
    return True


def _now() -> datetime:
    return datetime.now(UTC)
