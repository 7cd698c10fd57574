"""The rooms of the house: imports go down its floors, no file is a drawer, and none
that is read runs code.
"""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import house
import pytest
import yaml

import arinar_lab
from arinar_lab.variables import GRACE, VARIABLES, listing

PACKAGE = Path(__file__).parent.parent / "arinar_lab"
FORBIDDEN = {
    "lightning",
    "omegaconf",
    "mlflow",
    "optuna",
    "torchmetrics",
    "torch_fidelity",
    "sklearn",
    "matplotlib",
}
MOST = 11  # files in a folder, beside its __init__.py


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


def calls(path: Path) -> list[tuple[str, dict[str, str]]]:
    """Every call in a file: its name as written, and its keyword arguments."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [
        (ast.unparse(c.func), {str(k.arg): ast.unparse(k.value) for k in c.keywords}) for c in nodes
    ]


RUNS_CODE = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "joblib.load",
    "pd.read_pickle",
    "eval",
    "exec",
    "torch.hub.load",
    "torch.hub.load_state_dict_from_url",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
EXTRACTS = (
    "extractall",
    "extract",
    "unpack_archive",
    "extract_archive",
    "download_and_extract_archive",
)


def faults(path: Path) -> list[str]:
    """Calls in a file that may run code that stands in a file, or write where an archive says."""
    bad = []
    for name, arguments in calls(path):
        loads = name == "torch.load" or (
            name.endswith((".fit", ".test", ".validate")) and "ckpt_path" in arguments
        )
        unsafe = (loads and arguments.get("weights_only") != "True") or arguments.get(
            "allow_pickle", "False"
        ) != "False"
        if unsafe or name in RUNS_CODE or name.rpartition(".")[2] in EXTRACTS:
            bad.append(f"{path.name}: {name}({arguments})")

    return bad


def test_no_file_that_is_read_runs_code_and_nothing_extracts_archives():
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "benchmarks").glob("*.py")]
    assert not [fault for path in files for fault in faults(path)]
    assert sum(name == "torch.load" for path in files for name, _ in calls(path)) >= 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "trainer.fit(m, ckpt_path=p)",
        "pickle.loads(b)",
        "np.load(path, allow_pickle=True)",
        "tar.extractall(path)",
        "torch.hub.load('a/b', 'c')",
    ],
)
def test_such_calls_would_be_found(tmp_path, line):
    file = tmp_path / "file.py"
    file.write_text(f"def read(path):\n    return {line}\n")
    assert len(faults(file)) == 1


def encodes(name: str, arguments: dict[str, str], words: list[str]) -> bool:
    """Whether a call opens a file as text without saying how letters are encoded."""
    plain = name.rpartition(".")[2]
    if plain in ("read_text", "write_text"):
        return "encoding" not in arguments and not any("utf" in word for word in words)
    mode = arguments.get(
        "mode", next((word for word in words if re.fullmatch(r"'[rwxabt+]+'", word)), "'r'")
    )
    return (
        plain == "open" and name not in OPENERS and "b" not in mode and "encoding" not in arguments
    )


OPENERS = ("Image.open", "archive.open", "self.open", "self.store.open", "os.open")  # not of text


def test_text_is_utf_8_whatever_the_locale():
    for path in PACKAGE.rglob("*.py"):
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        for node in nodes:
            arguments = {str(k.arg): ast.unparse(k.value) for k in node.keywords}
            words = [ast.unparse(word) for word in node.args]
            assert not encodes(ast.unparse(node.func), arguments, words), (
                f"{path.name}: {ast.unparse(node)}"
            )


@pytest.mark.parametrize(
    "line",
    ["p.read_text()", "p.write_text(t)", "open(p, 'a')", "p.open()", "p.open('w', newline='')"],
)
def test_text_of_the_locale_would_be_noticed(line):
    node = ast.parse(line).body[0].value
    arguments = {str(k.arg): ast.unparse(k.value) for k in node.keywords}
    assert encodes(ast.unparse(node.func), arguments, [ast.unparse(word) for word in node.args])


def test_text_is_printed_by_one_module():
    """`print` and rich's own console would pass escape sequences and markup on."""
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "output":
            assert not {name for name, _ in calls(path)} & {
                "print",
                "Console",
                "TextColumn",
                "escape",
                "Text.from_markup",
            }, path


SAVES = ("savefig", "save_image", "save", "savez", "savez_compressed", "imsave")


def test_pictures_and_arrays_are_written_whole():
    """What saves to a path saves to the draft of `atomic.atomic_draft`, whatever
    opens the file meanwhile.
    """
    saved = []
    for path in PACKAGE.rglob("*.py"):
        for node in [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]:
            if (
                isinstance(node.func, ast.Attribute | ast.Name)
                and ast.unparse(node.func).rpartition(".")[2] in SAVES
            ):
                saved.append(
                    (
                        path.name,
                        *map(
                            ast.unparse,
                            node.args[-1:]
                            if ast.unparse(node.func) in ("save_image", "torch.save")
                            else node.args[:1],
                        ),
                    )
                )

    assert len(saved) >= 9 and not [
        call for call in saved if call[1:] not in (("draft",), ("file",))
    ]


def floors() -> list[list[str]]:
    """The rooms of each floor, the uppermost first, as pyproject.toml has
    them for import-linter.
    """
    configuration = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    contracts = {
        contract["id"]: contract for contract in configuration["tool"]["importlinter"]["contracts"]
    }
    return [floor.split(" | ") for floor in contracts["floors"]["layers"]]


def test_imports_go_down_the_floors(monkeypatch):
    cli = pytest.importorskip("importlinter.cli")
    monkeypatch.chdir(PACKAGE.parent)
    assert cli.lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True) == 0


def test_every_room_has_its_floor_and_its_line_in_the_table_of_rooms():
    rooms = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))
    }
    listed = re.findall(
        r"^\| `arinar_lab/(\w+)(?:/|\.py)` \|",
        (PACKAGE.parent / "CONTRIBUTING.md").read_text(),
        re.M,
    )
    assert (
        {room for floor in floors() for room in floor}
        == rooms - {"__init__", "__main__"}
        == set(listed)
    )


def test_no_folder_is_full():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    sizes = {
        folder: len([path for path in folder.glob("*.py") if path.stem != "__init__"])
        for folder in folders
    }
    assert max(sizes.values()) <= MOST, sizes


def test_the_public_face_and_the_errors_import_nothing_of_weight():
    program = (
        "import sys, arinar_lab, arinar_lab.errors; print(*{name.split('.')[0] for name in "
        "sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(run.stdout.split()) & {*FORBIDDEN, "torch", "numpy", "pandas"}


def test_names_of_the_public_face_are_found():
    assert {name for name in arinar_lab.__all__ if getattr(arinar_lab, name)} <= set(
        dir(arinar_lab)
    )
    with pytest.raises(AttributeError, match="no attribute 'open_door'"):
        arinar_lab.__getattr__("open_door")


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
    assert not [
        p
        for p in PACKAGE.rglob("*.py")
        if p.stem in {"utils", "util", "helpers", "helper", "common", "misc"}
    ]


def test_packages_whose_private_interface_is_used_have_an_upper_bound():
    """What is private may change in the next release, so that a fresh install of it would fail in
    the middle of a run.
    """
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["hub"]]
    bounded = {re.match(r"[\w-]+", line)[0] for line in required if "<" in line}
    assert bounded == {"lightning", "optuna", "mlflow", "torch-fidelity", "datasets"}


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        (r"\btrainer\.(\w+\.)*_[a-z]", 3),
        (r"\bmlflow\.(_|\w+\._|sharedViewState|store\b|utils\b)", 1),
    ],
    ids=["lightning", "mlflow"],
)
def test_few_lines_touch_a_private_interface(pattern, most):
    lines = [line for path in PACKAGE.rglob("*.py") for line in path.read_text().splitlines()]
    assert len([line for line in lines if re.search(pattern, line)]) <= most


FOLDERS = "runs|studies|tracking|references|caches|experiments"


def test_nothing_changes_directory_and_one_module_names_the_folders_of_work():
    named = re.compile(rf"""Path\(["']({FOLDERS})["']\)|/ ["']({FOLDERS})["']""")
    for path in PACKAGE.rglob("*.py"):
        assert not {name.rpartition(".")[2] for name, _ in calls(path)} & {"chdir", "fchdir"}, path
        if path.name != "workspace.py":
            assert not named.search(path.read_text()), path


def test_one_module_reads_the_variables_of_the_environment_and_each_says_what_it_does():
    read = re.compile(r"""(environ|getenv)\W[^\n]*(ARINAR_|MLFLOW_TRACKING_URI)""")
    assert [path.name for path in PACKAGE.rglob("*.py") if read.search(path.read_text())] == []
    named = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"\bARINAR_[A-Z]+\b", path.read_text())
    }

    assert named == {variable.name for variable in VARIABLES} - {"MLFLOW_TRACKING_URI"}
    assert all(variable.meaning for variable in VARIABLES)


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("ARINAR_GRACE", "")
    assert GRACE.read() == "300"
    monkeypatch.setenv("ARINAR_GRACE", "90")
    assert GRACE.read() == "90"


def test_help_lists_the_variables_that_users_may_set():
    lines = listing().splitlines()
    assert [line.split()[0] for line in lines] == [v.name for v in VARIABLES if not v.internal]
    assert max(map(len, lines)) <= 100


@pytest.fixture(scope="module")
def checkout():
    """The package, parsed once for all counts."""
    return house.House(PACKAGE.parent)


@pytest.mark.parametrize(
    ("count", "most"),
    [
        ("folder", 11),
        ("floors", 12),
        ("circles", 0),
        ("arrows", 0),
        ("tight", 40),
        ("comprehensions", 3),
        ("nested", 0),
        ("wide", 0),
        ("names", 10),
    ],
)
def test_the_house_stays_easy_to_enter(checkout, count, most):
    _, measure = house.ROWS[count]
    value, places = measure(checkout)
    number = float(str(value).split()[0])
    assert number <= most, places[:20]
