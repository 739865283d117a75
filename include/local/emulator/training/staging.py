"""What a training job brings from S3 onto its instance, and takes back to S3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from include.local.emulator.machine import storage
from include.local.emulator.machine.archives import HostileArchiveError, extract, pack
from include.local.emulator.training import container
from include.local.emulator.training.job_state import TrainingJob
from include.local.emulator.wire.errors import JobFailure


def fetch(s3: Any, job: TrainingJob, workspace: container.Workspace) -> None:
    """Fills a workspace: configuration, channels, checkpoints, code.

    Raises:
        JobFailure: Something is missing, or would land outside the workspace.
    """
    container.write_config(workspace, job.request)
    for channel in job.request.get("InputDataConfig", []):
        uri = channel["DataSource"]["S3DataSource"]["S3Uri"]
        try:
            storage.download_prefix(s3, uri, workspace.channel(channel["ChannelName"]))
        except (storage.MissingObjectError, ValueError) as error:
            raise JobFailure(f"ClientError: Data download failed:{error}") from error
    if (kept := job.checkpoint_uri) and storage.has_objects(s3, kept):
        storage.download_prefix(s3, kept, workspace.checkpoints)
    _fetch_code(s3, container.decode_hyper_parameters(job.request["HyperParameters"]), workspace)


def _fetch_code(s3: Any, hyper_parameters: dict[str, Any], workspace: container.Workspace) -> None:
    uri = hyper_parameters[container.SUBMIT_DIRECTORY]
    archive = workspace.root / "sourcedir.tar.gz"
    try:
        storage.download(s3, uri, archive)
        extract(archive, workspace.code)
    except storage.MissingObjectError as error:
        raise JobFailure(f"AlgorithmError: there is no source archive at {uri}") from error
    except HostileArchiveError as error:
        raise JobFailure(f"AlgorithmError: the source archive {uri} is refused: {error}") from error
    program = (workspace.code / hyper_parameters[container.PROGRAM]).resolve()
    if not (program.is_file() and program.is_relative_to(workspace.code.resolve())):
        raise JobFailure(f"AlgorithmError: {program.name} is not in the source archive {uri}")


def store(s3: Any, job: TrainingJob, workspace: container.Workspace) -> None:
    """Uploads what the script left; of a stopped job, as on AWS, what it has left so far."""
    packed = (("model.tar.gz", workspace.model), ("output.tar.gz", workspace.output / "data"))
    for name, folder in packed:
        if name == "model.tar.gz" and job.status == "InProgress" or any(folder.iterdir()):
            archive = workspace.root / name
            pack(folder, archive)
            storage.upload(s3, archive, storage.join_uri(job.output_uri, name))
            archive.unlink()


class CheckpointSync:
    """Copies new and changed checkpoints to S3, where nothing is deleted, as SageMaker does.

    Args:
        s3: Client.
        uri: Where they are kept; empty if nowhere.
        folder: Where the script writes them.
    """

    def __init__(self, s3: Any, uri: str, folder: Path) -> None:
        self._s3 = s3
        self._uri = uri
        self._folder = folder
        self._copied: dict[Path, tuple[int, int]] = self._states()

    def copy(self) -> None:
        """Copies what has changed since the last time."""
        for path, state in sorted(self._states().items()):
            if self._uri and self._copied.get(path) != state:
                name = path.relative_to(self._folder).as_posix()
                try:
                    storage.upload(self._s3, path, storage.join_uri(self._uri, name))
                except FileNotFoundError:  # a draft, which has its last name by now
                    continue
                self._copied[path] = state

    def copy_all(self) -> None:
        """Copies every one, whatever was copied before."""
        self._copied = {}
        self.copy()

    def _states(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in self._folder.rglob("*"):
            try:
                about = path.lstat()
            except FileNotFoundError:
                continue
            if path.is_file():
                found[path] = (about.st_mtime_ns, about.st_size)
        return found
