"""The planted models through suite and rules, as they are shipped; each is measured once."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from include.contracts import Champion, TrainedModel, Verdict
from include.gate.rival import NOTHING_LIVE, Rival
from include.gate.rules import load_rules
from include.gate.verdict import decide
from tests.gate.evaluations import Row
from tests.gate.planted import Model, leave, queries, shuffled, table

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "include" / "gate" / "suite.py"
TRAINED = TrainedModel(
    job_name="pms-0123456789ab",
    job_arn="arn:aws:sagemaker:us-east-1:123456789012:training-job/pms-0123456789ab",
    snapshot_id="snap",
    model_uri="s3://b/m/model.tar.gz",
    evaluation_uri="s3://b/m/output.tar.gz",
    billable_seconds=1,
)
LIVE = Rival(champion=Champion(model_name="pms-live", model_uri="s3://b/live/model.tar.gz"))

# The suite's own main for each line of arguments: TensorFlow's start is most of what a measurement takes.
SERVE = """
import json, runpy, sys
main = runpy.run_path(sys.argv[1])["main"]
for line in sys.stdin:
    print("measured", main(json.loads(line)), flush=True)
"""

Spoil = Callable[[list[Row]], None]

GOOD = table("head", "tail")
MODELS = {
    "good": Model(GOOD),
    "shuffled_weights": Model(shuffled(GOOD)),
    "constant": Model(table(fill="best")),
    "popular_only": Model(table("head", fill="best")),
    "tail_only": Model(table("tail", "head")),
    "without_tail": Model(table("head")),
    "leaking": Model(GOOD, leak=0.97),
    "elsewhere": Model({f"other-{sku}": [f"other-{other}" for other in row] for sku, row in GOOD.items()}),
}


@lru_cache(maxsize=1)
def packages(ml_python: Path) -> Path:
    """Returns a folder with the artefact of each model."""
    folder = Path(tempfile.mkdtemp(prefix="pms-packages-"))
    (folder / "tables.json").write_text(json.dumps({name: model.answers for name, model in MODELS.items()}))
    script = Path(__file__).with_name("packages.py")
    command = [ml_python, "-I", script, folder / "tables.json", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "saved_model.pb").write_bytes(b"\x08\x01 rubbish")
    return folder


class Gate:
    """Suite and rules, as the operator runs them; the suite runs once for each model and live model."""

    def __init__(self, python: Path, packages: Path, folder: Path) -> None:
        self.packages, self.folder = packages, folder
        # It ends with its input, and so with this process.
        self.suite = subprocess.Popen(
            [python, "-I", "-c", SERVE, SUITE],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr").open("w"),
            text=True,
        )
        self.reports: dict[tuple[str, str | None, str], str] = {}

    def report(
        self, model: str, live: str | None = None, *, served: str = "", spoil: Spoil | None = None
    ) -> str:
        """Measures a model; `served` is what is packaged, where that is another one."""
        key = (model, live, f"{served} {spoil}")
        if key not in self.reports:
            rows = queries(MODELS[model])
            if spoil is not None:
                spoil(rows)
            evaluation, out = leave(self.folder / "evaluation", rows), self.folder / "report.json"
            out.unlink(missing_ok=True)
            arguments = ["--evaluation", evaluation, "--out", out]
            arguments += ["--model", self.packages / (served or model), "--package-bytes", "1000000"]
            arguments += ["--champion", self.packages / live] if live else []
            self.measure([str(argument) for argument in arguments])
            self.reports[key] = out.read_text()
        return self.reports[key]

    def measure(self, arguments: list[str]) -> None:
        """Has the suite write a report."""
        assert self.suite.stdin is not None and self.suite.stdout is not None
        self.suite.stdin.write(json.dumps(arguments) + "\n")
        self.suite.stdin.flush()
        for line in self.suite.stdout:
            if line.startswith("measured "):
                assert line.split()[1] == "0"
                return
        raise AssertionError((self.folder / "stderr").read_text()[-4000:])

    def __call__(self, model: str, live: str | None = None, **options: Any) -> Verdict:
        text, rival = self.report(model, live, **options), LIVE if live else NOTHING_LIVE
        return decide(text, load_rules(), TRAINED, "s3://b/report.json", rival=rival)


@lru_cache(maxsize=1)
def planted_gate(ml_python: Path) -> Gate:
    """Returns the gate over the planted models."""
    return Gate(ml_python, packages(ml_python), Path(tempfile.mkdtemp(prefix="pms-gate-")))


def names(verdict: Verdict, status: str) -> set[str]:
    return {check.name for check in verdict.checks if check.status == status}
