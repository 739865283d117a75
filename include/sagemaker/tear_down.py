"""What would be deleted of the project, in the order in which it has to go: the plan of a tear-down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from botocore.exceptions import ClientError

from include.contracts import BadInputError, Contract, SettingsError
from include.sagemaker.errors import error_code
from include.sagemaker.inventory import Item, listed, ours, seen
from include.sagemaker.naming import PREFIX
from include.sagemaker.prices import HOURS_A_MONTH, Prices
from include.sagemaker.storage import parse_s3_uri
from include.settings import Settings

FOLDER = "tear_down"
MOST_SHOWN = 25
# As they have to go: what costs most first, users before what they use, the group after its versions.
Kind = Literal[
    "tuning_job",
    "training_job",
    "endpoint",
    "scalable_target",
    "endpoint_config",
    "model",
    "model_package",
    "model_package_group",
    "objects",
]
WORDS: dict[Kind, str] = {
    "tuning_job": "Running searches, to be stopped",
    "training_job": "Running training jobs, to be stopped",
    "endpoint": "Endpoints",
    "scalable_target": "Autoscaling of endpoints",
    "endpoint_config": "Endpoint configurations",
    "model": "Models",
    "model_package": "Versions in the registry",
    "model_package_group": "Groups in the registry",
    "objects": "Files on S3",
}
ORDER: tuple[Kind, ...] = tuple(WORDS)


class Thing(Contract):
    """One thing that would go.

    Attributes:
        name: Its name; an ARN of a version, `<endpoint>/<variant>` of autoscaling, a folder of files.
        created: ISO moment at which it was made; empty where that does not matter.
        state: What must still be so when it is deleted: an endpoint's configuration.
        note: For people.
        usd_a_month: What it costs at list price; None where that is not known.
    """

    kind: Kind
    name: str
    created: str = ""
    state: str = ""
    note: str = ""
    usd_a_month: float | None = None


class Plan(Contract):
    """Everything that would go; nothing else is ever deleted.

    Attributes:
        made: ISO moment (UTC); files that were written later stay.
    """

    made: str
    things: tuple[Thing, ...]

    @property
    def usd_a_month(self) -> float:
        """What is known of the costs that would end."""
        return sum(thing.usd_a_month or 0.0 for thing in self.things)

    def of(self, *kinds: Kind) -> list[Thing]:
        """Returns the things of these kinds."""
        return [thing for thing in self.things if thing.kind in kinds]

    def to_bytes(self) -> bytes:
        """Returns canonical JSON: the same plan, the same bytes."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"

    def as_text(self, most: int | None = MOST_SHOWN) -> str:
        """Returns the plan for people, as Markdown.

        Args:
            most: Names to show of each kind; None for all.
        """
        lines = []
        for kind in ORDER:
            found = self.of(kind)
            if found:
                lines.append(f"**{WORDS[kind]}: {len(found)}**\n")
                lines += [f"- {_line(thing)}" for thing in found[:most]]
                if most is not None and len(found) > most:
                    lines.append(f"- … and {len(found) - most} more")
                lines.append("")
        cost = f"about ${self.usd_a_month:,.0f} a month" if self.usd_a_month else "no cost that is known"
        return "\n".join([*lines, f"At list price, {cost} ends."])


class PlanClaim(Contract):
    """Claim check of a plan.

    Attributes:
        uri: `s3://…/tear_down/<run>.json`.
        text: The plan for people, shortened.
    """

    uri: str
    sha256: str
    things: int
    usd_a_month: float
    text: str


class Clients(NamedTuple):
    """boto3 clients of the same account and region."""

    sagemaker: Any
    scaling: Any
    s3: Any


def _line(thing: Thing) -> str:
    cost = f", ${thing.usd_a_month:,.0f} a month" if thing.usd_a_month else ""
    return f"`{thing.name}`{f' ({thing.note})' if thing.note else ''}{cost}"


def plan_of(clients: Clients, settings: Settings, prices: Prices, *, data: bool, registry: bool) -> Plan:
    """Lists what has the project's tag, and nothing else.

    Args:
        clients: Of the account and region.
        settings: Name the project's place on S3.
        prices: Of endpoint instances.
        data: Whether its files on S3 go, too.
        registry: Whether its versions in the registry go, too.

    Raises:
        SettingsError: Its place on S3 is a whole bucket.
    """
    if data and not settings.prefix:
        raise SettingsError(
            f"PMS_PREFIX is empty, so that the project's place is the whole bucket {settings.bucket}: empty "
            "it by hand, and trigger again with *Files on S3* off."
        )
    made = datetime.now(UTC).isoformat()
    client = clients.sagemaker
    things: list[Thing] = []
    things += _tagged(client, "tuning_job", StatusEquals="InProgress")
    things += _tagged(client, "training_job", StatusEquals="InProgress")
    endpoints = list(_endpoints(client, prices))
    things += [*endpoints, *_scalable_targets(clients.scaling, {thing.name for thing in endpoints})]
    # Asked by name first: to see an account's every tag takes a call for each.
    things += _tagged(client, "endpoint_config", NameContains=PREFIX)
    things += _tagged(client, "model", NameContains=PREFIX)
    if registry:
        things += _registry(client)
    if data:
        things += _files(clients.s3, settings)
    return Plan(made=made, things=tuple(things))


def _tagged(
    client: Any, kind: Literal["tuning_job", "training_job", "endpoint_config", "model"], **filters: str
) -> Iterator[Thing]:
    for item, _ in ours(client, listed(client, kind, **filters)):
        yield Thing(kind=kind, name=item.name, created=item.created)


def _endpoints(client: Any, prices: Prices) -> Iterator[Thing]:
    for item, _ in ours(client, listed(client, "endpoint")):
        told = seen(partial(client.describe_endpoint, EndpointName=item.name))
        if told is None:
            continue
        name = str(told.get("EndpointConfigName", ""))
        config = seen(partial(client.describe_endpoint_config, EndpointConfigName=name)) or {}
        yield Thing(
            kind="endpoint",
            name=item.name,
            created=item.created,
            state=name,
            note=f"{told.get('EndpointStatus')} on {name}",
            usd_a_month=_cost(told, config, prices, client.meta.region_name),
        )


def _cost(
    endpoint: Mapping[str, Any], config: Mapping[str, Any], prices: Prices, region: str | None
) -> float | None:
    now = {
        one["VariantName"]: one.get("CurrentInstanceCount") for one in endpoint.get("ProductionVariants", [])
    }
    costs = []
    for variant in [*config.get("ProductionVariants", []), *config.get("ShadowProductionVariants", [])]:
        hourly = prices.of_hosting(region, str(variant.get("InstanceType", "")))
        count = now.get(variant["VariantName"]) or variant.get("InitialInstanceCount", 0)
        costs.append(None if hourly is None else hourly * count * HOURS_A_MONTH)
    known = [cost for cost in costs if cost is not None]
    return round(sum(known), 2) if known else None


def _scalable_targets(scaling: Any, endpoints: set[str]) -> Iterator[Thing]:
    for page in scaling.get_paginator("describe_scalable_targets").paginate(ServiceNamespace="sagemaker"):
        for target in page["ScalableTargets"]:
            kind, _, place = str(target["ResourceId"]).partition("/")
            if kind == "endpoint" and place.split("/")[0] in endpoints:
                yield Thing(kind="scalable_target", name=place, state=str(target["ScalableDimension"]))


def _registry(client: Any) -> Iterator[Thing]:
    groups: list[Item] = [item for item, _ in ours(client, listed(client, "model_package_group"))]
    for group in groups:
        for arn, created in packages_in(client, group.name):
            yield Thing(kind="model_package", name=arn, created=created, state=group.name)
    yield from (Thing(kind="model_package_group", name=group.name, created=group.created) for group in groups)


def packages_in(client: Any, group: str) -> Iterator[tuple[str, str]]:
    """Yields ARN and ISO moment (UTC) of every version of a group."""
    for page in client.get_paginator("list_model_packages").paginate(ModelPackageGroupName=group):
        for entry in page["ModelPackageSummaryList"]:
            yield str(entry["ModelPackageArn"]), entry["CreationTime"].astimezone(UTC).isoformat()


def _files(s3: Any, settings: Settings) -> Iterator[Thing]:
    count = size = 0
    for _, _, length in files_in(s3, settings.home):
        count, size = count + 1, size + length
    if count:
        yield Thing(kind="objects", name=settings.home, note=f"{count:,} files, {size / 1e6:,.1f} MB")


def files_in(s3: Any, home: str) -> Iterator[tuple[str, datetime, int]]:
    """Yields key, moment and size of each of the project's files, but for the plans of tear-downs."""
    bucket, prefix = parse_s3_uri(f"{home}/")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            if not entry["Key"].startswith(f"{prefix}{FOLDER}/"):
                yield entry["Key"], entry["LastModified"], int(entry["Size"])


def keep_plan(s3: Any, home: str, run_id: str, plan: Plan) -> tuple[Plan, PlanClaim]:
    """Writes a run's plan, once: what a person was asked about is what is deleted, whatever is cleared.

    Args:
        s3: boto3 S3 client.
        home: The project's place on S3.
        run_id: The run.
        plan: What `plan_of` returned.

    Returns:
        The plan that stands, this one or that of an earlier try, and its claim check.
    """
    uri = f"{home}/{FOLDER}/{quote(run_id, safe='')}.json"
    bucket, key = parse_s3_uri(uri)
    try:
        s3.put_object(
            Bucket=bucket, Key=key, Body=plan.to_bytes(), ContentType="application/json", IfNoneMatch="*"
        )
    except ClientError as error:
        if error_code(error) not in {"412", "PreconditionFailed"}:
            raise
        plan = Plan.model_validate_json(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    return plan, PlanClaim(
        uri=uri,
        sha256=hashlib.sha256(plan.to_bytes()).hexdigest(),
        things=len(plan.things),
        usd_a_month=round(plan.usd_a_month, 2),
        text=plan.as_text(),
    )


def read_plan(s3: Any, claim: PlanClaim) -> Plan:
    """Returns the plan of a claim check.

    Raises:
        BadInputError: What lies there is not what was agreed to.
    """
    bucket, key = parse_s3_uri(claim.uri)
    body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    if hashlib.sha256(body).hexdigest() != claim.sha256:
        raise BadInputError(f"{claim.uri} is not the plan that was agreed to: trigger a new run.")
    return Plan.model_validate_json(body)
