from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOM = Path(__file__).resolve().parents[2] / "include" / "warehouse"


def imports_of(path: Path) -> set[str]:
    """Modules of the room that a file imports, be it for its types alone."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    return {name.split(".")[2] for name in names if name.startswith("include.warehouse.")}


def test_no_module_of_the_warehouse_room_imports_itself_in_a_circle() -> None:
    graph = {path.stem: imports_of(path) for path in ROOM.glob("*.py")}
    assert "lines" in graph["loading"]
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
