"""Serves fakesnow over https until standard input closes: `python serve.py CERTIFICATE KEY`.

Runs in fakesnow's own environment. The first line of standard output is the port.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import threading

import uvicorn

server = importlib.import_module("fakesnow.server")  # the package has a function of that name


def _end_with_the_caller() -> None:
    # However the tests end, SIGKILL included, the kernel closes their end of the pipe.
    while os.read(0, 4096):
        pass
    os._exit(0)


class _Refusal(server.ServerError):
    """Answers what fakesnow cannot run as Snowflake answers a wrong statement: drivers retry a status 500."""

    def __init__(self, status_code: int, code: str, message: str) -> None:
        super().__init__(200 if status_code == 500 else status_code, code, message)


def main() -> None:
    certificate, key = sys.argv[1:]
    server.ServerError = _Refusal
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    config = uvicorn.Config(server.app, ssl_certfile=certificate, ssl_keyfile=key, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
