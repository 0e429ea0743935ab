"""Lower layers never import upper ones: read from the source, function-level imports included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nbdream"

# The layer of each room. A room that is not here fails the test: decide where it belongs.
LAYERS = {
    0: {
        "errors",
        "files",
        "fingerprint",
        "code",
        "source",
        "difference",
        "foreign",
        "portable",
        "quickjson",
        "machine",
        "optional",
        "context",
        "secrets",
        "escape",
        "frontmatter",
        "templates",
        "arrays",
        "columns",
    },
    1: {
        "annotations",
        "browsing",
        "datasets",
        "objects",
        "cache",
        "replies",
        "lineage",
        "ledger",
        "prices",
        "pruning",
        "cards",
        "comparison",
        "workflows",
    },
    2: {"engine", "llms", "embedders", "retrievers", "task_models", "steps", "trainers", "workers"},
    3: {"session", "hub"},
    4: {"magics", "widgets", "cli", "demo", "__main__"},
}
LAYER = {room: layer for layer, rooms in LAYERS.items() for room in rooms}
PUBLIC = {"__version__"}  # what the package itself holds, and anybody may read


def rooms(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The rooms of nbdream that ``tree`` imports, with the line; imports for type checkers only are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from rooms(ast.Module(body=node.orelse, type_ignores=[]))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "nbdream":
                    yield [*alias.name.split("."), "nbdream"][1], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "nbdream":
            inside = node.module.split(".")[1:]
            for room in inside[:1] or [alias.name for alias in node.names if alias.name not in PUBLIC]:
                yield room, node.lineno
        else:
            yield from rooms(node)


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def faults(path: Path, source: str) -> list[str]:
    """What the imports in ``source`` do against the order of the layers."""
    own = LAYER[room_of(path)]
    found = []
    for room, line in rooms(ast.parse(source)):
        if room == "nbdream":
            found.append(f"{path.name}:{line} imports the whole package: name the room")
        elif room not in LAYER:
            found.append(f"{path.name}:{line} imports {room!r}, which has no layer")
        elif LAYER[room] > own:
            found.append(f"{path.name}:{line} (layer {own}) imports {room} (layer {LAYER[room]})")
    return found


def test_every_room_has_a_layer() -> None:
    assert {room_of(path) for path in modules()} - set(LAYER) == set()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert faults(path, path.read_text()) == []


def test_records_know_nothing_of_the_session() -> None:
    """The optional and error rooms hold nothing of ours but errors."""
    for name in ("errors", "optional"):
        assert {room for room, _ in rooms(ast.parse((PACKAGE / f"{name}.py").read_text()))} <= {"errors"}


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import nbdream.session", True),
        ("from nbdream.session import Session", True),
        ("from nbdream import session", True),
        ("from nbdream import Session", True),
        ("import nbdream", True),
        ("def f():\n    from nbdream.magics import x", True),
        ("class A:\n    def f(self):\n        if 1:\n            import nbdream.cli as c", True),
        ("from nbdream.nowhere import x", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from nbdream.session import Session", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import nbdream.session", True),
        ("from nbdream.errors import NbDreamError", False),
        ("from nbdream import __version__", False),
    ],
)
def test_the_check_sees(source: str, wrong: bool) -> None:
    assert bool(faults(PACKAGE / "engine.py", source)) is wrong
