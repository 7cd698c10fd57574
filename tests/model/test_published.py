"""Published checkpoints in our names compute what the published code computes
(tests/data, made by that code).
"""

from __future__ import annotations

import argparse
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from released import (
    ARINAR_WIDTHS,
    DATA,
    FRACTAL_WIDTHS,
    MASKED_WIDTHS,
    read_checkpoint,
    read_shapes,
    read_tensors,
)
from torch import Tensor

from arinar_lab.cli import main
from arinar_lab.config.build import build
from arinar_lab.config.files import merge, read_overrides, read_recipe
from arinar_lab.config.sections import parse_recipe
from arinar_lab.errors import ConfigError
from arinar_lab.evaluation.evaluate import load_trained
from arinar_lab.model.density import Resampled
from arinar_lab.model.heads.mixture import Mixture
from arinar_lab.model.noise import Noise
from arinar_lab.model.pretrained.names import parameter_names, translate_state
from arinar_lab.model.sampler import Sampler, masked_counts
from arinar_lab.runs.folder import RunFolder
from arinar_lab.runs.training_args import check_arguments

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = [
    "data={kind: latents, path: nowhere, size: 4, classes: 10}",
    "codec={kind: latents, scale: 0.2325}",
    "machine.accelerator=cpu",
    "machine.threads=1",
]
ARINAR = [*TINY, *ARINAR_WIDTHS]
PRESET = str(EXPERIMENTS / "imagenet256_arinar_b.yaml")
PUBLISHED = {"arinar_b": 212_949_516, "mar_b": 207_924_768}


def preset(name: str, *overrides: str):
    return parse_recipe(
        merge(
            read_recipe(EXPERIMENTS / f"imagenet256_{name}.yaml"), read_overrides(list(overrides))
        )
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_parameters_and_every_key_has_its_place(name):
    model = build(preset(name), device="meta").model
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]
    names, by_name = parameter_names(model), dict(model.named_parameters())
    assert set(names) == set(read_shapes(name, "param"))
    assert sorted(names.values()) == sorted(by_name)
    for key, shape in read_shapes(name, "param").items():
        assert [n for n in shape if n > 1] == [n for n in by_name[names[key]].shape if n > 1], key


@pytest.fixture(scope="module")
def arinar(tmp_path_factory):
    """The tiny checkpoint as `arinar convert` writes it, and the numbers of the published code."""
    out = tmp_path_factory.mktemp("converted") / "seed_0"
    with pytest.raises(SystemExit) as left:
        main(
            [
                "convert",
                str(DATA / "arinar_tiny.pth"),
                "--preset",
                PRESET,
                "--weights",
                "model",
                "--out",
                str(out),
                *ARINAR,
            ]
        )

    assert left.value.code == 0
    expected = read_tensors("arinar_tiny_expected.npz")

    return load_trained(preset("arinar_b", *ARINAR), RunFolder(out)), expected


def conditions(
    experiment, expected: dict[str, Tensor], null: bool = False
) -> tuple[Tensor, Tensor]:
    """z [B, N, E] at every position, given the tokens that the mask leaves."""
    model, x = experiment.model, expected["tokens"]
    c = model.labels.null(len(x)) if null else model.labels(expected["labels"].long())
    known_at = torch.stack([(row == 0).nonzero().squeeze(-1) for row in expected["mask"]])
    every = torch.arange(x.shape[1]).expand(len(x), -1)
    return model.outer._condition(x, c, known_at, every), every


@torch.no_grad()
def test_arinar_computes_the_published_conditions_and_mixtures(arinar):
    experiment, expected = arinar
    x, _ = experiment.codec.encode(expected["latents"] / 0.2325, Noise.of(torch.arange(3)))
    assert torch.allclose(x, expected["tokens"], atol=1e-6)
    z, _ = conditions(experiment, expected)
    assert (z - expected["z"]).abs().max() < 1e-5
    assert (conditions(experiment, expected, null=True)[0] - expected["z_null"]).abs().max() < 1e-5
    _, mixture = experiment.model.inner(z)._teacher_force(expected["tokens"])

    assert isinstance(mixture, Mixture)
    assert (mixture.mean.squeeze(-2) - expected["means"]).abs().max() < 1e-5
    assert (2 * mixture.log_std.squeeze(-2) - expected["log_variances"]).abs().max() < 1e-5
    assert (mixture.log_weight.exp() - expected["mixture_weights"]).abs().max() < 1e-5


@torch.no_grad()
def test_the_released_loss_lacks_the_constant(arinar):
    experiment, expected = arinar
    z, _ = conditions(experiment, expected)
    density, mask = experiment.model.inner(z), expected["mask"].bool()
    noise = Noise.of(torch.arange(3)).at(torch.arange(16).expand(3, -1))
    loss = density.loss(expected["tokens"], noise)[mask].mean()
    assert abs(loss - expected["released_loss"]) < 1e-5
    true = -density.log_prob(expected["tokens"])[mask].mean()
    assert abs(true - loss - 14.70301) < 1e-4


def test_schedules_are_the_published_ones(arinar):
    _, expected = arinar
    sampler = Sampler(guidance=4.5, schedule="linear")
    for tokens, steps in ((16, 8), (256, 64)):
        left = masked_counts(tokens, steps)
        published = expected[f"kept_{tokens}_{steps}"]
        assert left[:-1] == published[:-1].tolist()
        weights = [sampler.weight(1 - max(k, 1) / tokens) for k in left]
        assert np.allclose(weights, expected[f"weight_{tokens}_{steps}"], atol=1e-5)


@torch.no_grad()
def test_published_sampling_is_an_option(arinar):
    """`candidates` draws and resamples as released; a temperature above 1
    narrows the candidates.
    """
    experiment, _ = arinar
    sampler = preset(
        "arinar_b", *ARINAR, "sampler.candidates=50", "sampler.temperature=1.1"
    ).sampler
    y, seeds = torch.arange(4), Noise.of(torch.arange(4))
    x, truncated = experiment.model.generate(y, seeds, sampler)
    assert x.shape == (4, 16, 16) and x.isfinite().all() and not truncated.any()
    density = sampler.apply(Mixture(*(torch.zeros(1, 1, 1),) * 2, torch.zeros(1, 1)), None, 1.0)
    assert density.log_std.exp().item() == pytest.approx(1 / 1.1)
    p, q = (
        Mixture(torch.full((1, 1, 1), m), torch.zeros(1, 1, 1), torch.zeros(1, 1))
        for m in (0.0, 1.0)
    )

    guided = sampler.apply(p, q, 1.0)
    assert (
        isinstance(guided, Resampled)
        and guided.candidates == 50
        and guided.temperature == pytest.approx(1 / 1.1)
    )


MAR = [*TINY, *MASKED_WIDTHS, "inner.width=32", "inner.depth=2"]
FRACTAL = ["data.size=16", "data.classes=10", *FRACTAL_WIDTHS, "machine.accelerator=cpu"]


@pytest.mark.parametrize(
    ("file", "recipe", "overrides"),
    [("mar_tiny.pth", "mar_b", MAR), ("fractalmar_tiny.pth", "fractalmar_b", FRACTAL)],
)
def test_the_other_published_models_are_converted_and_sampled_too(
    tmp_path, file, recipe, overrides
):
    out = tmp_path / "seed_0"
    with pytest.raises(SystemExit) as left:
        main(
            [
                "convert",
                str(DATA / file),
                "--preset",
                str(EXPERIMENTS / f"imagenet256_{recipe}.yaml"),
                "--weights",
                "model",
                "--out",
                str(out),
                *overrides,
            ]
        )

    assert left.value.code == 0
    experiment = load_trained(preset(recipe, *overrides), RunFolder(out))
    reference = translate_state(read_checkpoint(file)["model"], experiment.model)
    assert all(
        torch.equal(value, reference[key]) for key, value in experiment.model.state_dict().items()
    )
    if recipe == "mar_b":
        expected = read_tensors("mar_tiny_outer.npz")
        with torch.no_grad():
            assert (conditions(experiment, expected)[0] - expected["z"]).abs().max() < 1e-5
            assert (
                conditions(experiment, expected, null=True)[0] - expected["z_null"]
            ).abs().max() < 1e-5

    sampler = Sampler(guidance=2.0, steps=4)
    x, _ = experiment.model.generate(torch.arange(2), Noise.of(torch.arange(2)), sampler)

    assert x.isfinite().all()
    assert experiment.codec.decode(x).shape[1:] == experiment.source.shape


# Whichever way the file was saved


PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "published_checkpoints.md"
CONVERSIONS = re.findall(
    r"^arinar (convert \S+\.pth --preset \S+)",
    PAGE.read_text(encoding="utf-8") if PAGE.exists() else "",
    re.M,
)
COMMANDS = sorted(set(CONVERSIONS))
RELEASED = {
    "imagenet256_arinar_b": ("arinar_tiny.pth", ARINAR, "Averaged weights: model_ema"),
    "imagenet256_mar_b": ("mar_tiny.pth", MAR, "Averaged weights: model_ema"),
    "imagenet256_fractalmar_b": ("fractalmar_tiny.pth", FRACTAL, "Weights: model"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_converts_what_was_released(capsys, tmp_path, monkeypatch, command):
    """FractalMAR's release saves no averaged weights."""
    _, name, _, recipe = words = command.split()
    file, overrides, expected = RELEASED[recipe]
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / file, name)
    with pytest.raises(SystemExit) as left:
        main([*words, *overrides])
    lines = capsys.readouterr().out.splitlines()

    assert left.value.code == 0
    assert lines[:2] == [f"runs/{Path(name).stem}/seed_0", expected]
    assert (tmp_path / lines[0] / "DONE").is_file()


def test_the_readme_converts_every_published_model():
    assert {command.split()[-1] for command in COMMANDS} == set(RELEASED)


@pytest.fixture(scope="module")
def averaged() -> dict[str, Tensor]:
    """The averaged weights of the tiny checkpoint, by their published names."""
    return read_checkpoint("arinar_tiny.pth")["model_ema"]


SAVED = {
    "parallel": (
        lambda state: {"model_ema": {f"module.{k}": v for k, v in state.items()}},
        "model_ema",
    ),
    "compiled": (
        lambda state: {"ema": {f"module._orig_mod.{k}": v for k, v in state.items()}},
        "ema",
    ),
    "lightning": (
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}},
        "state_dict",
    ),
    "bare": (lambda state: state, "the file's own tensors"),
    "numpy": (
        lambda state: {"model_ema": state, "epoch": np.int64(7), "fid": np.float64(3.2)},
        "model_ema",
    ),
    "random state": (
        lambda state: {"model_ema": state, "numpy": np.random.get_state()},
        "model_ema",
    ),
    "path": (
        lambda state: {"model_ema": state, "args": argparse.Namespace(output=Path("out"))},
        "model_ema",
    ),
    "both": (lambda state: {"model": {}, "ema": state}, "ema"),
}


@pytest.mark.parametrize("saved", SAVED)
def test_weights_are_read_however_training_code_saved_them(capsys, tmp_path, averaged, saved):
    wrap, name = SAVED[saved]
    file, out = tmp_path / "saved.pth", tmp_path / "seed_0"
    torch.save(wrap(averaged), file)
    with pytest.raises(SystemExit) as left:
        main(["convert", str(file), "--preset", PRESET, "--out", str(out), *ARINAR])
    assert left.value.code == 0 and f"eights: {name}\n" in capsys.readouterr().out
    experiment = load_trained(preset("arinar_b", *ARINAR), RunFolder(out))

    expected = translate_state(averaged, experiment.model)
    assert all(
        torch.equal(value, expected[key]) for key, value in experiment.model.state_dict().items()
    )


# What the file says of itself


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("arinar_b", {"model": "mar_base"}, None),
        (
            "arinar_b",
            {"model": "mar_base", "img_size": 256, "vae_stride": 16, "patch_size": 1},
            None,
        ),
        # of a head that it does not have
        ("arinar_b", {"num_sampling_steps": "25", "output": None}, None),
        (
            "arinar_b",
            {"img_size": 512},
            "img_size=512, and the recipe has data.size=256; add data.size=512",
        ),
        ("arinar_b", {"patch_size": 2}, "patch_size=2, and the recipe has latents in a token=1"),
        (
            "arinar_b",
            {"vae_stride": 8},
            "vae_stride=8, and the recipe has stride of codec.layout=16",
        ),
        ("mar_b", {"num_sampling_steps": "100"}, None),
        ("mar_b", {"num_sampling_steps": "250"}, "add inner.sampling_steps=250"),
        ("fractalmar_b", {"img_size": 64}, "data.size=256; add data.size=64"),
    ],
)
def test_a_recipe_that_contradicts_what_the_file_says_is_refused(recipe, settings, message):
    def check() -> list[str]:
        return check_arguments(argparse.Namespace(**settings), preset(recipe))

    if message is None:
        assert check() == (["outer.heads"] if "model" in settings else [])
    else:
        with pytest.raises(ConfigError, match=re.escape(message)):
            check()


@pytest.mark.parametrize(
    ("recipe", "model", "override"),
    [
        ("arinar_b", "mar_base", "outer.heads=16"),
        ("mar_b", "mar_base", "outer.heads=8"),
        ("fractalmar_b", "fractalmar_base_in256", "inner.outer.heads=12"),
        ("fractalmar_b", "fractalmar_base_in256", "inner.inner.inner.heads=8"),
    ],
)
def test_heads_other_than_the_named_model_has_are_refused(recipe, model, override):
    key = override.split("=")[0]
    with pytest.raises(
        ConfigError, match=f"was trained as {model}, which has .*{override}; add {key}="
    ):
        check_arguments(argparse.Namespace(model=model), preset(recipe, override))
    assert key in check_arguments({"model": model}, preset(recipe))


def test_heads_that_nothing_tells_are_named(capsys, tmp_path):
    """The tiny file calls itself mar_base, whose width it does not have."""
    with pytest.raises(SystemExit) as left:
        main(
            [
                "convert",
                str(DATA / "arinar_tiny.pth"),
                "--preset",
                PRESET,
                "--out",
                str(tmp_path / "a"),
                *ARINAR,
            ]
        )

    assert left.value.code == 0
    assert (
        "does not tell these attention heads; the recipe says outer.heads=2, inner.heads=4"
        in capsys.readouterr().out
    )


# Bad input: one line, exit status 2, nothing written


def refused(capsys, checkpoint: Path, out: Path, *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(
            [
                "convert",
                str(checkpoint),
                "--preset",
                PRESET,
                "--out",
                str(out),
                *words,
            ]
        )

    assert left.value.code == 2
    assert not out.exists() and not [p for p in out.parent.iterdir() if p.suffix != ".pth"]
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1

    return stderr


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


def test_what_does_not_fit_is_refused_by_its_first_keys(capsys, tmp_path):
    tiny = DATA / "arinar_tiny.pth"
    assert "encoder_pos_embed_learned (1, 24, 32) for (32, 32)" in refused(
        capsys, tiny, tmp_path / "a", *ARINAR, "outer.prefix=16"
    )
    assert "lacks encoder_blocks.1." in refused(
        capsys, tiny, tmp_path / "a", *ARINAR, "outer.encoder_depth=2"
    )
    assert "has, and the preset does not know, decoder_blocks.1" in refused(
        capsys, tiny, tmp_path / "a", *ARINAR, "outer.decoder_depth=1"
    )
    assert "heads" in refused(capsys, tiny, tmp_path / "a", *ARINAR, "inner.heads=5")
    assert "holds no weights named best" in refused(
        capsys, tiny, tmp_path / "a", *ARINAR, "--weights", "best"
    )


def test_files_with_code_or_damage_are_refused(capsys, tmp_path):
    file = tmp_path / "code.pth"
    torch.save({"model_ema": Code()}, file)
    assert (
        "refused" in (message := refused(capsys, file, tmp_path / "a", *ARINAR))
        and "asks for print" in message
    )
    file.write_bytes(pickle.dumps({"model_ema": Code()}, protocol=2))
    assert "refused" in refused(capsys, file, tmp_path / "a", *ARINAR)
    file.write_bytes((DATA / "arinar_tiny.pth").read_bytes()[:100_000])
    assert "damaged" in refused(capsys, file, tmp_path / "a", *ARINAR)
    torch.save([1, 2], file)

    assert "no published checkpoint" in refused(capsys, file, tmp_path / "a", *ARINAR)
    assert "no such file" in refused(capsys, tmp_path / "none.pth", tmp_path / "a", *ARINAR)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["outer.qk_norm=true"], "has nothing for this model's outer."),
        (["inner.placement=sandwich"], "has nothing for this model's inner."),
        (["inner.k_bias=true"], "this model leaves out, arhead.blocks.0.attn.q_bias"),
        (["outer.norm=rms"], "and this model leaves out,"),
        (["codec.normalise=channel"], "codec.normalise: channel is measured on training data"),
        (["inner.order=variance"], "inner.order: is measured on training data"),
        (["init_from=runs/x"], "init_from: a checkpoint is converted by itself"),
        (
            ["inner.group=2"],
            "inner.group: 2, and the published code orders the means of a group otherwise; use 1",
        ),
    ],
)
def test_what_the_checkpoint_does_not_hold_is_no_part_of_the_model(
    capsys, tmp_path, words, message
):
    assert message in refused(capsys, DATA / "arinar_tiny.pth", tmp_path / "a", *ARINAR, *words)


def test_a_group_of_features_is_read_where_its_order_cannot_differ():
    """The published head output is [K, F], ours [F, K]: with one Gaussian these are the same."""
    grouped = [*ARINAR, "inner.group=2"]
    model = build(preset("arinar_b", *grouped, "inner.head.components=1"), "meta").model
    assert "arhead.head.weight" in parameter_names(model)
    with pytest.raises(ValueError, match=r"inner\.group: 2"):
        parameter_names(build(preset("arinar_b", *grouped), "meta").model)


def test_numbers_that_are_none_are_refused(capsys, tmp_path):
    content = read_checkpoint("arinar_tiny.pth")
    key = next(iter(content["model_ema"]))
    file = tmp_path / "bad.pth"
    for value in (torch.full_like(content["model_ema"][key], torch.nan), 3, None):
        torch.save({"model_ema": {**content["model_ema"], key: value}}, file)
        assert f"no arrays of finite real numbers: {key}" in refused(
            capsys, file, tmp_path / "a", *ARINAR
        )


@pytest.mark.parametrize("length", [3, 500, 7_636, 20_000, 69_999, 300_000])
def test_a_file_cut_anywhere_is_refused(capsys, tmp_path, length):
    file = tmp_path / "cut.pth"
    file.write_bytes((DATA / "arinar_tiny.pth").read_bytes()[:length])
    assert "damaged" in refused(capsys, file, tmp_path / "a", *ARINAR)


def test_averaged_weights_are_the_default_and_a_folder_is_never_overwritten(capsys, tmp_path):
    content = read_checkpoint("arinar_tiny.pth")
    model = build(preset("arinar_b", *ARINAR)).model
    averaged = translate_state(content["model_ema"], model)
    out = tmp_path / "seed_0"
    words = [
        "convert",
        str(DATA / "arinar_tiny.pth"),
        "--preset",
        PRESET,
        "--out",
        str(out),
        *ARINAR,
    ]

    with pytest.raises(SystemExit):
        main(words)
    loaded = load_trained(preset("arinar_b", *ARINAR), RunFolder(out)).model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in averaged.items())
    before = (out / "checkpoints" / "final.safetensors").read_bytes()
    with pytest.raises(SystemExit) as left:
        main(words)

    assert left.value.code == 2 and "exists already" in capsys.readouterr().err
    assert (out / "checkpoints" / "final.safetensors").read_bytes() == before
