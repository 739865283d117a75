"""Tags of what the project makes in AWS: those of the settings beside its own."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Of keys and values of AWS's tags.
_TEXT = re.compile(r"[\w .:/=+@-]*")
_MOST = 40
# By these the project knows its own again.
_OWN = {
    "project",
    "training_job",
    "snapshot_id",
    "data_until",
    "trained_at",
    "shadow_of",
    "shadow_job",
}


def tags(others: Mapping[str, str] | None = None, /, **values: str) -> list[dict[str, str]]:
    """Returns SageMaker tags: others first, which cannot take a name of the project's own."""
    everything = {**(others or {}), "project": "post-modern-stack", **values}
    return [{"Key": key, "Value": value} for key, value in everything.items()]


def tags_that_aws_takes(others: dict[str, str]) -> dict[str, str]:
    """Returns the tags as they are.

    Raises:
        ValueError: AWS would refuse one, or the project has it itself.
    """
    for key, text in others.items():
        if not (0 < len(key) <= 128 and len(text) <= 256 and _TEXT.fullmatch(key + text)):
            raise ValueError(
                f"{key!r} is no tag that AWS takes: up to 128 letters, digits, spaces and _.:/=+-@ for "
                "its key, and 256 for its value"
            )
        if key.lower().startswith("aws:") or key in _OWN:
            raise ValueError(f"the tag {key!r} is AWS's or the project's own: choose another key")
    if len(others) > _MOST:
        raise ValueError(f"AWS takes 50 tags, and some are the project's own: give {_MOST} at most")
    return others
