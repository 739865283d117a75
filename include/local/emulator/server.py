"""The emulator as one HTTP server on loopback, and what is behind it: how it starts and ends."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from moto.moto_api._internal.models import moto_api_backend
from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer, make_server

from include.local.emulator.api import SageMaker
from include.local.emulator.application import HOST, Application
from include.local.emulator.endpoints.operations import Endpoints
from include.local.emulator.machine.persistence import FolderLock
from include.local.emulator.moto.cloudformation import teach_moto
from include.local.emulator.moto.kept import KeptMoto
from include.local.emulator.resources.models import Models
from include.local.emulator.resources.registry import Registry
from include.local.emulator.training.jobs import TrainingJobs
from include.local.emulator.training.tuning import TuningJobs
from include.local.emulator.wire.faults import Faults

MODEL_SERVER = Path(__file__).resolve().parent.parent / "model_server.py"
_only_one = threading.Lock()
log = logging.getLogger(__name__)


class Emulator:
    """AWS on loopback. A context manager; moto keeps its state per process, so there is one at a time.

    Args:
        state_dir: Where jobs and endpoints have their folders, and where everything is found again that an
            emulator before this one had when it ended, however it ended.
        ml_python: Interpreter of training scripts and model servers.
        port: Port, 0 for any free one.
        server_command: Model server without its `--model-dir` and `--port`; by default ours, run by
            `ml_python`.
        startup_seconds: Time that a model server has for its first good ping.
        stop_grace_seconds: Time between TERM and KILL.
        faults: Whether there is a control route for faults.
        enforce_iam: Whether callers may do only what their policies in IAM allow.

    Attributes:
        faults: What goes wrong on demand.
    """

    def __init__(
        self,
        state_dir: Path,
        ml_python: Path | str,
        *,
        port: int = 0,
        server_command: Sequence[str] | None = None,
        startup_seconds: float = 120.0,
        stop_grace_seconds: float = 5.0,
        faults: bool = False,
        enforce_iam: bool = False,
    ) -> None:
        # Not resolved: a virtual environment's interpreter is a link, and finds its home by its own path.
        self._ml_python = str(Path(ml_python).absolute())
        self._state_dir = state_dir.absolute()
        self._wanted_port = port
        self._server_command = list(server_command or [self._ml_python, str(MODEL_SERVER)])
        self._startup_seconds = startup_seconds
        self._grace = stop_grace_seconds
        self._control_route = faults
        self._enforce_iam = enforce_iam
        self.faults = Faults()
        self._folder = FolderLock(self._state_dir)
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None
        self._sagemaker: SageMaker | None = None

    @property
    def port(self) -> int:
        """The port it listens on.

        Raises:
            RuntimeError: It is not started.
        """
        if self._server is None:
            raise RuntimeError("the emulator is not started")
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What boto3 takes as `endpoint_url`."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> Emulator:
        """Listens and answers, on threads of its own.

        Raises:
            OSError: The port is taken.
            RuntimeError: Another emulator runs in this process, or on the folder.
        """
        if not _only_one.acquire(blocking=False):
            raise RuntimeError("moto keeps its state per process: stop the other emulator first")
        try:
            self._folder.take()
            moto_api_backend.reset()
            teach_moto()
            self._serve()
        except BaseException:
            self._end()
            raise
        return self

    def stop(self) -> None:
        """Ends every training process and model server, then the HTTP server. Twice does no harm."""
        if self._sagemaker is not None:
            self._end()

    def _end(self) -> None:
        server, sagemaker, thread = self._server, self._sagemaker, self._thread
        self._server = self._sagemaker = self._thread = None
        with contextlib.ExitStack() as stack:  # from the last to the first, whatever goes wrong
            stack.callback(_only_one.release)
            stack.callback(self._folder.release)
            # The server after those who work: jobs that end still write their last lines to its CloudWatch.
            if server is not None:
                stack.callback(server.server_close)
            if server is not None and thread is not None:
                stack.callback(thread.join, 10)
                stack.callback(server.shutdown)
            if sagemaker is not None:
                stack.callback(sagemaker.endpoints.close)
                stack.callback(sagemaker.jobs.close)
                stack.callback(sagemaker.tunings.close)

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self) -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, self._wanted_port))
            listener.listen(128)
            url = f"http://{HOST}:{listener.getsockname()[1]}"
            moto = KeptMoto(self._state_dir)
            moto.load()
            state = self._state_dir / "sagemaker"
            models = Models(url, state)
            jobs = TrainingJobs(
                url, self._state_dir / "jobs", self._ml_python, self._grace, self.faults, state
            )
            endpoints = Endpoints(
                url,
                self._state_dir / "endpoints",
                models,
                self._server_command,
                self._startup_seconds,
                self._grace,
                state,
                self.faults,
            )
            self._sagemaker = SageMaker(jobs, TuningJobs(jobs, state), models, endpoints, Registry(state))
            self._server = make_server(
                HOST,
                listener.getsockname()[1],
                Application(
                    self._sagemaker,
                    moto,
                    self.faults,
                    control_route=self._control_route,
                    enforce_iam=self._enforce_iam,
                ),
                threaded=True,
                request_handler=_QuietHandler,
                fd=listener.fileno(),
            )
        self._thread = threading.Thread(target=self._server.serve_forever, name="emulator", daemon=True)
        self._thread.start()
        jobs.resume()
        self._sagemaker.tunings.resume()
        endpoints.resume()


class _QuietHandler(MotoRequestHandler):
    """Without a line for each request: a training job polled for an hour would fill the terminal."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        log.debug('"%s" %s %s', self.requestline, code, size)
