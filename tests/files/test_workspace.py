"""The folder of work: everything is found from it, whichever the working directory is."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from reports import study, whole
from safetensors.torch import save_file
from tiny import finished, tiny

from arinar_lab.api import open_study
from arinar_lab.cli.compare import gather_runs
from arinar_lab.config.build import build
from arinar_lab.config.schema import to_plain
from arinar_lab.config.sections import parse_recipe
from arinar_lab.errors import ConfigError
from arinar_lab.evaluation.trained_model import open_run
from arinar_lab.files.workspace import HERE, Workspace
from arinar_lab.runs.folder import RunFolder
from arinar_lab.study.status import save_cells
from arinar_lab.training.warm_start import matching_weights

pytestmark = pytest.mark.usefixtures("alone")
IMAGES = "data={kind: images, path: images, channels: 1, size: 8, classes: 10}"


def save_images(folder):
    Path(folder).mkdir()
    for part, n in (("train", 40), ("held_out", 20)):
        images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8)
        save_file(
            {"images": images, "labels": torch.arange(n) % 10}, f"{folder}/{part}.safetensors"
        )


@pytest.fixture
def elsewhere(alone, monkeypatch):
    """The folder of work; the working directory is another one, which nobody changes."""

    def leave():
        (alone / "elsewhere").mkdir()
        monkeypatch.chdir(alone / "elsewhere")
        monkeypatch.setattr(os, "chdir", lambda folder: pytest.fail(f"went to {folder}"))
        return Workspace(alone)

    return leave


def test_folders_lie_in_the_root(tmp_path):
    workspace = Workspace(tmp_path)
    assert workspace.runs == tmp_path / "runs"
    assert workspace.studies == tmp_path / "studies"
    assert workspace.tracking == tmp_path / "tracking"
    assert (
        HERE.runs == Path("runs")
        and HERE.references == Path("references")
        and HERE.caches == Path("caches")
    )


def test_a_path_that_is_not_there_stays_as_it_is_written(tmp_path):
    (tmp_path / "images").mkdir()
    workspace = Workspace(tmp_path)
    assert workspace.path("images") == tmp_path / "images"
    assert workspace.path("digits") == Path("digits")
    assert workspace.path(tmp_path / "images") == tmp_path / "images"


def test_a_recipe_reads_its_data_from_its_workspace_and_keeps_its_signature(elsewhere):
    save_images("images")
    here = tiny(IMAGES)
    workspace = elsewhere()
    with pytest.raises(ValueError, match=r"'images/train.safetensors' is not there"):
        build(here).source.prepare()
    recipe = parse_recipe(to_plain(here), workspace)

    assert len(build(recipe).source.train[0]) == 40
    assert (recipe.training_signature, to_plain(recipe)) == (
        here.training_signature,
        to_plain(here),
    )
    assert recipe.with_seed(3).workspace == workspace


def test_no_file_may_say_where_the_workspace_is():
    with pytest.raises(ConfigError, match=r"^workspace: unknown key"):
        parse_recipe({**to_plain(tiny()), "workspace": "elsewhere"})


def test_a_run_is_found_and_opened_and_started_from_in_its_workspace(elsewhere):
    finished(tiny())
    named = RunFolder.of(tiny(), "tiny").path
    workspace = elsewhere()
    recipe = parse_recipe(to_plain(tiny()), workspace)
    folder = RunFolder.of(recipe, "another name")
    assert folder.path == workspace.root / named
    assert open_run(recipe, folder).experiment.parameters > 0

    follower = parse_recipe({**to_plain(tiny()), "init_from": str(named)}, workspace)
    assert matching_weights(follower, build(follower))


def test_a_study_is_opened_and_nothing_goes_to_its_folder(elsewhere):
    plan = study(whole())
    save_cells(plan, Path("study.yaml"), [])
    workspace = elsewhere()
    results = open_study(workspace.studies / "study").results
    assert [len(by_seed) for by_seed in results.reports.values()] == [3, 3, 3]
    assert all(plan.cell(arm, 0)[0].path.is_relative_to("runs") for arm in plan.arms)


def test_arms_of_a_copied_workspace_are_compared_as_its_own_file_says(elsewhere):
    plan = study(whole())
    save_cells(plan, Path("study.yaml"), [])
    Path("copy").mkdir()
    for name in ("study.yaml", "base.yaml", "studies", "runs"):
        shutil.move(name, "copy")
    workspace = elsewhere()
    word = workspace.root / "copy" / "studies" / "study"

    results = gather_runs([f"{word}:components=1", f"{word}:components=2"]).results
    assert [arm.name for arm in results.arms] == ["components=1", "components=2"]
