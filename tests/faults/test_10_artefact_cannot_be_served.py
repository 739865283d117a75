"""An artefact whose metrics pass but which cannot be served: the gate, which asks it, refuses it."""

from __future__ import annotations

import shutil
from pathlib import Path

from include.gate.verdict import as_table
from tests.gate.measuring import names, packages, planted_gate

DATA = "1/variables/variables.data-00000-of-00001"
OF_THE_ARTEFACT = {
    "steady_when_an_event_is_dropped",
    "steady_when_an_event_repeats",
    "steady_when_events_swap",
    "steady_beside_an_unknown_product",
    "serves_what_was_evaluated",
    "answers_at_all",
}


def test_a_flipped_byte_in_a_variable_file_is_refused_before_the_update(ml_python: Path) -> None:
    gate, damaged = planted_gate(ml_python), packages(ml_python) / "flipped"
    assert gate("good").approved, as_table(gate("good"))
    path = shutil.copytree(packages(ml_python) / "good", damaged, dirs_exist_ok=True) / DATA
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    verdict = gate("good", served="flipped")

    # No task of the deploy step runs after a gate that rejects.
    assert not verdict.approved
    assert names(verdict, "failed") == OF_THE_ARTEFACT, as_table(verdict)
    assert all("crashed: " in check.reason for check in verdict.failures)
    assert any("Checksum does not match" in check.reason for check in verdict.failures)
    # What was measured of its evaluation is as good as before: metrics alone would have passed it.
    assert verdict.metrics == gate("good").metrics
