"""The walls between the rooms (docs/architecture.md): who may import what, and that importing does nothing.

Kept on the syntax trees, so an import inside a function or under TYPE_CHECKING counts too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([ROOT / "app.py", *(ROOT / "playground").rglob("*.py")])
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES
]  # fmt: skip


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def imports(path: Path, *, at_load: bool = False) -> set[str]:
    """Dotted names of all that a file imports; "from a import b" gives a.b where that is a module of ours, else a.

    at_load: without what its functions import when they are called.
    """
    modules = set()
    for node in tree(path).body if at_load else _statements(tree(path).body):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import, which this test cannot follow"
            joined = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {name if name in MODULES else str(node.module) for name in joined}
    return modules


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All statements, those of functions and classes too: what ast.walk gives without the expressions."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, part, ()))


def inside(name: str, *rooms: str) -> bool:
    """A room that ends in a dot is all that is below it; any other is one module."""
    return any(name.startswith(room) if room.endswith(".") else name == room for room in rooms)


def test_files_when_looked_for_then_they_are_found() -> None:
    assert {"app", "playground.engine.worker", "playground.comparing.compare", "playground.web.page"} <= set(MODULES)


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("gradio", ["playground/web/"]),
        ("llama_cpp", ["playground/engine/"]),
        ("pynvml", ["playground/pool/sensors.py"]),
        (
            "huggingface_hub",
            [f"playground/models/hub/{name}.py" for name in ("address", "client", "refusals", "transfer")],
        ),
        ("pyarrow", ["playground/models/hub/datasets.py"]),
        ("ray", ["playground/cluster/"]),
        ("torch", ["playground/original/"]),
        ("transformers", ["playground/original/"]),
        ("diskcache", ["playground/support/byte_cache.py"]),
        ("prometheus_client", ["playground/web/prometheus.py", "playground/web/health.py"]),
        ("training", ["training/"]),  # it makes the embedded pair; the app only has its files
    ],
)
def test_library_when_imported_then_only_in_its_room(library: str, rooms: list[str]) -> None:
    users = [name_of(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))]
    assert [user for user in users if not user.startswith(tuple(rooms))] == []


def test_unpickling_when_looked_for_then_nowhere() -> None:
    risky = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    assert [name_of(path) for path in FILES if risky & {name.split(".")[0] for name in imports(path)}] == []


VALUES = ("playground.values.", "playground.errors")
PROTOCOL = "playground.engine.protocol"
SUPPORT = "playground.support."

# Data flows upwards through these rooms: each may use those above its own row, never one below.
STACK: list[tuple[str, tuple[str, ...]]] = [
    ("playground.models", (SUPPORT, *VALUES)),
    ("playground.pool", (PROTOCOL, "playground", SUPPORT, *VALUES)),
    ("playground.endpoints", ("playground.pool.turn_order", "playground.pool.used_time", *VALUES)),
    ("playground.comparing", ("playground.endpoints.", "playground.pool.", PROTOCOL, SUPPORT, *VALUES)),
    (
        "playground.measuring",
        (
            "playground.comparing.",
            "playground.endpoints.",
            "playground.pool.",
            PROTOCOL,
            "playground",
            SUPPORT,
            *VALUES,
        ),
    ),
    (
        "playground.quantizing",
        ("playground.measuring.", "playground.comparing.", "playground.pool.", PROTOCOL, SUPPORT, *VALUES),
    ),
    (
        "playground.notebooks",
        (
            "playground.quantizing.",
            "playground.measuring.",
            "playground.comparing.",
            "playground.pool.",
            SUPPORT,
            *VALUES,
        ),
    ),
    (
        "playground.rendering",
        (
            "playground.notebooks.",
            "playground.quantizing.",
            "playground.measuring.",
            "playground.comparing.",
            "playground.models.presets",
            *VALUES,
        ),
    ),
]
BELOW = tuple(f"{room}." for room, _ in STACK)

# The first row that a module's name begins with is its row.
ALLOWED: list[tuple[str, tuple[str, ...]]] = [
    (
        "app",
        ("playground.errors", "playground.settings", "playground.web.server"),
    ),
    ("playground.__main__", ("playground.cli.",)),
    ("playground.cli.serve", ("playground.settings", "playground.web.server")),
    ("playground.cli.agent", ("playground.cluster", "playground.errors")),
    (
        "playground.cli",
        (
            "playground.cli.",
            *BELOW,
            "playground.study.",
            PROTOCOL,
            "playground.wiring",
            "playground.settings",
            "playground.support.atomic",
            *VALUES,
        ),
    ),
    ("playground.study", ("playground.study.", *BELOW, "playground.wiring", SUPPORT, *VALUES)),
    ("playground.web", ("playground.web.", *BELOW, "playground.wiring", "playground.settings", SUPPORT, *VALUES)),
    (
        "playground.cluster",
        (
            "playground.cluster.",
            "playground.pool.",
            "playground.models.",
            PROTOCOL,
            "playground",
            "playground.settings",
            SUPPORT,
            *VALUES,
        ),
    ),
    ("playground.wiring", (*BELOW, "playground.cluster.cluster", "playground.settings", SUPPORT, *VALUES)),
    ("playground.settings", ("playground.errors",)),
    ("playground.values", ("playground.values.",)),
    ("playground.errors", ()),
    ("playground.support", ("playground.support.", "playground.errors")),
    (PROTOCOL, ("playground.values.",)),
    ("playground.original", ("playground.original.",)),
    ("playground.engine", ("playground.engine.", "playground.support.atomic", "playground.support.cgroup", *VALUES)),
    *((room, (f"{room}.", *above)) for room, above in STACK),
    ("playground", ()),
]


def test_modules_when_they_import_then_only_what_lies_below_them() -> None:
    above = {}
    for path, module in zip(FILES, MODULES, strict=True):
        allowed = next(rooms for prefix, rooms in ALLOWED if module == prefix or module.startswith(f"{prefix}."))
        ours = {name for name in imports(path) if name.split(".")[0] in ("playground", "app", "tests", "bench")}
        above[module] = sorted(name for name in ours if not inside(name, *allowed))
    assert {module: names for module, names in above.items() if names} == {}


def test_modules_when_drawn_as_a_graph_then_it_has_no_circle() -> None:
    graph = {module: imports(path) & set(MODULES) for path, module in zip(FILES, MODULES, strict=True)}
    while leaves := {module for module, below in graph.items() if not below & set(graph)}:
        for module in leaves:
            del graph[module]
    assert graph == {}


@pytest.mark.parametrize("room", ["tests", "testkit", "bench", "docs", "training"])
def test_tests_when_something_is_imported_from_them_then_nobody_did(room: str) -> None:
    """What two of them share lies in testkit/. On the text, since some tests hand code to a child."""
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    pattern = re.compile(r"^\s*(?:from|import) tests\b", re.MULTILINE)
    assert [name_of(path) for path in files if pattern.search(path.read_text())] == []


@pytest.mark.thorough
def test_unit_tests_when_imported_then_without_gradio() -> None:
    """`make quick` imports what these import; Gradio takes seconds."""
    files = dict(zip(MODULES, FILES, strict=True))
    reached: dict[str, str] = {}  # each module, by the one that imports it
    left = [(name, name_of(path)) for path in (ROOT / "tests/unit").glob("*.py") for name in imports(path)]
    while left:
        name, by = left.pop()
        if name not in reached:
            reached[name] = by
            left += [(below, name) for below in (imports(files[name], at_load=True) if name in files else ())]
    assert "playground.notebooks.library" in reached
    assert {name: by for name, by in reached.items() if name.split(".")[0] == "gradio"} == {}


def test_public_classes_when_listed_then_each_name_stands_once() -> None:
    """One word, one thing: a reader who greps a name finds one class."""
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in tree(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(path))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


_ENVIRONMENT = re.compile(r"\b(environb?|getenvb?|putenv|unsetenv)\b")


def _environment_uses(path: Path) -> list[str]:
    """Source of every expression that touches the environment, the call around it included."""
    if not _ENVIRONMENT.search(path.read_text()):
        return []
    parents = {child: node for node in ast.walk(tree(path)) for child in ast.iter_child_nodes(node)}
    uses = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            uses += [ast.unparse(node)] if any(_ENVIRONMENT.fullmatch(alias.name) for alias in node.names) else []
        if isinstance(node, ast.Attribute) and _ENVIRONMENT.fullmatch(node.attr):
            outer: ast.AST = node
            while isinstance(parents.get(outer), ast.Attribute | ast.Call) and not isinstance(outer, ast.Call):
                outer = parents[outer]
            uses.append(ast.unparse(outer))
    return uses


# The package sets two defaults for libraries, and the server an option of uvicorn and one of Gradio; a worker's
# process gets what its parent has without the secrets, and two things more.
ENVIRONMENT = {
    "playground/__init__.py": [
        "os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')",
        "os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')",
    ],
    "playground/web/server.py": ["os.environ", "os.environ"],
    "playground/cluster/__init__.py": [
        "os.environ.setdefault('RAY_AUTH_MODE', 'token')",
        "os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')",
    ],
    "playground/pool/process.py": ["os.environ.items()", "os.environ.get('PYTHONPATH')"],
}


def test_environment_when_read_then_in_settings_only() -> None:
    uses = {name_of(path): _environment_uses(path) for path in FILES}
    assert uses.pop("playground/settings.py")
    assert {name: read for name, read in uses.items() if read} == ENVIRONMENT


# --- nothing happens at import ----------------------------------------------------------------------------
