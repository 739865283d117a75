"""Serves fakesnow over https until standard input closes: `python serve.py CERTIFICATE KEY`.

Runs in fakesnow's own environment. The first line of standard output is the port. What the pipeline sends
and fakesnow 0.12.1 does not know is added here, so that the pipeline says what Snowflake wants to hear:

* LIST and REMOVE of a folder of a stage,
* MD5_NUMBER_LOWER64,
* that a CREATE ends the open transaction,
* that an array's element cast to a text has no quotes,
* a computed index of an array.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import socket
import sys
import threading
from typing import Any

import uvicorn
from fakesnow import transforms
from fakesnow.cursor import FakeSnowflakeCursor
from fakesnow.transforms import stage

server = importlib.import_module("fakesnow.server")  # the package has a function of that name

REMOVE = re.compile(r"remove @([\w.]+)/(\S*)", re.IGNORECASE)
CREATE = re.compile(r"\s*create\b", re.IGNORECASE)
ELEMENT = re.compile(r"\b([\w.]+\[[\w.]+\])::varchar\b", re.IGNORECASE)
LAST = re.compile(r"\b([\w.]+)\[(array_size\(\1\) - 1)\]", re.IGNORECASE)


class Refusal(server.ServerError):
    """Answers what fakesnow cannot run as Snowflake answers a wrong statement: drivers retry a status 500."""

    def __init__(self, status_code: int, code: str, message: str) -> None:
        super().__init__(200 if status_code == 500 else status_code, code, f"{sys.exception()!r}: {message}")


def add_folders_to_list() -> None:
    """Lets LIST take a path behind the name of the stage."""
    list_stage, complete = transforms.list_stage, stage.complete_stage_lookup

    def list_folder(expression: Any, *arguments: Any) -> Any:
        if expression.key != "liststage":
            return list_stage(expression, *arguments)
        name, _, path = expression.this.name.partition("/")
        expression.this.set("this", name)
        listed = list_stage(expression, *arguments)
        listed.args["list_stage_path"] = path
        return listed

    def complete_folder(expression: Any, result: Any) -> str:
        sql: str = complete(expression, result)
        path = expression.args.get("list_stage_path")
        return f"select * from ({sql}) where contains(name, '/{path}')" if path else sql

    transforms.list_stage, stage.complete_stage_lookup = list_folder, complete_folder


def add_statements() -> None:
    """Lets the cursor run REMOVE, commit at a CREATE, and know the function by DuckDB's name."""
    execute = FakeSnowflakeCursor.execute

    def stand_in(self: Any, command: str, *arguments: Any, **options: Any) -> Any:
        if removed := REMOVE.match(command):
            name = ".".join(stage.parts_from_var(removed[1], self._conn.database, self._conn.schema))
            shutil.rmtree(stage.internal_dir(name, removed[2]), ignore_errors=True)
            command = "select 'removed' as result"
        if CREATE.match(command):
            execute(self, "commit")
        command = LAST.sub(r"get(\1, (\2)::bigint)", command)
        command = ELEMENT.sub(r"trim(\1::varchar, '\"')", command)
        # Halved: fakesnow keeps a NUMBER(38, 0) in 64 bits, one of them for the sign.
        command = command.replace("md5_number_lower64(", "0.5 * md5_number_lower(")
        return execute(self, command, *arguments, **options)

    FakeSnowflakeCursor.execute = stand_in


def end_with_the_caller() -> None:
    """Ends the process once the tests have: however they end, the kernel closes their end of the pipe."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def main() -> None:
    """Serves."""
    certificate, key = sys.argv[1:]
    server.ServerError = Refusal
    add_folders_to_list()
    add_statements()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=end_with_the_caller, daemon=True).start()
    config = uvicorn.Config(server.app, ssl_certfile=certificate, ssl_keyfile=key, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
