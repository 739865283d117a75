from __future__ import annotations

import pytest

from include.sagemaker.disks import has_own_disk

OWN = (
    *("m5d", "m6gd", "c5d", "r5d", "r7gd", "g4dn", "g5", "g6", "g6e", "gr6", "g7", "g7e", "dl1"),
    *("p3dn", "p4d", "p4de", "p5", "p5e", "p5en", "p6-b200", "p6-b300", "p6e-gb200"),
    *("trn1", "trn1n", "trn2"),
)
NETWORK = ("t3", "m5", "m6g", "m7i", "m7i-flex", "c5n", "c6gn", "c6in", "r8g", "p2", "p3", "inf1", "inf2")


@pytest.mark.parametrize("family", OWN)
def test_family_with_disks_of_its_own(family: str) -> None:
    assert has_own_disk(f"ml.{family}.xlarge")


@pytest.mark.parametrize("family", NETWORK)
def test_family_without(family: str) -> None:
    assert not has_own_disk(f"ml.{family}.xlarge")
