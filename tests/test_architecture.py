"""The house's borders, checked mechanically."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
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
    "": {"api", "version"},
    "version": set(),
    "errors": set(),
    "files": set(),
    "redaction": set(),
    "metric_names": set(),
    "tracing": set(),
    "config": {"errors", "metric_names", "redaction"},
    "types": {"errors"},
    "algorithm": {"config", "metric_names", "tracing", "types"},
    "models": {"errors", "types"},
    "rewards": {"config", "errors", "types"},
    "weights": {"errors", "types"},
    "data": {"config", "errors", "files", "rewards", "types"},
    "rollout": {"config", "errors", "types", "weights"},
    "learner": {
        "algorithm", "config", "data", "errors", "files", "models", "tracing", "types", "weights",
    },
    "evaluation": {"config", "data", "errors", "files", "metric_names", "rollout", "types"},
    "observability": {
        "algorithm", "config", "data", "errors", "evaluation", "files", "metric_names", "planning",
        "redaction", "rollout", "tracing", "types",
    },
    "planning": {"config", "data", "errors", "learner", "models", "rollout", "types", "weights"},
    "distributed": {
        "config", "errors", "evaluation", "learner", "metric_names", "observability", "rewards",
        "rollout", "tracing", "types", "weights",
    },
    "diagnosis": {
        "config", "distributed", "errors", "observability", "planning", "rollout", "types",
        "weights",
    },
    "driver": {
        "algorithm", "config", "data", "distributed", "errors", "evaluation", "files",
        "metric_names", "observability", "rewards", "rollout", "tracing", "types", "weights",
    },
    "report": {
        "config", "errors", "evaluation", "files", "metric_names", "observability", "version",
    },
    "study": {
        "config", "errors", "evaluation", "files", "metric_names", "observability", "report",
    },
    "commands": {
        "algorithm", "config", "data", "diagnosis", "distributed", "driver", "errors",
        "evaluation", "files", "learner", "models", "observability", "planning", "report",
        "rewards", "study", "tracing", "types",
    },
    "api": {"commands", "config", "errors", "evaluation", "metric_names", "observability"},
    "cli_runs": {"commands"},
    "cli": {"cli_runs", "commands", "config", "data", "errors", "redaction", "version"},
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


def none_of(offenders: Iterable[str]) -> None:
    """Fail with all of them, not with the first."""
    assert not (found := list(offenders)), "\n".join(["", *found])


def test_files_and_functions_are_small() -> None:
    def too_long() -> Iterator[str]:
        for path in [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]:
            text = path.read_text()
            where = path.relative_to(ROOT)
            if (length := text.count("\n")) > MAX_FILE:
                yield f"{where} has {length} lines"
            for node in ast.walk(TREES.get(path) or ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or node.lineno) - node.lineno + 1
                    if length > MAX_FUNCTION:
                        yield f"{where}:{node.lineno} {node.name} has {length} lines"

    none_of(too_long())


def test_heavy_imports_stay_behind_their_doors() -> None:
    none_of(
        f"{place(path)}:{line} imports {package}"
        for path in SOURCES
        for line, package in imports(TREES[path])
        if not place(path).startswith(DOORS.get(package, ""))
        or any(place(path).startswith(f) and package in banned for f, banned in FORBIDDEN.items())
    )


def test_folders_import_what_lies_below_them() -> None:
    none_of(
        f"{place(path)}:{line}: {here} imports {there}"
        for path in SOURCES
        for here in [floor(module_of(path))]
        for line, module in own_modules(path)
        if (there := floor(module)) not in ("", here, *MAY_IMPORT[here])
    )


def test_the_table_has_no_cycle_and_no_row_too_many() -> None:
    assert {floor(module) for module in MODULES} == set(MAY_IMPORT)
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


def is_dangerous_or_noisy(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    keywords = {k.arg: ast.unparse(k.value) for k in call.keywords}
    return (
        name in ("print", "eval", "exec", "yaml.load", "pickle.load", "pickle.loads")
        or (name == "getattr" and isinstance(call.args[1], ast.Constant))
        or (name == "torch.load" and keywords.get("weights_only") != "True")
        or keywords.get("trust_remote_code", "False") != "False"
    )


def test_dangerous_or_noisy_calls_are_absent() -> None:
    none_of(
        f"{place(path)}:{node.lineno} calls {ast.unparse(node)}"
        for path in SOURCES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call) and is_dangerous_or_noisy(node)
    )


def is_loader(call: ast.Call) -> bool:
    """Whether a call finds the class of what it loads by what the folder says."""
    owner = ast.unparse(call.func).removesuffix(".from_pretrained").removesuffix(".from_config")
    return owner.startswith("Auto") and owner.isidentifier()


def test_code_that_comes_with_a_model_never_runs() -> None:
    loaders = [
        (path, node)
        for path in SOURCES
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call) and is_loader(node)
    ]
    assert len(loaders) > 8
    none_of(
        f"{place(path)}:{node.lineno} leaves trust_remote_code out"
        for path, node in loaders
        if "trust_remote_code" not in {keyword.arg for keyword in node.keywords}
    )


@pytest.mark.parametrize(
    ("call", "is_bad"),
    [
        ("print(1)", True),
        ("getattr(a, 'b')", True),
        ("getattr(a, b)", False),
        ("torch.load(f)", True),
        ("torch.load(f, weights_only=True)", False),
        ("AutoModel.from_pretrained(p, trust_remote_code=True)", True),
        ("pickle.loads(b)", True),
        ("json.loads(b)", False),
    ],
)
def test_a_dangerous_or_noisy_call_is_noticed(call: str, is_bad: bool) -> None:
    (node,) = (n for n in ast.walk(ast.parse(call)) if isinstance(n, ast.Call))
    assert is_dangerous_or_noisy(node) == is_bad


def test_every_module_says_what_it_is() -> None:
    none_of(place(path) for path in SOURCES if not ast.get_docstring(TREES[path]))


HEAVY = {"torch", "vllm", "deepspeed", "transformers"}


@pytest.mark.parametrize(
    "imports",
    [
        # In one process each, so from the strictest on.
        [
            ("coop_rl", {"pydantic", "numpy", "pandas", "ray"} | HEAVY),
            ("coop_rl.commands.supervise", {"numpy", "pandas", "ray"} | HEAVY),
            ("coop_rl.api", {"pandas", "ray"} | HEAVY),
            ("coop_rl.config", {"ray"} | HEAVY),
            ("coop_rl.cli", {"ray"} | HEAVY),
            ("coop_rl.rewards.exact", {"ray"} | HEAVY),
            ("coop_rl.commands.report", {"ray"} | HEAVY),
            ("coop_rl.rollout.engine_process", {"ray"} | HEAVY),
            # All that is checked before a run starts, and what an actor without tensors needs.
            ("coop_rl.commands.train", HEAVY),
            ("coop_rl.distributed.actors", HEAVY),
        ],
        [
            ("coop_rl.algorithm.train", {"ray", "vllm", "deepspeed", "transformers"}),
            ("coop_rl.learner.meta_controller", {"vllm", "deepspeed", "transformers"}),
            ("coop_rl.learner.build", {"vllm"}),
        ],
    ],
    ids=["without torch", "with torch"],
)
def test_importing_stays_light(imports: list[tuple[str, set[str]]]) -> None:
    code = "import importlib, sys\n" + "".join(
        f"importlib.import_module({module!r})\n"
        f"print(*[({module!r}, m) for m in {sorted(banned)} if m in sys.modules])\n"
        for module, banned in imports
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


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
