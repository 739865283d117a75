from __future__ import annotations

import ast
from pathlib import Path

from include.local import emulator

TOP = Path(emulator.__file__).parent
# Each may import those before it; what lies at the top may import all, and none of them it.
ROOMS = ("wire", "machine", "moto", "resources", "training", "serving", "endpoints")


def imports_of(path: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    return {name.split(".")[3] for name in names if name.startswith("include.local.emulator.")}


def test_the_rooms_import_each_other_one_way_only() -> None:
    assert {path.parent.name for path in TOP.glob("*/__init__.py")} == set(ROOMS)
    for number, room in enumerate(ROOMS):
        for path in (TOP / room).glob("*.py"):
            assert imports_of(path) <= set(ROOMS[: number + 1]), path
