"""Python files of vLLM's GPU wheels: fetched, read, and run in parts; nothing compiled is imported.

python -m tests.contracts.wheels     what `make contracts` calls: fetch those not there yet
"""

import ast
import subprocess
import sys
import tempfile
import types
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

VERSIONS = ("0.32.0", "0.33.0")
"""The newest release of every minor version that pyproject's `gpu` accepts."""
FOLDER = Path(__file__).parents[2] / ".venv/contracts"


def unpacked(version: str) -> Path:
    """Return where a wheel's Python files are."""
    return FOLDER / f"vllm-{version}"


def fetch(version: str) -> str:
    """Download a GPU wheel, keep its Python files, and say how it went."""
    if unpacked(version).exists():
        return f"vllm {version}: there"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64"]
        command = [sys.executable, "-m", "pip", "download", "-qq", *options, "-d", folder]
        done = subprocess.run(
            [*command, f"vllm=={version}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            return f"vllm {version}: not held, the package index gave none ({reason})"
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            python = [name for name in archive.namelist() if name.endswith(".py")]
            archive.extractall(Path(folder) / "files", python)
        unpacked(version).parent.mkdir(parents=True, exist_ok=True)
        # In one piece, so that a fetch that was killed leaves no half of a wheel.
        (Path(folder) / "files").replace(unpacked(version))
    return f"vllm {version}: fetched, {len(python):,} Python files"


@cache
def tree(version: str, path: str) -> ast.Module:
    """Return a parsed file of a wheel."""
    return ast.parse((unpacked(version) / "vllm" / path).read_text())


def definition(version: str, path: str, name: str) -> ast.ClassDef | ast.FunctionDef:
    """Return a class or function of a file, or a class's method: `Class.method`."""
    body: list[ast.stmt] = tree(version, path).body
    for part in name.split("."):
        found: Any = next((node for node in body if getattr(node, "name", None) == part), None)
        assert found is not None, f"vLLM {version} has no {name} in {path}"
        body = found.body
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    assert isinstance(found, kinds), f"{name} of vLLM {version} is something else"
    return found  # type: ignore[return-value]


def parameters(version: str, path: str, name: str) -> list[str]:
    """Return the names of a function's parameters, without self and cls."""
    function = definition(version, path, name)
    assert not isinstance(function, ast.ClassDef)
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [n for n in names if n not in ("self", "cls")]


def fields(version: str, path: str, name: str) -> set[str]:
    """Return the annotated fields of a class."""
    body = definition(version, path, name).body
    targets = [node.target for node in body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def run(version: str, path: str, names: tuple[str, ...], given: dict[str, Any]) -> Any:
    """Execute the named definitions of a file, behind its imports of other packages than vLLM.

    Args:
        version: The wheel.
        path: A file of it.
        names: What to execute, in the file's order.
        given: Stands for what the file imports of vLLM.
    """
    imports = [
        node
        for node in tree(version, path).body
        if isinstance(node, ast.Import)
        or (isinstance(node, ast.ImportFrom) and not str(node.module).startswith("vllm"))
    ]
    chosen = [node for node in tree(version, path).body if getattr(node, "name", None) in names]
    assert len(chosen) == len(names), f"{path} of vLLM {version} lacks some of {names}"
    module = types.ModuleType(f"wheel_{version.replace('.', '_')}_{Path(path).stem}")
    sys.modules[module.__name__] = module  # dataclasses look there
    vars(module).update(given)
    later = ast.parse("from __future__ import annotations").body
    code = ast.Module([*later, *imports, *chosen], [])
    exec(compile(code, str(unpacked(version) / path), "exec"), vars(module))
    return module


if __name__ == "__main__":
    for one in VERSIONS:
        sys.stdout.write(fetch(one) + "\n")
