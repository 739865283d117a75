"""Which instances bring a disk of their own, about which SageMaker takes no orders."""

from __future__ import annotations

import re

# Families with NVMe disks: a "d" after the generation (m5d, g4dn, p4de), and those that always have them.
# Inferentia (inf1, inf2) has none.
_OWN_DISK = re.compile(
    r"ml\.(?:[a-z]+\d+[a-z]*d[a-z]*|dl1|g[567]e?|gr6|p[56][a-z]*(?:-[a-z0-9]+)?|trn\d[a-z]*)\."
)


def has_own_disk(instance_type: str) -> bool:
    """Tells whether an instance's disk is its own: fixed in size, and encrypted by a key of the machine.

    SageMaker refuses a key of the customer's for it.
    """
    return _OWN_DISK.match(instance_type) is not None
