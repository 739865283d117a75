"""`python -m include.local.emulator`: the emulator in the foreground, until TERM or INT."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from botocore.exceptions import ClientError

from include.local.emulator.server import Emulator


def main(arguments: list[str] | None = None) -> int:
    """Runs the emulator and returns the exit status.

    Args:
        arguments: Command line, without the program's name.
    """
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Before anything starts, so that no signal finds children without an owner.
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    emulator = Emulator(
        options.state_dir,
        options.ml_python,
        port=options.port,
        faults=options.faults,
        enforce_iam=options.enforce_iam,
    )
    try:
        emulator.start()
    except OSError as error:
        print(f"cannot listen on port {options.port}: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        if options.aws_template:
            _deploy_template(emulator.url)
        print(f"ready {emulator.url}", flush=True)
        if options.ready_file is not None:
            _write(options.ready_file, {"url": emulator.url, "pid": os.getpid()})
        ended.wait()
    except (ClientError, ValueError) as error:  # the latter is of a setting
        print(f"cannot deploy aws.yaml: {error}", file=sys.stderr)
        return 1
    finally:
        emulator.stop()
        if options.ready_file is not None:
            options.ready_file.unlink(missing_ok=True)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m include.local.emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=5055, help="port on 127.0.0.1; 0 for any free one")
    parser.add_argument("--state-dir", type=Path, required=True, help="folder of jobs and endpoints")
    parser.add_argument("--ml-python", type=Path, required=True, help="interpreter of the ML environment")
    parser.add_argument("--ready-file", type=Path, help="written (JSON: url, pid) once it answers")
    parser.add_argument("--faults", action="store_true", help="have the control route for faults")
    parser.add_argument("--enforce-iam", action="store_true", help="callers may do what their policies allow")
    parser.add_argument(
        "--aws-template", action="store_true", help="deploy include/cloud/aws.yaml with the PMS_ settings"
    )
    options = parser.parse_args(arguments)
    if not os.access(options.ml_python, os.X_OK):
        parser.error(f"--ml-python {options.ml_python} is not a program")
    return options


def _deploy_template(url: str) -> None:
    # Imported here: an emulator that is not asked for it knows nothing of the pipeline.
    from include.local import aws_template
    from include.settings import get_settings

    aws_template.deploy(url, aws_template.parameters(get_settings()))


def _write(path: Path, content: dict[str, str | int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(content), encoding="utf-8")
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
