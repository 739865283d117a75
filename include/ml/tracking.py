"""Optional copies of parameters and learning curve in MLflow or Comet.

Addresses and keys are the trackers' own environment variables and are never printed here. A tracker that
cannot be set up is an error before training starts; one that fails later is reported once and left alone.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

SERVICES = ("none", "mlflow", "comet")
# Package, the name pip knows it by, and the variable without which it would write where nobody looks.
_NEEDS = {
    "mlflow": ("mlflow", "mlflow-skinny", "MLFLOW_TRACKING_URI"),
    "comet": ("comet_ml", "comet-ml", "COMET_API_KEY"),
}


class TrackingError(Exception):
    """The tracker asked for cannot be used; the message says what to set or install."""


class _Service(Protocol):
    def parameters(self, values: Mapping[str, object]) -> None: ...

    def metrics(self, values: Mapping[str, float], epoch: int | None) -> None: ...

    def end(self, done: bool) -> None: ...


class _Mlflow:
    def __init__(self, mlflow: Any, job: str) -> None:
        self._mlflow = mlflow
        mlflow.start_run(run_name=job or None)

    def parameters(self, values: Mapping[str, object]) -> None:
        self._mlflow.log_params(dict(values))

    def metrics(self, values: Mapping[str, float], epoch: int | None) -> None:
        # MLflow refuses "@" in a name.
        named = {name.replace("@", "_at_"): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=epoch)

    def end(self, done: bool) -> None:
        self._mlflow.end_run(status="FINISHED" if done else "FAILED")


class _Comet:
    def __init__(self, comet: Any, job: str) -> None:
        self._experiment = comet.start()
        if job:
            self._experiment.set_name(job)

    def parameters(self, values: Mapping[str, object]) -> None:
        self._experiment.log_parameters(dict(values))

    def metrics(self, values: Mapping[str, float], epoch: int | None) -> None:
        self._experiment.log_metrics(dict(values), epoch=epoch)

    def end(self, done: bool) -> None:
        self._experiment.log_other("finished", done)
        self._experiment.end()


class Tracker:
    """One run in a tracker, or in none; none of its methods raises."""

    def __init__(self, service: Callable[[], _Service] | None, say: Callable[[str], None]) -> None:
        self._say = say
        self._service: _Service | None = None
        if service:
            self._try(lambda: setattr(self, "_service", service()))

    def parameters(self, values: Mapping[str, object]) -> None:
        """Notes what the run was given."""
        if service := self._service:
            self._try(lambda: service.parameters(values))

    def metrics(self, values: Mapping[str, float | int | None], epoch: int | None = None) -> None:
        """Notes numbers; those that are None are left out."""
        known = {name: float(value) for name, value in values.items() if value is not None}
        if service := self._service:
            self._try(lambda: service.metrics(known, epoch))

    def end(self, done: bool) -> None:
        """Closes the run as finished or as failed."""
        if service := self._service:
            self._try(lambda: service.end(done))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            # Whatever a tracker's client raises, the model matters more. Its text may hold an address with
            # a key in it, so only the kind is told.
            self._service = None
            self._say(f"tracking failed ({type(error).__name__}) and is left out from here on")


def start(name: str, job: str, say: Callable[[str], None]) -> Tracker:
    """Starts a run.

    Args:
        name: One of `SERVICES`.
        job: What the run is called.
        say: Called with what an operator should know.

    Raises:
        TrackingError: The package is not installed, or its variable is not set.
    """
    if name == "none":
        return Tracker(None, say)
    package, distribution, variable = _NEEDS[name]
    try:
        client = importlib.import_module(package)
    except ImportError as error:
        raise TrackingError(
            f"--tracking {name} needs {package}, which this container does not have: add {distribution} to "
            "requirements.txt beside train.py, or leave --tracking out"
        ) from error
    if not os.environ.get(variable):
        raise TrackingError(f"--tracking {name} needs {variable} in the job's environment")
    if name == "mlflow":
        return Tracker(lambda: _Mlflow(client, job), say)
    return Tracker(lambda: _Comet(client, job), say)
