"""Which registered model the endpoint goes back to, and what has to be there for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from include.contracts import BadInputError, Registered, TrainedModel, Verdict
from include.sagemaker.registry import Package, clean_text, list_packages
from include.sagemaker.storage import object_exists, parse_s3_uri


@dataclass(frozen=True)
class Choice:
    """What a roll-back does.

    Attributes:
        package: The entry that goes live.
        leaves: The entry that is live now; None where what is live was never registered, or nothing is.
    """

    package: Package
    leaves: Package | None


@dataclass(frozen=True)
class Claims:
    """The claim checks that a pipeline run would hand to its deploy."""

    trained_model: TrainedModel
    verdict: Verdict
    registered: Registered


def packages_of(client: Any, group: str, version: int | None) -> list[Package]:
    """Returns the group's newest packages, newest first, and the named one where it is none of them.

    Args:
        client: boto3 SageMaker client.
        group: Name of the model package group.
        version: The version that somebody named.
    """
    packages = list_packages(client, group)
    if version is not None and all(package.version != version for package in packages):
        older = list_packages(client, group, limit=1, before=version + 1)
        packages += [package for package in older if package.version == version]
    return packages


def choose(packages: Sequence[Package], live_uri: str | None, version: int | None) -> Choice:
    """Chooses the model to go back to: the named one, or the approved one before the live one.

    Args:
        packages: The group's versions, newest first.
        live_uri: The `model.tar.gz` behind the endpoint; None where nothing is live.
        version: The version that somebody named; None for the one before.

    Raises:
        BadInputError: There is nothing to go back to, or the named version is no way back.
    """
    leaves = next((package for package in packages if live_uri and package.model_uri == live_uri), None)
    if version is not None:
        return Choice(_named(packages, version, live_uri), leaves)
    if leaves is None:
        what = "What is live was never registered" if live_uri else "Nothing is live"
        raise BadInputError(f"{what}, so that no model comes before it: name a version. {_known(packages)}")
    for package in _last_words(packages):
        if package.version < leaves.version and package.approval == "Approved":
            return Choice(package, leaves)
    raise BadInputError(
        f"No approved model comes before the live one, version {leaves.version}: name a version. "
        f"{_known(packages)}"
    )


def again(packages: Iterable[Package], version: int, leaves: int | None) -> Choice:
    """Returns a choice made before: what was chosen may be live by now.

    Raises:
        BadInputError: The chosen version is gone.
    """
    found = {package.version: package for package in packages}
    if version not in found:
        raise BadInputError(f"Version {version}, chosen by an earlier try, was deleted from the registry.")
    return Choice(found[version], found.get(leaves) if leaves is not None else None)


def _named(packages: Sequence[Package], version: int, live_uri: str | None) -> Package:
    package = next((package for package in packages if package.version == version), None)
    if package is None:
        raise BadInputError(f"There is no version {version}. {_known(packages)}")
    if package.model_uri and package.model_uri == live_uri:
        raise BadInputError(f"Version {version} is live already: there is nothing to do.")
    last = next(entry for entry in packages if entry.model_uri == package.model_uri)
    if last.approval != "Approved":
        entered = "" if last.version == version else f", of the same model as version {version},"
        reason = f" ({last.approval_description})" if last.approval_description else ""
        raise BadInputError(
            f"Version {last.version}{entered} is {last.approval}{reason}: nothing goes back to it before "
            f"somebody approves it in the registry. {_known(packages)}"
        )
    return package


def _last_words(packages: Sequence[Package]) -> list[Package]:
    """Returns the latest entry of each artefact: an earlier one may say what was taken back since."""
    latest: dict[str | None, Package] = {}
    for package in packages:
        latest.setdefault(package.model_uri, package)
    return list(latest.values())


def _known(packages: Sequence[Package]) -> str:
    approved = [str(package.version) for package in _last_words(packages) if package.approval == "Approved"]
    return f"Approved are: {', '.join(approved[:20])}." if approved else "No version is Approved."


def files_of(package: Package) -> dict[str, str]:
    """Returns what a roll-back to a version needs on S3, by what it is; empty for somebody else's entry."""
    if not (package.job_name and package.snapshot_id and package.model_uri and package.report_uri):
        return {}
    return {
        "model": package.model_uri,
        # Where SageMaker puts what a job wrote besides its model.
        "evaluation archive": f"{package.model_uri.rpartition('/')[0]}/output.tar.gz",
        "verdict": f"{package.report_uri.rpartition('/')[0]}/verdict.json",
    }


def claims_of(s3: Any, group: str, package: Package) -> Claims:
    """Rebuilds a package's claim checks from the registry and S3, and sees that all is there.

    Args:
        s3: boto3 S3 client.
        group: Name of the model package group.
        package: The entry that goes live.

    Raises:
        BadInputError: Something that the deploy needs is gone, or the gate never approved the model.
        ClientError: S3 refused to say.
    """
    files, job, snapshot = files_of(package), package.job_name, package.snapshot_id
    if not files:
        raise BadInputError(
            f"Version {package.version} was not registered by this project: it names no training job, "
            "snapshot, model or report."
        )
    for what, uri in files.items():
        if not object_exists(s3, uri):
            raise BadInputError(
                f"The {what} of version {package.version} is gone from S3 ({uri}): choose another version."
            )
    verdict = _verdict(s3, files["verdict"])
    if (verdict.job_name, verdict.snapshot_id) != (job, snapshot) or not verdict.approved:
        raise BadInputError(
            f"The gate did not approve version {package.version}, whatever the registry says: choose another "
            "version, or trigger post_modern_stack with the Param *Override the gate, because*."
        )
    return Claims(
        TrainedModel(
            job_name=str(job),
            job_arn=package.job_arn or "",
            snapshot_id=str(snapshot),
            model_uri=files["model"],
            evaluation_uri=files["evaluation archive"],
            billable_seconds=0,  # of this run
            data_until=package.data_until,
            trained_at=package.trained_at,
        ),
        verdict,
        Registered(
            package_arn=package.arn,
            group_name=group,
            version=package.version,
            approval=package.approval,
            job_name=str(job),
            snapshot_id=str(snapshot),
        ),
    )


def _verdict(s3: Any, uri: str) -> Verdict:
    bucket, key = parse_s3_uri(uri)
    try:
        return Verdict.model_validate_json(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    except ValidationError as error:
        raise BadInputError(f"{uri} holds no verdict of this project: choose another version.") from error


def note_of(said: str, run_id: str, before: str | None) -> str | None:
    """Returns an entry's new description, which keeps the old one; None where this run has noted it before.

    Args:
        said: What happened, who did it and why.
        run_id: The run.
        before: The description until now.
    """
    mark = f"(run {run_id})"
    if before and mark in before:
        return None
    return clean_text(f"{said} {mark}" + (f" Before that: {before}" if before else ""))
