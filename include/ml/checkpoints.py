"""Checkpoints of a training run, from which it goes on exactly as if it had never been stopped.

SageMaker copies the folder to S3 while the job runs and back when a spot instance is replaced. A file is
written under another name and then renamed, so that none is ever half there; should one be damaged after
all, the one before it is used. The digest of everything that shapes the run is part of a file's name: what
belongs to another run is never read, nor overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Epoch = dict[str, float | int | None]

_KEPT = 2  # the newest, and the one to fall back to
_PREFIX = "checkpoint"
_BROKEN = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error)


@dataclass
class Progress:
    """Where training stands; with the variables' values it is the whole state of a run.

    Attributes:
        epoch: Epochs completed.
        step: Steps done of the epoch under way.
        losses: Loss of each of those steps.
        interactions: Interactions in those steps.
        epoch_seconds: Time spent on them.
        seconds: Time spent in all.
        history: The learning curve.
        best: Best validation MRR so far.
        stale: Epochs since then.
        finished: Nothing is left to train.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    interactions: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best: float = -1.0
    stale: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: progress, values of all variables, and the best epoch's weights."""

    progress: Progress
    variables: list[Array]
    best_weights: list[Array]


class Checkpoints:
    """The checkpoints of one run in a folder that may hold those of others."""

    def __init__(self, folder: Path, digest: str, seconds: float, say: Callable[[str], None]) -> None:
        """Names the folder.

        Args:
            folder: Made if it is not there.
            digest: Of everything that shapes the run, see `digest`.
            seconds: Least time between two checkpoints within an epoch.
            say: Called with what an operator should know.
        """
        self._folder = folder
        self._digest = digest
        self._seconds = seconds
        self._say = say
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for another one."""
        return time.monotonic() - self._written >= self._seconds

    def save(self, saved: Saved) -> Path:
        """Writes a checkpoint and removes those before the last one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        own = self._own()
        number = _number(own[-1]) + 1 if own else 1
        path = self._folder / f"{_PREFIX}-{self._digest[:16]}-{number:06d}.npz"
        unfinished = path.with_suffix(".unfinished")
        arrays = {f"variable_{place:04d}": value for place, value in enumerate(saved.variables)}
        arrays |= {f"best_{place:04d}": value for place, value in enumerate(saved.best_weights)}
        about = json.dumps({"digest": self._digest, "progress": asdict(saved.progress)})
        with unfinished.open("wb") as stream:
            np.savez(stream, allow_pickle=False, about=np.array(about), **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(path)
        for old in [*own[: 1 - _KEPT], *self._folder.glob(f"{_PREFIX}-{self._digest[:16]}-*.unfinished")]:
            old.unlink(missing_ok=True)
        self._written = time.monotonic()
        return path

    def latest(self) -> Saved | None:
        """Returns the newest checkpoint of this run that can be read; None where there is none."""
        own = self._own()
        if others := len(list(self._folder.glob(f"{_PREFIX}-*.npz"))) - len(own):
            self._say(
                f"{others} checkpoint(s) under {self._folder} belong to other data, code or "
                "hyper-parameters and are left alone"
            )
        for path in reversed(own):
            try:
                saved = self._read(path)
            except _BROKEN as error:
                self._say(f"{path.name} cannot be used and the one before it is tried: {error}")
                # It must not count as the one to fall back to.
                path.unlink()
                continue
            progress = saved.progress
            self._say(
                f"going on from {path.name}: {progress.epoch} epoch(s) and {progress.step} step(s) done"
            )
            return saved
        return None

    def _own(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_PREFIX}-{self._digest[:16]}-{'[0-9]' * 6}.npz"))

    def _read(self, path: Path) -> Saved:
        with np.load(path, allow_pickle=False) as archive:
            about = json.loads(str(archive["about"]))
            if about["digest"] != self._digest:
                raise ValueError("it is of another run")
            names = sorted(archive.files)  # reading a member checks its CRC
            variables = [archive[name] for name in names if name.startswith("variable_")]
            best = [archive[name] for name in names if name.startswith("best_")]
        return Saved(Progress(**about["progress"]), variables, best)


def digest(**shapes: object) -> str:
    """Returns the sha256 (hex) of what shapes a run, this folder's code included."""
    found = hashlib.sha256(json.dumps(shapes, sort_keys=True, default=str).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(f"{path.name}:".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


class StopSignal:
    """Notes a SIGTERM, which SageMaker sends two minutes before it takes a machine away."""

    def __init__(self) -> None:
        self.received = False
        self._before: Any = None

    def __enter__(self) -> StopSignal:
        """Starts listening; only a main thread may."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the signal to whoever had it before."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True


def _number(path: Path) -> int:
    return int(path.stem.rsplit("-", 1)[1])
