"""Imports run one way, and nothing has to be listed to be found."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What plug-ins may use of benchmark: modules that know neither trainer nor configuration.
LEAVES = {
    "contracts", "errors", "streams", "precision", "image_ops", "schedule", "optim", "views",
    "mask_metrics", "dataset", "task", "batchnorm", "processes",
}  # fmt: skip
PACKAGES = ("benchmark", "methods", "tasks", "reports", "slurm")


def imports(file: Path) -> set[str]:
    """Modules of the suite that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] in PACKAGES}


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ["methods", "tasks"])
def test_plugins__import_leaves_only(package: str) -> None:
    for file in files(package):
        for name in imports(file):
            top, _, rest = name.partition(".")
            assert top == package or (top == "benchmark" and rest in LEAVES), f"{file}: {name}"


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves__import_leaves_only(leaf: str) -> None:
    for name in imports(ROOT / "benchmark" / f"{leaf}.py"):
        assert name.removeprefix("benchmark.") in LEAVES, name


def test_benchmark__imports_no_plugin_and_only_run_knows_reports_and_slurm() -> None:
    for file in files("benchmark"):
        for name in imports(file):
            top = name.split(".")[0]
            known = top in ("reports", "slurm") and file.name == "run.py"
            assert top == "benchmark" or known, file


def test_trainer__knows_neither_configuration_nor_files() -> None:
    forbidden = {f"benchmark.{m}" for m in ("config", "build", "plan", "job", "run", "files")}
    for name in ("trainer", "pretrain", "objectives", "optim", "batchnorm", "probe"):
        assert not imports(ROOT / "benchmark" / f"{name}.py") & forbidden, name


def test_modules__shadow_nothing() -> None:
    # `python benchmark/run.py` puts the script's folder first on the path.
    names = {f.stem for p in ("benchmark", "reports", "slurm") for f in files(p)} - {"__init__"}
    assert not names & (set(sys.stdlib_module_names) | set(packages_distributions()))


def test_wheel__runs_from_another_folder(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            *pip,
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(tmp_path),
            str(source),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True
    )
    assert not (site / "tests").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import benchmark.run as run;"
        f"assert run.__file__.startswith({str(site)!r}), run.__file__;"
        "sys.exit(run.main(['preset=smoke', 'data.train_count=128', 'data.test_count=64']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (elsewhere / "runs/tables/table1.md").exists()


def test_readme__the_file_map_is_true() -> None:
    text = (ROOT / "README.md").read_text()
    file_map = text[text.index("## File map") :]
    named = set(re.findall(r"`(?:[\w/]*/)?(\w+\.py)`", file_map))
    packages = [file for package in PACKAGES for file in files(package)]
    there = {file.name for file in packages if file.name != "__init__.py"}
    assert there - named == set()
    tests = {file.name for file in (ROOT / "tests").rglob("*.py")}
    assert named - there - tests - {"NAME.py", "test_NAME.py"} == set()
