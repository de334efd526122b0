"""The house rules: floors only look down, files stay short, configs name real things."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    {"common"}, {"spatial"}, {"data"}, {"losses", "metrics"}, {"sam"}, {"masks"}, {"correspondence"},
    {"roi", "network"}, {"report"}, {"workflow"}, {"training"}, {"verbs"}, {"transforms", "apps", "benchmarks"},
    {"__main__"},
)  # fmt: skip
STOREY = {name: level for level, names in enumerate(FLOORS) for name in names}
TRAININGS = ("train", "distill", "multi_gpu_train")


def sources() -> list[Path]:
    return sorted((ROOT / "scripts").rglob("*.py"))


def floor_of(path: Path) -> str:
    return path.relative_to(ROOT / "scripts").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_floors_only_look_down(path):
    floor = floor_of(path)
    if floor == "__init__":
        return
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            parts = [*package[: len(package) - node.level + 1], *(node.module or node.names[0].name).split(".")]
            other = parts[1]
            assert other == floor or STOREY[other] < STOREY[floor], f"{floor} imports {'.'.join(parts)}"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            assert not any(n.split(".")[0] == "scripts" for n in names), "imports of this package are relative"


def defined(tree: ast.AST) -> set[str]:
    """Names that a module gives to others."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_imported_names_exist():
    """Also in applications whose packages are not installed here."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sources()}
    given = {path: defined(tree) for path, tree in trees.items()}
    missing = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split(".") if node.module else ())
                module = base.with_suffix(".py") if base.with_suffix(".py") in given else base / "__init__.py"
                missing += [
                    f"{path.relative_to(ROOT)}: {alias.name}"
                    for alias in node.names
                    if alias.name not in given[module]
                    and not (base / f"{alias.name}.py").exists()
                    and not (base / alias.name).is_dir()
                ]
    assert missing == []


def targets(value) -> Iterator[str]:
    """Every dotted name of this package in a config, in ``_target_`` or in an expression."""
    if isinstance(value, dict):
        for v in value.values():
            yield from targets(v)
    elif isinstance(value, list):
        for v in value:
            yield from targets(v)
    elif isinstance(value, str):
        yield from re.findall(r"\bscripts\.[\w.]+", value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.json")), ids=lambda p: p.stem)
def test_targets_of_configs_only_look_down(path):
    """A config that registers takes nothing from the floor of the trainings, and none takes anything from above."""
    name = str(path.relative_to(ROOT / "configs"))
    limit = STOREY["training" if name.startswith(TRAININGS) else "workflow"]
    for target in targets(json.loads(path.read_text(encoding="utf-8"))):
        assert STOREY[target.split(".")[1]] <= limit, f"{name} takes {target}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short_and_quiet(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    assert text.startswith("# Copyright (c) SAM registration contributors.")
    for node in ast.walk(ast.parse(text)):
        assert not isinstance(node, ast.Assert), f"assert in {path.name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called != "print", f"print in {path.name}"
        if called == "torch.load":
            assert any(k.arg == "weights_only" for k in node.keywords), f"torch.load in {path.name}"


def test_tests_are_short_too():
    long = [p.name for p in (ROOT / "tests").rglob("*.py") if len(p.read_text(encoding="utf-8").splitlines()) > 300]
    assert long == []


def listed_requirements() -> set[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {re.split("[<>=]", line)[0].strip().lower() for line in lines if line and not line.startswith("#")}


def needed_packages(path: Path) -> set[str]:
    """The packages that a module imports, but for those whose absence it handles."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    handled: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) and any("ImportError" in ast.unparse(h) for h in node.handlers):
            handled |= {inner for part in node.body for inner in ast.walk(part)}
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in handled:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node not in handled and not node.level:
            names.add(str(node.module))
    return (
        {name.split(".")[0] for name in names}
        - sys.stdlib_module_names
        - set(re.findall(r'find_spec\("(\w+)"\)', text))
    )


def test_nothing_is_imported_that_requirements_do_not_list():
    """The apps and the benchmarks of other programs have requirements of their own."""
    providers, listed = packages_distributions(), listed_requirements()
    for path in sources():
        for name in set() if floor_of(path) in ("apps", "benchmarks") else needed_packages(path):
            found = {provider.lower() for provider in providers.get(name, [name])}
            assert found & listed, f"{path.name} imports {name}, which requirements.txt lacks"


def test_requirements_and_metadata_name_the_same_packages():
    metadata = json.loads((ROOT / "configs" / "metadata.json").read_text(encoding="utf-8"))
    named = {name.lower() for name in metadata["required_packages_version"]} | {"monai", "torch", "numpy"}
    assert listed_requirements() == named


def test_every_shipped_weight_is_small_and_logged():
    log = (ROOT / "docs" / "training_log.md").read_text(encoding="utf-8")
    for path in (ROOT / "models").glob("*.pt"):
        assert path.stat().st_size < 16 * 2**20
        assert path.name in log


def test_large_files_are_complete():
    for entry in yaml.safe_load((ROOT / "large_files.yml").read_text(encoding="utf-8"))["large_files"]:
        assert set(entry) == {"path", "url", "hash_val", "hash_type"}
        assert len(entry["hash_val"]) == 64 and entry["hash_type"] == "sha256"


def names_of(path: Path) -> set[str]:
    """Everything that a module defines at its top, and the methods of its classes."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names


def test_docstrings_refer_to_what_exists():
    known = set()
    for path in sources():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        known |= {module, *(f"{module}.{name}" for name in names_of(path))}
    for path in sources():
        found = re.findall(r":(?:func|class|meth|mod|data):`~?(scripts\.[\w.]+)`", path.read_text(encoding="utf-8"))
        assert set(found) <= known, f"{path.relative_to(ROOT)}: {sorted(set(found) - known)}"
