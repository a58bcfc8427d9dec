"""Holds the arrows of who may import whom, over every import statement, those inside functions included."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "profiler", "reasoning", "analysis", "benchmarks")
ALLOWED = {
    "kernels": {"kernels"},
    "profiler": {"profiler"},
    "reasoning": {"kernels", "profiler", "reasoning"},
    "analysis": {"profiler.record", "analysis"},
    "benchmarks": {"kernels", "profiler", "reasoning", "analysis", "benchmarks"},
}
# ``profiler.cli`` and its parts, ``profiler.cli_chain`` and the like.
FRONT_DOOR = re.compile(r"profiler\.cli(_\w+)?(?=\.|$)")
NO_TORCH = ("torch", "transformers", "triton", "bitsandbytes")


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    files = (file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py")))
    return {module_name(file): file for file in files}


def imports_of(source: str, module: str, *, is_package: bool) -> set[str]:
    """Every module that a source may import, lazily or not, by statement or by ``importlib``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                keep = len(parents) - node.level + (1 if is_package else 0)
                base = ".".join([*parents[:keep], *([base] if base else [])])
            # the name imported may be a submodule: ``from profiler import cli``
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.add(node.args[0].value)
    return found


def breaches(source: str, module: str, *, is_package: bool = False) -> list[str]:
    package = module.split(".")[0]
    wrong = []
    for target in sorted(imports_of(source, module, is_package=is_package)):
        ours = target.split(".")[0] in PACKAGES
        if FRONT_DOOR.match(target):
            if not FRONT_DOOR.match(module) or re.match(r"profiler\.cli(\.|$)", target):
                wrong.append(f"{module} imports the front door {target}")
        elif FRONT_DOOR.match(module):
            continue
        elif ours and not any(target == ok or target.startswith(ok + ".") for ok in ALLOWED[package]):
            wrong.append(f"{module} imports {target}")
        elif package == "analysis" and target.split(".")[0] in NO_TORCH:
            wrong.append(f"{module} imports {target}: analysis runs without it")
    return wrong


@pytest.mark.parametrize("module", modules())
def test_arrows(module: str) -> None:
    file = modules()[module]
    assert breaches(file.read_text("utf-8"), module, is_package=file.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.registry", "import profiler"),
        ("kernels.registry", "def f():\n    from reasoning.model import load"),
        ("profiler.energy", "import importlib\nimportlib.import_module('kernels.registry')"),
        ("profiler.energy", "from profiler import cli"),
        ("profiler.energy", "from . import cli"),
        ("benchmarks.sweep", "import profiler.cli"),
        ("benchmarks.sweep", "from profiler.cli_errors import fail"),
        ("profiler.energy", "from profiler import cli_chain"),
        ("profiler.cli_chain", "from profiler.cli import app"),
        ("reasoning.chain", "from analysis import fit"),
        ("reasoning.chain", "from benchmarks.peers import bnb"),
        ("analysis.fit", "from profiler import energy"),
        ("analysis.fit", "from profiler.timing import median"),
        ("analysis.fit", "def f():\n    import torch.nn"),
    ],
)
def test_a_breach_is_seen(module: str, source: str) -> None:
    assert len(breaches(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("kernels.registry", "from kernels.formats import FORMATS\nfrom . import formats\nimport torch"),
        ("analysis.fit", "from profiler.record import RunRecord\nimport profiler.record\nimport numpy"),
        ("reasoning.chain", "from kernels import registry\nfrom profiler.timing import HopTimer"),
        ("profiler.cli", "def main():\n    from reasoning.chain import run\n    from analysis import fit"),
        ("profiler.cli", "from profiler.cli_chain import run_chain"),
        ("profiler.cli_chain", "from profiler.cli_errors import fail\nfrom reasoning.chain import ChainRun"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert breaches(source, module) == []


def test_kernels_init_imports_nothing_and_stays_below_the_range_that_transformers_wants() -> None:
    tree = ast.parse((ROOT / "kernels" / "__init__.py").read_text("utf-8"))
    docstring, *rest = tree.body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(node.targets[0]) for node in rest if isinstance(node, ast.Assign)] == ["__version__"]
    assert len(rest) == 1
    version = ast.literal_eval(rest[0].value)  # type: ignore[attr-defined]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert tuple(int(part) for part in version.split(".")) < (0, 9)


def test_nothing_imports_triton_at_module_level_outside_triton_impl() -> None:
    wrong = []
    for module, file in modules().items():
        if module.startswith("kernels.triton_impl"):
            continue
        top = ast.Module([n for n in ast.parse(file.read_text("utf-8")).body if not is_definition(n)], [])
        targets = imports_of(ast.unparse(top), module, is_package=file.name == "__init__.py")
        wrong += [f"{module} imports {target}" for target in targets if target.split(".")[0] == "triton"]
    assert wrong == []


def is_definition(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)


def test_every_module_imports_without_triton_and_leaves_cuda_alone() -> None:
    """In a process of its own, where ``import triton`` fails and CUDA would notice being started."""
    names = [
        name for name in modules() if not name.startswith("kernels.triton_impl") and "__main__" not in name
    ]
    code = (
        "import importlib, sys\n"
        "sys.modules['triton'] = None\n"
        f"for name in {names!r}:\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except Exception as error:\n"
        "        print(f'{name}: {type(error).__name__}: {error}')\n"
        "torch = sys.modules.get('torch')\n"
        "if torch is not None and torch.cuda.is_initialized(): print('CUDA was started')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
