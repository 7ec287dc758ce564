"""The arrows of the house: who may import whom, and which folders do no I/O. See docs/architecture.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

LAYERS: list[list[str]] = [
    ["cli", "commands", "node", "demo", "__main__"],
    ["client_api", "admin_api"],
    ["http_api"],
    ["rooms"],
    ["store", "federation"],
    ["meg", "mesh", "graph_view"],
    ["link"],
    ["wire"],
    ["events"],
    ["identifiers", "matrix_uri", "errors", "config"],
]
"""From the top down: a part imports from its own folder and from the layers below, never from its neighbors."""

TOGETHER = ({"cli", "commands", "node", "demo", "__main__"}, {"identifiers", "matrix_uri", "errors", "config"})
"""Layers whose parts may import each other."""

PURE = ("events", "meg", "wire", "link", "mesh", "federation", "graph_view")
IMPURE_MODULES = {
    "asyncio",
    "socket",
    "sqlite3",
    "aiosqlite",
    "secrets",
    "time",
    "threading",
    "subprocess",
    "os",
    "pathlib",
}
IMPURE_CALLS = re.compile(r"\b(random\.(random|randint|choice|sample|shuffle|randbytes)|datetime\.now|urandom)\(")


def python_files(folder: str) -> Iterator[Path]:
    yield from sorted((ROOT / folder).rglob("*.py"))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def part_of(module: str) -> str | None:
    """`p2pserver.rooms.service` -> `rooms`; None for what is not of the package."""
    names = module.split(".")
    return names[1] if names[0] == "p2pserver" and len(names) > 1 else None


def layer_of(part: str) -> int:
    for number, parts in enumerate(LAYERS):
        if part in parts:
            return number
    raise AssertionError(f"p2pserver/{part} is in no layer of the house")


def forbidden_imports(source: str, part: str) -> list[str]:
    """The imports in a file of `part` that point up or sideways."""
    known = {name for parts in LAYERS for name in parts}
    found = []
    for module in imported_modules(ast.parse(source)):
        target = part_of(module)
        if target is None or target == part or target not in known:
            continue
        if layer_of(target) > layer_of(part):
            continue
        if any({part, target} <= group for group in TOGETHER):
            continue
        found.append(f"{part} imports {module}")
    return found


def test_imports_point_down() -> None:
    found = []
    for file in python_files("p2pserver"):
        part = file.relative_to(ROOT / "p2pserver").parts[0].removesuffix(".py")
        if part != "__init__":
            layer_of(part)
            found += [f"{file.relative_to(ROOT)}: {line}" for line in forbidden_imports(file.read_text(), part)]
    assert found == []


def test_an_import_that_points_up_is_seen() -> None:
    assert forbidden_imports("from p2pserver.rooms.service import Rooms", "meg")
    assert forbidden_imports("import p2pserver.federation.peering", "store")
    assert not forbidden_imports("from p2pserver.events.pdu import Pdu", "meg")


def test_transports_know_nothing_of_matrix() -> None:
    for folder in ("transports", "firmware_bridge"):
        for file in python_files(folder):
            modules = set(imported_modules(ast.parse(file.read_text())))
            assert not {module for module in modules if module.split(".")[0] == "p2pserver"}, file


def impurities(source: str) -> set[str]:
    modules = {module.split(".")[0] for module in imported_modules(ast.parse(source))}
    return modules & IMPURE_MODULES | {match[0] for match in IMPURE_CALLS.finditer(source)}


def test_pure_folders_do_no_io_and_read_no_clock() -> None:
    for part in PURE:
        for file in python_files(f"p2pserver/{part}"):
            assert not impurities(file.read_text()), file


def test_an_impurity_is_seen() -> None:
    assert impurities("import time")
    assert impurities("import random\nx = random.random()")
    assert not impurities("import random\ndef f(rng: random.Random) -> float:\n    return rng.random()")


def test_no_module_is_named_for_nothing() -> None:
    names = {file.stem for folder in ("p2pserver", "transports", "firmware_bridge") for file in python_files(folder)}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}
