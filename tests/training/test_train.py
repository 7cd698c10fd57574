"""Training: a run that was stopped, however and wherever, ends bit for bit as one that was not."""

import csv
import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from tiny import logged, tiny
from torch import nn

from arinar_lab.config.build import build
from arinar_lab.config.sections import Training
from arinar_lab.data.loader import BatchDataset, ResumableLoader
from arinar_lab.errors import ConfigError, Diverged
from arinar_lab.evaluation.evaluate import load_trained
from arinar_lab.files.checksums import save_tensors, seal
from arinar_lab.hardware.device import configure_cpu
from arinar_lab.model.layers import LearnedVectors
from arinar_lab.runs.checkpoints import newest_checkpoint, newest_first
from arinar_lab.runs.folder import RunFolder, read_json
from arinar_lab.runs.history import read_metrics
from arinar_lab.training import train as training
from arinar_lab.training.ema import EMA
from arinar_lab.training.module import ArinarModule, decay_groups, learning_rate_factor
from arinar_lab.training.train import load_weights, train

pytestmark = pytest.mark.usefixtures("alone")

# 8 batches an epoch, so step 4 is in mid-epoch and 8 at its end; a checkpoint and a validation
# meet at steps 12 and 24
LONG = [
    "training.steps=24",
    "training.batch=179",
    "training.checkpoint_every=4",
    "training.validate_every=6",
    "outer.dropout=0.1",
]


def add_callback(monkeypatch, callback):
    """Let the next runs have one more callback."""
    make = training._trainer

    def with_callback(*words):
        trainer = make(*words)
        trainer.callbacks.append(callback)
        return trainer

    monkeypatch.setattr(training, "_trainer", with_callback)


class At(Callback):
    """Does something at one moment of a run, or at each moment of the kinds below."""

    def __init__(self, act, only=None):
        self.act, self.only = act, only

    def _at(self, hook, trainer):
        moment = f"{hook} {trainer.global_step}"
        if self.only in (None, moment):
            self.act(moment)

    def on_train_batch_start(self, trainer, *_):
        self._at("before step", trainer)

    def on_train_batch_end(self, trainer, *_):
        self._at("after step", trainer)

    def on_validation_start(self, trainer, *_):
        self._at("before validation", trainer)

    def on_validation_batch_end(self, trainer, *_):
        self._at("in validation", trainer)

    def on_validation_end(self, trainer, *_):
        self._at("after validation", trainer)

    def on_train_end(self, trainer, *_):
        self._at("at the end", trainer)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nobody stops, and what its folder held at each moment: what
    kill -9 would leave.
    """
    here = tmp_path_factory.mktemp("straight")
    folder, moments = RunFolder(here / "run"), here / "moments"
    folder.path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        add_callback(patch, At(lambda moment: shutil.copytree(folder.path, moments / moment)))
        train(tiny(*LONG), folder)
    return folder, moments


def same(folder, straight):
    """Weights bit-equal and metrics row for row."""
    actual, expected = load_file(folder.weights), load_file(straight.weights)
    different = [name for name in expected if not torch.equal(actual[name], expected[name])]
    assert not different, f"weights differ: {different}"
    assert logged(folder) == logged(straight)
    assert folder.done


# The resume law


def test_the_straight_run_is_worth_comparing_to(straight):
    """Dropout matters, checkpoints are at hand in mid-epoch, and something was logged before
    and after each stop.
    """
    folder, moments = straight
    steps = [row[0] for row in logged(folder)]
    # bits/dim and the loss on held-out data
    assert steps == [5, 5, 9, 9, 9, 11, 11, 17, 17, 19, 19, 19, 23, 23]
    assert [p.name for p in (moments / "after step 6" / "checkpoints").glob("*.ckpt")] == [
        "step=4.ckpt"
    ]
    other = RunFolder(Path("other"))
    other.path.mkdir()
    train(tiny(*LONG, "outer.dropout=0.0"), other)
    with pytest.raises(AssertionError, match="weights differ"):
        same(other, folder)


@pytest.mark.parametrize(
    "moment",
    [
        "after step 2",  # no checkpoint yet
        "after step 4",  # in mid-epoch, the checkpoint just written
        "after step 6",  # some steps after it, a validation due
        "before step 8",  # the checkpoint is of an epoch's end
        # in the second epoch; a validation is due at the very step of the checkpoint
        "after step 12",
        "before validation 12",
        "after validation 12",
        "after step 20",  # a row of metrics.csv is due at the very step of the checkpoint
        # the last checkpoint is written, the last validation and the final weights are not
        "after step 24",
        "in validation 24",
        "at the end 24",
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(straight, moment):
    folder, moments = straight
    killed = RunFolder(Path("run"))
    shutil.copytree(moments / moment, killed.path)
    train(tiny(*LONG), killed)
    same(killed, folder)


def interrupt():
    raise KeyboardInterrupt


def fail():
    raise RuntimeError("the disk is full")


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def press_ctrl_c_twice():
    press_ctrl_c()
    press_ctrl_c()


def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.fixture
def own_signals():
    """Lightning leaves SIGINT ignored after an interrupt, and a job in the background begins so."""
    handlers = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("stop", "moment"),
    [
        (interrupt, "before step 5"),
        (interrupt, "after step 9"),
        (interrupt, "in validation 6"),
        (fail, "before step 13"),
        (fail, "in validation 12"),
        (terminate, "before step 5"),
        (terminate, "after step 9"),
        (press_ctrl_c, "after step 9"),
        (terminate, "in validation 6"),
        (terminate, "after validation 12"),
        (terminate, "in validation 24"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_stopped_run_ends_as_if_it_had_not_been(straight, monkeypatch, stop, moment):
    folder, _ = straight
    stopped = RunFolder(Path("run"))
    stopped.path.mkdir()
    with monkeypatch.context() as patch:
        add_callback(patch, At(lambda _: stop(), moment))
        with pytest.raises(BaseException):  # noqa: B017 what is raised is tested below
            train(tiny(*LONG), stopped)

    assert not stopped.done
    train(tiny(*LONG), stopped)
    same(stopped, folder)


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("stop", "error"),
    [
        (interrupt, KeyboardInterrupt),
        (press_ctrl_c, KeyboardInterrupt),
        (press_ctrl_c_twice, KeyboardInterrupt),
        (fail, RuntimeError),
        (terminate, SystemExit),
        (hang_up, SystemExit),
    ],
    ids=["interrupt", "Ctrl-C", "Ctrl-C twice", "fail", "terminate", "hang up"],
)
def test_the_reason_of_a_stop_is_raised(monkeypatch, stop, error):
    add_callback(monkeypatch, At(lambda _: stop(), "after step 3"))
    folder = RunFolder(Path("run"))
    folder.path.mkdir()
    with pytest.raises(error):
        train(tiny(), folder)
    assert not folder.done


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("stop", "status", "saved"),
    [
        (terminate, 143, ["step=5.ckpt"]),
        (hang_up, 129, ["step=5.ckpt"]),
        (press_ctrl_c, None, ["step=5.ckpt"]),
        (press_ctrl_c_twice, None, []),
    ],
)
def test_a_run_that_a_signal_ends_saves_a_checkpoint(monkeypatch, stop, status, saved):
    """A second Ctrl-C does not wait for it."""
    add_callback(monkeypatch, At(lambda _: stop(), "before step 4"))
    folder = RunFolder(Path("run"))
    folder.path.mkdir()
    with pytest.raises((SystemExit, KeyboardInterrupt)) as end:
        train(tiny("training.checkpoint_every=100"), folder)
    assert getattr(end.value, "code", None) == status
    assert [path.name for path in folder.checkpoints.glob("*.ckpt")] == saved


def test_a_signal_that_nohup_ignores_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        add_callback(monkeypatch, At(lambda _: hang_up(), "before step 1"))
        train(tiny("training.steps=2"), RunFolder(Path("run")))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert RunFolder(Path("run")).done


def test_a_resumed_run_does_only_what_is_left(straight, monkeypatch):
    _, moments = straight
    shutil.copytree(moments / "after step 13", "run")
    recorded = []
    add_callback(monkeypatch, At(recorded.append))
    train(tiny(*LONG), RunFolder(Path("run")))
    assert [moment for moment in recorded if moment.startswith("after step")] == [
        f"after step {step}" for step in range(13, 25)
    ]


def test_seconds_of_training_add_up_over_stops(straight):
    _, moments = straight
    shutil.copytree(moments / "after step 20", "run")
    path = newest_first(Path("run/checkpoints"))[0]
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["Resume"]["seconds"] = 1000.0
    torch.save(checkpoint, "draft")
    seal(Path("draft"), path)
    train(tiny(*LONG), RunFolder(Path("run")))

    assert 1000 <= read_json(Path("run/DONE"))["seconds"] < 1100


# Done, damaged


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A trained run of 6 steps."""
    folder = RunFolder(tmp_path_factory.mktemp("short") / "run")
    folder.path.mkdir()
    train(tiny(), folder)
    return folder


def copy_of(folder):
    shutil.copytree(folder.path, "run")
    return RunFolder(Path("run"))


def times(folder):
    return {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file()}


def test_a_finished_run_is_left_alone(short):
    before = times(short)
    train(tiny(), short)
    assert times(short) == before


def test_done_tells_steps_and_seconds(short):
    done = read_json(short.path / "DONE")
    assert done["steps"] == 6 and done["seconds"] > 0 and done["finished"]


def test_two_checkpoints_are_kept(short):
    """After the last step nothing is resumed."""
    assert sorted(p.name for p in short.checkpoints.glob("*.ckpt")) == [
        "step=2.ckpt",
        "step=4.ckpt",
    ]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(straight):
    folder, moments = straight
    run = RunFolder(Path("run"))
    shutil.copytree(moments / "after step 13", run.path)
    whole = (moments / "before step 20" / "checkpoints" / "step=20.ckpt").read_bytes()
    (run.checkpoints / "step=20.ckpt").write_bytes(whole[: len(whole) // 2])
    assert newest_checkpoint(run) == run.checkpoints / "step=12.ckpt"
    train(tiny(*LONG), run)
    same(run, folder)


def test_checkpoints_are_sorted_by_their_step():
    run = RunFolder(Path("run"))
    run.checkpoints.mkdir(parents=True)
    for step in (8, 12, 100):
        torch.save({}, run.checkpoints / "draft")
        seal(run.checkpoints / "draft", run.checkpoints / f"step={step}.ckpt")
    assert newest_checkpoint(run).name == "step=100.ckpt"


def test_no_checkpoint_is_none():
    assert newest_checkpoint(RunFolder(Path("run"))) is None


def test_damaged_checkpoints_alone_are_an_error_and_change_nothing():
    run = RunFolder(Path("run"))
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "step=4.ckpt").write_bytes(b"no checkpoint")
    before = times(run)
    with pytest.raises(ConfigError, match=r"^run/checkpoints/step=4.ckpt: damaged[^\n]*$"):
        train(tiny(), run)
    assert times(run) == before


def test_a_failed_run_that_is_trained_after_all_is_no_longer_failed():
    run = RunFolder(Path("run"))
    run.fail(OSError("the disk is full"))
    train(tiny(), run)
    assert run.done and not (run.path / "FAILED").exists()


def test_a_diverged_run_says_what_to_change():
    run = RunFolder(Path("run"))
    run.path.mkdir()
    with pytest.raises(
        Diverged,
        match=r"^the loss became nan at step \d; lower training.lr \(now 1e\+30\) or training",
    ):
        train(tiny("training.lr=1e30"), run)
    assert not run.done and not run.weights.exists()


# Weights


class Keep(Callback):
    """Keeps what the weights and their averages are after the last step."""

    def on_train_batch_end(self, trainer, module, *_):
        averaging = next(c for c in trainer.callbacks if isinstance(c, EMA))
        self.raw = {name: value.clone() for name, value in module.state_dict().items()}
        self.averaged = self.raw | {
            name: value.clone() for name, value in averaging.averages.items()
        }


def test_final_weights_are_the_averaged_ones(monkeypatch):
    keep, run = Keep(), RunFolder(Path("run"))
    add_callback(monkeypatch, keep)
    run.path.mkdir()
    train(tiny(), run)
    final = load_file(run.weights)

    assert all(torch.equal(final[name], keep.averaged[name]) for name in final)
    assert not torch.equal(
        final["model.inner.head.parameters_of.weight"],
        keep.raw["model.inner.head.parameters_of.weight"],
    )


def test_buffers_of_the_averaged_weights_are_the_models():
    """Bin edges and feature order are measured, not averaged."""
    recipe = tiny("inner.order=variance", "inner.head={kind: discrete, bins: 17, edges: quantile}")
    run = RunFolder(Path("run"))
    run.path.mkdir()
    train(recipe, run)
    experiment = build(recipe)
    ArinarModule(experiment, recipe.training, 0).fit_to(experiment.source.train[0])
    fitted, saved = experiment.model.inner, load_file(run.weights)

    assert torch.equal(saved["model.inner.order_index"], fitted.order_index)
    assert torch.equal(saved["model.inner.head.edges"], fitted.head.edges)
    assert fitted.order_index.tolist() != [list(range(4))]


def test_weights_survive_the_way_to_disk_and_back(short):
    a, b = load_trained(tiny(), short), build(tiny())
    load_weights(short.weights, b)
    for module, other in ((a.model, b.model), (a.codec, b.codec)):
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in module.state_dict().items())


def test_saving_weights_leaves_no_draft_and_a_file_like_any_other():
    recipe = tiny()
    module = ArinarModule(build(recipe), recipe.training, 0)
    save_tensors(Path("below/final.safetensors"), module.state_dict())
    Path("other").touch()

    assert Path("below/final.safetensors").stat().st_mode == Path("other").stat().st_mode
    assert {p.name for p in Path("below").iterdir()} == {
        "final.safetensors",
        "final.safetensors.sha256",
    }


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "missing; the run has not finished training"),
        (lambda path: path.write_bytes(b"damaged"), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "damaged"),
    ],
    ids=["missing", "no weights", "cut"],
)
def test_bad_weights_are_told_in_one_line(short, damage, words):
    run = copy_of(short)
    damage(run.weights)
    with pytest.raises(ConfigError, match=rf"^run/checkpoints/final.safetensors: {words}[^\n]*$"):
        load_weights(run.weights, build(tiny()))


def test_weights_of_another_model_are_told_in_one_line(short):
    with pytest.raises(ConfigError, match=r"^\S*final.safetensors: does not fit [^\n]*$"):
        load_weights(short.weights, build(tiny("outer.width=32")))


# Optimisation


def test_matrices_decay_and_nothing_else_does():
    model = build(tiny("inner.head={kind: fixed_gaussian, learned: true}", "inner.norm=dyt")).model
    decay, keep = decay_groups(model)
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    vectors = {id(m.weight) for m in model.modules() if isinstance(m, LearnedVectors)}

    assert {id(p) for p in decay} == linear
    assert vectors <= {id(p) for p in keep} and id(model.inner.head.log_std) in {
        id(p) for p in keep
    }
    assert all(p.dim() < 2 or id(p) in vectors or p is model.inner.head.log_std for p in keep)


def test_what_decays_can_be_all_matrices_or_those_outside_the_inner_model():
    model = build(tiny()).model
    matrices = {name for name, p in model.named_parameters() if p.dim() > 1}
    names = {id(p): name for name, p in model.named_parameters()}
    decay = {on: {names[id(p)] for p in decay_groups(model, on)[0]} for on in ("all", "outer")}
    assert decay["all"] == matrices and any("positions" in name for name in matrices)
    assert decay["outer"] == {name for name in matrices if not name.startswith("inner.")}


@pytest.mark.parametrize("on", ["outer", "all"])
def test_what_decays_is_asked_of_the_recipe(on):
    recipe = tiny(f"training.weight_decay_on={on}")
    module = ArinarModule(build(recipe), recipe.training, 0)
    decay, _ = module.configure_optimizers()["optimizer"].param_groups
    assert [id(p) for p in decay["params"]] == [id(p) for p in decay_groups(module.model, on)[0]]


def test_every_trained_parameter_is_in_one_group():
    recipe = tiny(
        "codec={kind: vae}", "inner.head={kind: fixed_gaussian}", "training.weight_decay=0.3"
    )
    module = ArinarModule(build(recipe), recipe.training, 0)
    decay, keep = module.configure_optimizers()["optimizer"].param_groups
    assert (decay["weight_decay"], keep["weight_decay"]) == (0.3, 0.0)
    actual = [id(p) for p in decay["params"] + keep["params"]]

    assert sorted(actual) == sorted(id(p) for p in module.parameters() if p.requires_grad)
    assert len(actual) < len(
        list(module.parameters())
    )  # a frozen autoencoder and a fixed deviation


def test_the_learning_rate_rises_linearly_then_falls_by_a_cosine():
    o = Training(steps=100, warmup=10)
    assert [learning_rate_factor(step, o) for step in (0, 4, 9, 10)] == pytest.approx(
        [0.1, 0.5, 1.0, 1.0]
    )
    assert learning_rate_factor(55, o) == pytest.approx(0.5)
    assert learning_rate_factor(32, o) == pytest.approx(0.5 * (1 + math.cos(math.pi * 22 / 90)))
    assert learning_rate_factor(100, o) == pytest.approx(0.0) and learning_rate_factor(
        120, o
    ) == pytest.approx(0.0)


def test_a_warmup_can_start_at_zero():
    o = Training(steps=100, warmup=10, warmup_from_zero=True)
    assert [learning_rate_factor(step, o) for step in (0, 1, 9, 10)] == pytest.approx(
        [0.0, 0.1, 0.9, 1.0]
    )
    assert learning_rate_factor(0, Training(warmup=0, warmup_from_zero=True)) == 1.0


@pytest.mark.parametrize("from_initial", [False, True])
def test_an_average_starts_after_the_first_step_or_at_the_initial_weights(from_initial):
    model = nn.Linear(1, 1, bias=False)
    average, trainer = EMA(0.5, from_initial), SimpleNamespace(global_step=0)
    model.weight.data.fill_(1.0)
    average.on_train_start(trainer, model)
    for trainer.global_step, value in ((1, 2.0), (2, 4.0)):
        model.weight.data.fill_(value)
        average.on_train_batch_end(trainer, model)

    expected = ((1 + 2) / 2 + 4) / 2 if from_initial else (2 + 4) / 2
    assert average.averages["weight"].item() == expected


def test_no_average_is_the_weights():
    model = nn.Linear(1, 1, bias=False)
    average = EMA(0.0)
    average.on_train_start(SimpleNamespace(), model)
    for step in (1, 2, 3):
        model.weight.data.fill_(step / 3)
        average.on_train_batch_end(SimpleNamespace(global_step=step), model)
    assert torch.equal(average.averages["weight"], model.weight)


# Groups of images that share a masked ratio


def shared(batch, group, accumulate=1, rank=0, world=1):
    """{image: masked ratio} of a process's share of a batch, of images 0, 1, 2, …, and
    how many parts it has.
    """
    outer = f"outer={{kind: masked, width: 16, heads: 2, mask_group: {group}}}"
    recipe = tiny(outer, f"training.batch={batch}")
    module = ArinarModule(build(recipe), recipe.training, 0, accumulate)
    loader = ResumableLoader(BatchDataset((torch.zeros(batch, 1), torch.zeros(batch))), batch, 0)
    loader.first = {rank: 0}
    module.trainer = SimpleNamespace(
        world_size=world, global_rank=rank, training=True, global_step=3, train_dataloader=loader
    )
    module.on_fit_start()
    images = torch.arange(rank, batch, world)
    share = module.on_before_batch_transfer((images, images, images), 0)
    parts = list(module.parts_of(share))
    assert len({len(part) for part, *_ in parts}) == 1  # equal

    return {
        int(i): r for (*_, part), r in zip(parts, module.ratios, strict=True) for i in part
    }, len(parts)


@pytest.mark.parametrize(
    ("group", "accumulate", "parts"),
    [(6, 1, 4), (6, 2, 4), (6, 8, 8), (8, 4, 12), (0, 3, 3), (24, 1, 1), (99, 1, 1)],
)
def test_images_of_a_group_share_a_masked_ratio_and_groups_do_not(group, accumulate, parts):
    ratios, count = shared(24, group, accumulate)
    groups = 24 // min(group or 24, 24)
    assert count == parts and sorted(ratios) == list(range(24))
    assert len(set(ratios.values())) == groups
    assert all(ratios[i] == ratios[i % groups] for i in ratios)
    assert ratios[0] == shared(24, 0)[0][0]  # the first group has what the batch had


@pytest.mark.parametrize(
    ("group", "world", "parts"), [(6, 4, 1), (6, 2, 2), (6, 8, 1), (8, 2, 3), (4, 4, 3)]
)
def test_how_many_processes_there_are_changes_no_masked_ratio(group, world, parts):
    alone, _ = shared(24, group)
    shares = [shared(24, group, rank=rank, world=world) for rank in range(world)]
    assert [count for _, count in shares] == [parts] * world
    assert {i: ratio for ratios, _ in shares for i, ratio in ratios.items()} == alone


def test_a_constant_rate_stays_after_its_warmup():
    o = Training(steps=100, warmup=10, schedule="constant")
    assert [learning_rate_factor(step, o) for step in (0, 9, 10, 99)] == pytest.approx(
        [0.1, 1.0, 1.0, 1.0]
    )


@pytest.mark.parametrize("steps", [1, 10])
def test_no_warmup_begins_at_the_peak(steps):
    assert learning_rate_factor(0, Training(steps=steps, warmup=0)) == 1.0


# What is logged


def test_bits_per_dim_is_validated_when_asked_and_at_the_end(short):
    rows = [row for row in read_metrics(short.path / "metrics.csv") if row[1] == "val/bits_per_dim"]
    assert [row[0] for row in rows] == [2, 5]
    assert 2 < rows[1][2] < rows[0][2] < 12


def test_validation_is_of_the_averaged_weights_on_all_held_out_images(short):
    recipe, experiment = tiny(), load_trained(tiny(), short)
    module = ArinarModule(experiment, recipe.training, 0)
    images, y = experiment.source.held_out

    with torch.no_grad():
        module.log = lambda *_, **__: None
        module.validation_step((images, y, torch.arange(len(y))), 0)
    last = read_metrics(short.path / "metrics.csv")[-1]

    assert last[:2] == (5, "val/bits_per_dim")
    assert module.bits_per_dim.compute().item() == pytest.approx(last[2], rel=1e-6)


def test_loss_gradient_and_rate_are_logged(straight):
    folder, _ = straight
    rows = {(step, name): value for step, name, value in read_metrics(folder.path / "metrics.csv")}
    assert 0 < rows[19, "train/loss"] < rows[9, "train/loss"]
    assert rows[9, "train/grad_norm"] > 0
    o = tiny(*LONG).training
    assert rows[9, "train/lr"] == pytest.approx(o.lr * learning_rate_factor(9, o))


def test_metrics_are_a_long_table(straight):
    with (straight[0].path / "metrics.csv").open() as file:
        assert next(csv.reader(file)) == ["step", "name", "value"]


def test_no_metrics_are_no_rows():
    assert read_metrics(Path("nowhere.csv")) == []


def test_the_run_folder_tells_how_far_it_is(short):
    progress = read_json(short.path / "progress.json")
    assert (progress["phase"], progress["steps"]) == ("train", 6) and 1 <= progress["step"] <= 6


def test_the_run_folder_holds_its_whole_configuration(short):
    from arinar_lab.config.files import read_recipe
    from arinar_lab.config.sections import parse_recipe

    assert (
        parse_recipe(read_recipe(short.path / "config.yaml")).training_signature
        == tiny().training_signature
    )


def test_training_is_a_function_of_the_seed(short):
    again, other = RunFolder(Path("again")), RunFolder(Path("other"))
    for run, recipe in ((again, tiny()), (other, tiny("seed=1"))):
        run.path.mkdir()
        train(recipe, run)
    same(again, short)
    with pytest.raises(AssertionError, match="weights differ"):
        same(other, short)


def test_threads_are_those_of_the_machine():
    before = torch.get_num_threads()
    configure_cpu(tiny("machine.threads=2").machine)
    assert torch.get_num_threads() == 2
    configure_cpu(tiny("machine.threads=0").machine)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
