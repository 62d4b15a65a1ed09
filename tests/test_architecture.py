"""The house's borders, checked mechanically."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "coop_rl"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
MAX_FILE, MAX_FUNCTION = 400, 60

DOORS = {
    "ray": ("distributed/",),
    "vllm": ("rollout/vllm_engine.py", "weights/"),
    "deepspeed": ("learner/deepspeed_engine.py",),
}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "tracing": set(),
    "config": {"errors"},
    "types": {"errors"},
    "algorithm": {"config", "tracing", "types"},
    "models": {"errors"},
    "rewards": {"config", "errors", "types"},
    "weights": {"errors", "types"},
    "data": {"config", "errors", "files", "rewards", "types"},
    "rollout": {"config", "errors", "types", "weights"},
    "learner": {
        "algorithm", "config", "data", "errors", "files", "models", "tracing", "types", "weights",
    },
    "evaluation": {"config", "data", "errors", "files", "rollout", "types"},
    "observability": {
        "algorithm", "config", "data", "errors", "evaluation", "files", "rollout", "tracing",
        "types",
    },
    "planning": {"config", "data", "errors", "learner", "rollout"},
    "distributed": {
        "config", "errors", "evaluation", "learner", "observability", "rewards", "rollout",
        "tracing", "types", "weights",
    },
    "diagnosis": {
        "config", "distributed", "errors", "observability", "rollout", "types", "weights",
    },
    "driver": {
        "algorithm", "config", "data", "distributed", "errors", "evaluation", "files",
        "observability", "rewards", "rollout", "tracing", "types", "weights",
    },
    "commands": {
        "algorithm", "config", "data", "diagnosis", "distributed", "driver", "errors",
        "evaluation", "files", "learner", "observability", "planning", "rewards", "tracing",
        "types",
    },
    "demo": set(),
    "cli": {"commands", "config", "data", "errors"},
    "__main__": {"cli"},
}  # fmt: skip
"""What each folder (or file of the top folder) may import of ours, type-only imports included: from
the ground floor up, so that nothing imports what lies above it."""
FORBIDDEN = {
    "algorithm/": {"ray", "vllm", "deepspeed", "transformers"},
    "config/": {"torch", "ray", "vllm", "deepspeed", "transformers"},
    "rewards/": {"ray", "vllm", "deepspeed", "transformers"},
}


def place(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def own_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Every module of ours that a file imports, also inside functions and for types alone."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if is_own(alias.name))
        elif isinstance(node, ast.ImportFrom) and is_own(node.module or ""):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node.lineno, full if full in MODULES else str(node.module)


def is_own(module: str) -> bool:
    return module.split(".")[0] == "coop_rl"


def module_of(path: Path) -> str:
    """The dotted name a file is imported by."""
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def floor(module: str) -> str:
    """The folder of a module, or its own name in the top folder."""
    return f"{module}.".split(".")[1]


MODULES = {module_of(path) for path in SOURCES}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported top-level package, also inside functions; not under `if TYPE_CHECKING`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.split(".")[0]


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 40


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=str)
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE, f"{path} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{path}:{node.lineno} {node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_heavy_imports_stay_behind_their_doors(path: Path) -> None:
    for line, package in imports(TREES[path]):
        if package in DOORS:
            assert place(path).startswith(DOORS[package]), f"{place(path)}:{line} imports {package}"
        for folder, banned in FORBIDDEN.items():
            if place(path).startswith(folder):
                assert package not in banned, f"{place(path)}:{line} imports {package}"


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_folders_import_what_lies_below_them(path: Path) -> None:
    here = floor(module_of(path))
    for line, module in own_modules(path):
        there = floor(module)
        if there and there != here:
            assert there in MAY_IMPORT[here], f"{place(path)}:{line}: {here} imports {there}"


def test_the_table_has_no_cycle_and_no_row_too_many() -> None:
    assert {floor(module) for module in MODULES} - {""} == set(MAY_IMPORT)
    order = list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())  # raises on a cycle
    assert len(order) == len(MAY_IMPORT)
    used = {
        (floor(module_of(path)), floor(module))
        for path in SOURCES
        for _, module in own_modules(path)
    }
    unused = {(a, b) for a, allowed in MAY_IMPORT.items() for b in allowed} - used
    assert not unused, f"nothing needs {sorted(unused)}"


def test_no_two_files_import_each_other() -> None:
    graph = {
        module_of(path): {module for _, module in own_modules(path) if module != module_of(path)}
        for path in SOURCES
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError with the files


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_dangerous_or_noisy_calls_are_absent(path: Path) -> None:
    for node in ast.walk(TREES[path]):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        where = f"{place(path)}:{node.lineno} calls {name}"
        assert name not in ("print", "eval", "exec", "yaml.load", "pickle.load", "pickle.loads"), (
            where
        )
        if name == "getattr":
            assert not isinstance(node.args[1], ast.Constant), where
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("trust_remote_code", "False") == "False", where
        if name == "torch.load":
            assert keywords.get("weights_only") == "True", where


@pytest.mark.parametrize("path", SOURCES, ids=place)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(TREES[path])


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("coop_rl.config", ["torch", "ray", "vllm", "deepspeed", "transformers"]),
        ("coop_rl.cli", ["torch", "ray", "vllm", "deepspeed", "transformers"]),
        ("coop_rl.algorithm.train", ["ray", "vllm", "deepspeed", "transformers"]),
        ("coop_rl.rewards.exact", ["torch", "ray", "vllm", "deepspeed", "transformers"]),
    ],
)
def test_importing_stays_light(module: str, banned: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {banned} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_loop_reads_like_the_paper() -> None:
    loop = next(
        n for n in TREES[PACKAGE / "algorithm/train.py"].body if isinstance(n, ast.FunctionDef)
    )
    assert loop.name == "train"
    assert (loop.end_lineno or 0) - loop.lineno < 40


def test_links_in_the_docs_exist() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
