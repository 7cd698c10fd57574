"""The rooms of the house: imports go one way, and no file is a drawer."""

import ast
from pathlib import Path

import pytest
import yaml

PACKAGE = Path(__file__).parent.parent / "arinar_lab"
FORBIDDEN = {"lightning", "omegaconf", "mlflow", "optuna", "torchmetrics", "torch_fidelity", "sklearn", "matplotlib"}
BELOW = {"model": {"model"}, "run": {"model", "run"}, "study": {"model", "run", "study"}}


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            parts = ["arinar_lab", *path.relative_to(PACKAGE).parts][: -node.level]
            names.add(".".join([*parts, node.module or ""]))
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


@pytest.mark.parametrize("room", BELOW)
def test_imports_go_one_way(room):
    for path in (PACKAGE / room).rglob("*.py"):
        own = {name.split(".")[1] for name in imports(path) if name.startswith("arinar_lab.") and name.count(".")}
        assert own <= BELOW[room] | {"", "__version__"}, path


def test_the_model_imports_nothing_of_weight_but_torch():
    for path in (PACKAGE / "model").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN, path


def test_every_shipped_study_is_listed_with_its_question_and_its_command():
    experiments = PACKAGE.parent / "experiments"
    listed = (experiments / "README.md").read_text()
    for path in (experiments / "ablations").glob("*.yaml"):
        question = yaml.safe_load(path.read_text())["question"]
        command = f"make ablation-{path.stem.replace('_', '-')}"
        assert f"| `{path.stem}` | {question} | `{command}` |" in listed, path.stem


def test_no_file_is_a_drawer():
    assert not [p for p in PACKAGE.rglob("*.py") if p.stem in {"utils", "util", "helpers", "helper", "common", "misc"}]
