"""A training job's way through its states, on a thread of its own: instance, data, script, artefacts."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from include.local.emulator.machine import storage
from include.local.emulator.machine.processes import ChildProcess, clean_environment
from include.local.emulator.training import container, staging
from include.local.emulator.training.job_state import OWN_FAILURE, REASON_LENGTH, JobStopped, TrainingJob
from include.local.emulator.training.logs import JobLog
from include.local.emulator.wire.errors import JobFailure
from include.local.emulator.wire.faults import Faults

_POLL_SECONDS = 0.2
_CHECKPOINT_SECONDS = 1.0
_BEGUN_ANEW = ("Interrupted", "Restarting")
_WORDS = {
    "fail": f"{OWN_FAILURE}: We encountered an internal error. Please try again.",
    "no_capacity": (
        "CapacityError: Unable to provision requested ML compute capacity. "
        "Please retry using a different ML instance type."
    ),
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Machine:
    """What runs the jobs of one emulator.

    Attributes:
        url: Address of the emulator.
        folder: Where each job gets a folder of its name.
        ml_python: Interpreter that runs the scripts.
        grace_seconds: Time between TERM and KILL (AWS gives 120 s).
        faults: What goes wrong on demand.
        closing: Set once the emulator ends.
    """

    url: str
    folder: Path
    ml_python: str
    grace_seconds: float
    faults: Faults
    closing: threading.Event


class JobRun:
    """One job on the machine.

    Args:
        job: What runs.
        machine: Where.
    """

    def __init__(self, job: TrainingJob, machine: Machine) -> None:
        self._job = job
        self._machine = machine
        self._workspace = container.Workspace(machine.folder / job.name)
        self._s3 = storage.client("s3", machine.url, job.region)
        self._begun = time.monotonic() - job.instance_seconds
        self._away = 0.0  # how long an instance that was taken away is missed

    def run(self, *, resumed: bool) -> None:
        """Takes the job to its end.

        Args:
            resumed: Whether an emulator before this one had begun it, so that files of it are left.
        """
        job = self._job
        try:
            if resumed:
                self._checkpoints().copy_all()
            else:
                shutil.rmtree(self._workspace.root, ignore_errors=True)
            outcome = self._train()
            self._finish(outcome)
        except JobStopped as stopped:
            job.end("Stopped", stopped.secondary)
        except JobFailure as failure:
            job.end("Failed", "Failed", str(failure))
        except Exception as error:
            log.exception("training job %s", job.name)
            job.end("Failed", "Failed", f"{OWN_FAILURE}: {type(error).__name__}: {error}")

    def _train(self) -> str:
        """Returns the last secondary status of a job that did not fail, on however many instances."""
        while True:
            self._await_instance()
            outcome = self._attempt()
            if outcome not in _BEGUN_ANEW:
                return outcome
            self._job.leave_instance()
            self._job.advance(outcome)
            self._pause(self._away)
            self._job.advance("Starting")

    def _await_instance(self) -> None:
        job = self._job
        job.advance("Pending")
        while rule := self._machine.faults.job_event(job.name, events=("no_capacity",)):
            job.say("Insufficient capacity error from EC2 while launching instances, retrying!")
            self._pause(rule.seconds)
            if not job.is_spot:
                raise JobFailure(rule.reason or _WORDS["no_capacity"])
        job.say("Preparing the instances for training")

    def _pause(self, seconds: float) -> None:
        """Waits without an instance.

        Raises:
            JobStopped: Somebody asked for it, or the job has waited as long as it may.
        """
        left = self._job.max_wait - self._waited()
        if self._job.stop_asked.wait(max(0.0, min(seconds, left))):
            raise JobStopped
        if seconds >= left:
            raise JobStopped("MaxWaitTimeExceeded")

    def _waited(self) -> float:
        return time.monotonic() - self._begun

    def _attempt(self) -> str:
        job = self._job
        self._workspace.renew()
        job.advance("Downloading")
        job.enter_instance()
        staging.fetch(self._s3, job, self._workspace)
        job.advance("Training")
        return self._execute()

    def _finish(self, outcome: str) -> None:
        job = self._job
        if self._machine.closing.is_set():
            raise JobStopped
        if outcome == "Completed":
            job.advance("Uploading")
        staging.store(self._s3, job, self._workspace)
        with job.lock:
            if job.stop_asked.is_set() and outcome == "Completed":
                raise JobStopped
            job.end("Completed" if outcome == "Completed" else "Stopped", outcome)

    def _execute(self) -> str:
        """Runs the script and returns what became of it, if it did not fail."""
        job, workspace, machine = self._job, self._workspace, self._machine
        decoded = container.decode_hyper_parameters(job.request["HyperParameters"])
        arguments = container.arguments(container.user_hyper_parameters(decoded))
        patterns = container.metric_patterns(job.request["AlgorithmSpecification"])
        logs = storage.client("logs", machine.url, job.region)
        job_log = JobLog(logs, job.name, workspace.log, patterns, job.metrics)
        own = container.environment(workspace, job.name, job.region, machine.url, job.request)
        checkpoints = self._checkpoints()
        child = ChildProcess(
            [machine.ml_python, decoded[container.PROGRAM], *arguments],
            env=clean_environment(own),
            cwd=workspace.code,
        )
        begun = time.monotonic()
        try:
            job_log.follow(child.output)
            outcome = self._watch(child, job_log, checkpoints)
        finally:
            child.end(machine.grace_seconds)
            job_log.finish()
            checkpoints.copy()
            with job.lock:
                job.script_seconds += time.monotonic() - begun
        if outcome == "Completed" and (status := child.poll()):
            raise JobFailure(_algorithm_error(status, workspace, job_log))
        return outcome

    def _watch(self, child: ChildProcess, job_log: JobLog, checkpoints: staging.CheckpointSync) -> str:
        job, begun = self._job, time.monotonic()
        copied = begun
        while child.wait(_POLL_SECONDS) is None:
            job_log.flush()
            elapsed = time.monotonic() - begun
            if job.stop_asked.is_set():
                return "Stopped"
            if job.script_seconds + elapsed > job.max_runtime:
                return "MaxRuntimeExceeded"
            if self._waited() > job.max_wait:
                return "MaxWaitTimeExceeded"
            if outcome := self._fault(elapsed):
                return outcome
            if time.monotonic() - copied >= _CHECKPOINT_SECONDS:
                checkpoints.copy()
                copied = time.monotonic()
        return "Completed"

    def _fault(self, elapsed: float) -> str | None:
        job = self._job
        events = ("fail", "spot_interruption") if job.is_spot else ("fail",)
        rule = self._machine.faults.job_event(job.name, elapsed, events)
        if rule is None:
            return None
        self._away = rule.seconds
        if rule.event == "spot_interruption":
            return "Interrupted"
        reason = rule.reason or _WORDS["fail"]
        if reason.startswith(OWN_FAILURE) and job.retries < job.max_retries:
            with job.lock:
                job.retries += 1
            return "Restarting"
        raise JobFailure(reason)

    def _checkpoints(self) -> staging.CheckpointSync:
        return staging.CheckpointSync(self._s3, self._job.checkpoint_uri, self._workspace.checkpoints)


def _algorithm_error(status: int, workspace: container.Workspace, job_log: JobLog) -> str:
    """Returns the reason of a script that failed: its own words, or else its last lines."""
    failure = workspace.output / "failure"
    head = f"AlgorithmError: ExecuteUserScriptError, exit code: {status}\n"
    room = REASON_LENGTH - len(head)
    told = failure.read_text(encoding="utf-8", errors="replace").strip() if failure.is_file() else ""
    return head + (told[-room:] or job_log.tail(room))
