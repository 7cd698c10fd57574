"""FractalMAR in our names computes what the published code computes
(tests/data, made by that code).
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import pytest
import torch
import yaml
from laws import normal_numbers
from released import FRACTAL_WIDTHS, read_checkpoint, read_shapes, read_tensors

from arinar_lab.cli import main
from arinar_lab.config.files import merge, read_overrides, read_recipe
from arinar_lab.config.schema import Component, _parse
from arinar_lab.config.sections import parse_recipe
from arinar_lab.evaluation.evaluate import load_trained
from arinar_lab.model.arinar import Arinar
from arinar_lab.model.codecs.codec import IMAGENET, CodecFactory
from arinar_lab.model.inner.head import HeadFactory
from arinar_lab.model.noise import Noise
from arinar_lab.model.outer import OuterFactory, take
from arinar_lab.model.pretrained.fractal_names import fractalmar_names
from arinar_lab.model.pretrained.names import translate_state
from arinar_lab.model.sampler import Sampler
from arinar_lab.runs.folder import RunFolder

RECIPE = Path(__file__).parents[2] / "experiments" / "imagenet256_fractalmar_b.yaml"


def content(*overrides: str) -> dict:
    return merge(yaml.safe_load(RECIPE.read_text()), read_overrides(list(overrides)))


def parts(recipe: dict, size: int, classes: int) -> tuple[Component, Arinar]:
    """The codec and the model of a recipe's sections."""
    makers = {"codec": CodecFactory, "outer": OuterFactory, "inner": HeadFactory}
    codec, outer, inner = (_parse(maker, recipe[name], name) for name, maker in makers.items())
    patch = recipe["codec"]["patch"]
    return codec, Arinar((size // patch) ** 2, 3 * patch**2, classes, outer, inner)


@pytest.fixture(scope="module")
def published():
    state = read_checkpoint("fractalmar_tiny.pth")["model"]
    codec, model = parts(content(*FRACTAL_WIDTHS), 16, 10)
    model.load_state_dict(translate_state(state, model))
    expected = read_tensors("fractalmar_tiny_expected.npz")

    return codec((3, 16, 16), 256), model.eval(), expected


def test_the_preset_has_the_published_parameters_and_every_key_has_its_place():
    with torch.device("meta"):
        _, model = parts(content(), 256, 1000)
    assert sum(p.numel() for p in model.parameters()) == 186_300_224
    listed = read_shapes("fractalmar_b")
    names, by_name = fractalmar_names(model), dict(model.named_parameters())

    assert set(names) == set(listed)
    assert sorted(names.values()) == sorted(by_name)
    for key, shape in listed.items():
        assert [n for n in shape if n > 1] == [n for n in by_name[names[key]].shape if n > 1], key


def rows_of(z: torch.Tensor) -> torch.Tensor:
    """z [*, 5 E] as published: own, above, right, below, left first, [5, *, E]."""
    return z.unflatten(-1, (5, -1)).movedim(-2, 0).flip(0)


@torch.no_grad()
def test_every_level_computes_the_published_conditions_and_logits(published):
    codec, model, e = published
    x, _ = codec.encode(e["image_uint8"].float(), Noise.of(torch.arange(2)))
    assert (codec._patches(e["image_uint8"] + 0.5) - codec.mean - x * codec.std).abs().max() < 1e-6
    z = model.outer.everywhere(x, model.labels(e["labels"]), e["mask_level0"].bool())
    assert (rows_of(z) - e["conditions_level1"]).abs().max() < 1e-5

    nested, masked = model.inner, e["mask_level0"].bool()
    z, x = z[masked], x[masked]
    mean = nested.mean_colour(x)
    assert (mean - e["guiding_pixel_level1"]).abs().max() < 1e-5
    published_level = e["guiding_pixel_uint8_level1"].long()
    level = nested.guide.head.levels(mean, torch.arange(3))
    tie = (
        (255 * (mean * torch.tensor(IMAGENET[1]) + torch.tensor(IMAGENET[0]))) % 1 - 0.5
    ).abs() < 1e-3
    assert torch.equal(level[~tie], published_level[~tie])
    # a mean of 16 integers may lie on the edge: a matter of rounding
    assert (level - published_level).abs().max() <= 1
    edges = nested.guide.head.edges
    centre = ((edges[:, 1:] + edges[:, :-1]) / 2).T.gather(0, published_level)
    assert torch.allclose(nested.guide.nearest(mean)[~tie], centre[~tie], atol=1e-5)
    _, levels = nested.guide(z)._teacher_force(centre)
    logits, expected = (
        levels.log_mass.squeeze(-2)[..., 1:-1],
        e["guiding_logits_level1"].log_softmax(-1),
    )
    assert (logits - expected).abs().max() < 1e-5

    tokens, masked = nested.split(x), e["mask_level1"].bool()
    z = nested.outer.everywhere(tokens, nested.condition(z, mean), masked)
    assert (rows_of(z) - e["conditions_level2"]).abs().max() < 1e-5
    density = nested.inner(z[masked])
    _, levels = density._teacher_force(tokens[masked])
    logits = levels.log_mass.squeeze(-2)[..., 1:-1]
    assert (logits[:64] - e["pixel_logits"].log_softmax(-1)).abs().max() < 1e-5
    nll = -density.terms(tokens[masked]) - nested.inner.head.width().log()
    assert (nll - e["pixel_nll"]).abs().max() < 1e-5


# Likelihood, training, sampling, end to end


@torch.no_grad()
def test_bits_per_dim_are_those_of_the_integers(published):
    """With logits of zero every level has the probability 1/256: 8 bits for each pixel
    and each guiding pixel.
    """
    codec, model, e = published
    flat = copy.deepcopy(model)
    for head in (flat.inner.inner, flat.inner.guide):
        for book in head.trunk.codebooks:
            book.weight.zero_(), book.bias.zero_()

    noise = Noise.of(torch.arange(2))
    x, log_det = codec.encode(e["image_uint8"].float(), noise.at(0))
    bits = -(flat.log_prob(x, e["labels"], noise.at(1), 4) + log_det) / math.log(2)
    assert torch.allclose(bits, torch.full((2,), 8.0 * (768 + 16 * 3)), atol=0.05)
    low, high = codec.box(e["image_uint8"])
    at_level = -flat.log_interval(x, e["labels"], low, high, noise.at(1), 4) / math.log(2)

    assert torch.allclose(at_level, bits.double(), atol=0.05)
    assert model.likelihood == "bound"


@torch.no_grad()
def test_the_likelihood_is_the_walk_of_the_sampler(published):
    """log p of a drawn image, its own noise used again, is the sum of what each draw had."""
    _, model, _ = published
    y, noise, terms = torch.arange(2), Noise.of(torch.arange(2)), []
    x, _ = model.generate(y, noise, Sampler(steps=4))
    for z, where in model.outer.conditions(x, model.labels(y), noise, 4):
        density = model.inner(z)
        assert torch.equal(density.sample(noise.at(1).at(where)), take(x, where))
        terms.append(density.log_prob(take(x, where), noise.at(1).at(where)).sum(-1))
    assert torch.allclose(model.log_prob(x, y, noise, 4), torch.stack(terms).sum(0))


def test_training_weighs_every_level_as_released(published):
    """Mean over pixels of (5 r + g + b)/7, and the guiding pixels' likewise; gradients
    reach every parameter.
    """
    codec, model, e = published
    model = copy.deepcopy(model)
    noise = Noise.of(torch.arange(2))
    x, _ = codec.encode(e["image_uint8"].float(), noise)

    with torch.enable_grad():
        loss = model.loss(x, e["labels"], noise.at(1))
        loss.backward()

    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still in ([], ["labels.nothing.weight"])  # no label need be hidden in so small a batch
    with torch.no_grad():
        z, where = model.outer(x, model.labels(e["labels"], noise.at(1).at(2)), noise.at(1).at(0))
        blocks, own = take(x, where), noise.at(1).at(1).at(where)
        nested, flat = model.inner, blocks.flatten(0, 1)
        mean, z = nested.mean_colour(flat), z.flatten(0, 1)
        own = Noise(own.key.flatten())
        red, green, blue = nested.guide(z).terms(mean).unbind(-1)
        guide = -(5 * red + green + blue) / 7
        tokens = nested.split(flat)
        z, where = nested.outer(tokens, nested.condition(z, mean), own.at(0))
        red, green, blue = nested.inner(z).terms(take(tokens, where)).unbind(-1)

        pixels = -(5 * red + green + blue) / 7
        assert loss.item() / 48 == pytest.approx((pixels.mean(-1) + guide).mean().item(), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(
    "sampler",
    [Sampler(steps=4), Sampler(guidance=20.0, temperature=0.9, steps=4)],
    ids=["plain", "guided"],
)
def test_samples_are_images_of_their_own_seed(published, sampler):
    codec, model, _ = published
    y, seeds = torch.tensor([1, 2, 1]), Noise.of(torch.tensor([4, 5, 6]))
    x, truncated = model.generate(y, seeds, sampler)
    image = codec.decode(x)

    assert image.shape == (3, 3, 16, 16) and image.dtype == torch.uint8 and not truncated.any()
    # every value is a level's centre
    assert (codec.encode(image.float(), seeds)[0] - x).abs().max() < 1e-5
    alone = torch.cat(
        [model.generate(y[i : i + 1], Noise(seeds.key[i : i + 1]), sampler)[0] for i in range(3)]
    )
    # in single precision a draw may fall to the neighbouring level
    assert (alone != x).float().mean() < 0.02
    assert (x[0] != x[2]).float().mean() > 0.5
    if sampler.guidance != 1:
        plain, _ = model.generate(y, seeds, Sampler(steps=4, temperature=0.9))
        assert (plain != x).float().mean() > 0.1


@torch.no_grad()
def test_guidance_is_the_published_combination_of_logits(published):
    """null + w · (logits - null); a temperature t of ours is the published 1/t²,
    which multiplies logits.
    """
    _, model, e = published
    head, z = model.inner.guide, normal_numbers(2, 4, 160, dtype=torch.float32)
    x = e["guiding_pixel_level1"][:4]
    (_, p), (_, q) = (head(part)._teacher_force(x) for part in z)
    actual = (
        head(z[0]).guided(head(z[1]), 2.5).tempered(0.8)._teacher_force(x)[1].log_mass[..., 1:-1]
    )

    logits, null = p.log_mass[..., 1:-1], q.log_mass[..., 1:-1]
    assert torch.allclose(
        actual, ((null + 2.5 * (logits - null)) / 0.8**2).log_softmax(-1), atol=1e-4
    )


def released_guidance(
    logits: list[float], null: list[float], weight: float, temperature: float, least: float
):
    """Logits of the released rule, value by value, and whether each was filtered."""
    logits, null = ([temperature * value for value in values] for values in (logits, null))
    total = sum(math.exp(value - max(logits)) for value in logits)

    guided, filtered = [], []
    for value, other in zip(logits, null, strict=True):
        is_unlikely = math.exp(value - max(logits)) / total < least
        lifted = max(other, value - max(logits) + max(null)) if is_unlikely else other
        guided.append(lifted + weight * (value - lifted))
        filtered.append(is_unlikely and lifted > other)

    return torch.tensor(guided, dtype=torch.float64), torch.tensor(filtered)


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.5, 1.0, 6.5, 29.0])
def test_guidance_filters_unlikely_values_as_released(published, weight):
    """The released 1.1 multiplies logits before they are filtered and guided; a
    temperature of ours is 1/√1.1.
    """
    _, model, e = published
    head, z = copy.deepcopy(model.inner.guide), 3 * normal_numbers(2, 4, 160, dtype=torch.float32)
    for book in head.trunk.codebooks:
        book.weight *= 8
    x, least = e["guiding_pixel_level1"][:4], 1e-4
    settings = {"guidance": weight, "schedule": "constant", "temperature": 1.1**-0.5}
    drawn, unfiltered = (
        Sampler(**settings, filter_threshold=threshold)
        .apply(head(z[0]), head(z[1]), 1.0)
        ._teacher_force(x)[1]
        .log_mass
        for threshold in (least, 0.0)
    )

    logits, null = (
        head(part)._teacher_force(x)[1].log_mass[..., 1:-1].double().reshape(-1, 256) for part in z
    )
    pairs = [
        released_guidance(p.tolist(), q.tolist(), weight, 1.1, least)
        for p, q in zip(logits, null, strict=True)
    ]
    expected, filtered = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    assert filtered.any(-1).all() and not filtered.all(-1).any()
    actual, plain = (
        log_mass[..., 1:-1].reshape(-1, 256).double() for log_mass in (drawn, unfiltered)
    )
    assert torch.allclose(actual, expected.log_softmax(-1), atol=2e-3)
    assert ((actual - plain).abs().max() > 5) == (weight > 1)
    if weight > 1:  # an unlikely value stays as unlikely, next to the likeliest, as it was
        top = logits.argmax(-1, keepdim=True)
        before = logits - logits.gather(-1, top)
        after = expected - expected.gather(-1, top)
        assert (after <= 1.1 * before + 1e-9)[filtered].all()


@torch.no_grad()
def test_every_level_is_filtered(published):
    """The threshold reaches the pixels and the guiding pixel through the levels above."""
    nested, noise = published[1].inner, Noise.of(torch.arange(2))
    z, null = 3 * normal_numbers(2, 2, 160, dtype=torch.float32)

    outcomes = [
        Sampler(guidance=20.0, schedule="constant", filter_threshold=threshold)
        .apply(nested(z), nested(null), 1.0)
        .sample(noise)
        for threshold in (0.0, 4e-3)
    ]
    assert (outcomes[0] != outcomes[1]).float().mean() > 0.1


# FractalMAR for 64×64 images: no guiding pixel


UNGUIDED = Path(__file__).parents[2] / "experiments" / "imagenet64_fractalmar.yaml"
TINY_UNGUIDED = [
    "data.size=16",
    "data.classes=10",
    "outer.width=32",
    "outer.depth=2",
    "outer.heads=2",
    "outer.steps=16",
    "inner.outer.width=24",
    "inner.outer.depth=1",
    "inner.outer.heads=2",
    "inner.inner.width=16",
    "inner.inner.depth=1",
    "inner.inner.heads=2",
    "machine.accelerator=cpu",
]


def unguided_state() -> dict[str, torch.Tensor]:
    """The released tiny checkpoint without its guiding pixel, whose position stands first."""
    state = read_checkpoint("fractalmar_tiny.pth")["model"]
    state = {
        key: value
        for key, value in state.items()
        if "pix_proj" not in key and "guiding_pixel" not in key
    }
    positions = "next_fractal.generator.pos_embed_learned"

    return {**state, positions: state[positions][:, 1:]}


def released_level(
    state: dict[str, torch.Tensor], patches, conditions, mask, heads: int
) -> torch.Tensor:
    """What a masked level of one block hands down for each patch, without a guiding pixel:
    [M, patches, width].
    """

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        return torch.nn.functional.layer_norm(
            x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6
        )

    x = torch.where(mask.unsqueeze(-1), state["mask_token"], linear(patches, "patch_emb"))
    rows = [linear(condition, "cond_emb").unsqueeze(1) for condition in conditions]
    x = norm(torch.cat([*reversed(rows), x], 1) + state["pos_embed_learned"], "patch_emb_ln")
    q, k, v = (
        linear(norm(x, "blocks.0.norm1"), "blocks.0.attn.qkv")
        .unflatten(-1, (3, heads, -1))
        .permute(2, 0, 3, 1, 4)
    )
    attended = ((q @ k.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v
    x = x + linear(attended.transpose(1, 2).flatten(2), "blocks.0.attn.proj")
    hidden = torch.nn.functional.gelu(linear(norm(x, "blocks.0.norm2"), "blocks.0.mlp.fc1"))
    x = x + linear(hidden, "blocks.0.mlp.fc2")
    return norm(x, "norm")[:, len(rows) :]


def test_the_preset_without_a_guiding_pixel_has_the_released_size():
    recipe = merge(yaml.safe_load(UNGUIDED.read_text()), {})
    with torch.device("meta"):
        _, model = parts(recipe, 64, 1000)
    assert sum(p.numel() for p in model.parameters()) == 431_995_648  # 432M as released
    assert sorted(fractalmar_names(model).values()) == sorted(
        name for name, _ in model.named_parameters()
    )


@torch.no_grad()
def test_a_checkpoint_without_a_guiding_pixel_is_converted_and_computes_the_released_conditions(
    tmp_path, capsys
):
    file, out, state = tmp_path / "fractalmar-in64.pth", tmp_path / "run", unguided_state()
    torch.save(
        {"model": state, "args": argparse.Namespace(model="fractalmar_in64", img_size=16)}, file
    )
    with pytest.raises(SystemExit) as left:
        main(
            [
                "convert",
                str(file),
                "--preset",
                "imagenet64_fractalmar",
                "--out",
                str(out),
                *TINY_UNGUIDED,
            ]
        )
    assert left.value.code == 0 and "Weights: model\n" in capsys.readouterr().out
    recipe = parse_recipe(merge(read_recipe(UNGUIDED), read_overrides(TINY_UNGUIDED)))
    model = load_trained(recipe, RunFolder(out)).model

    nested = model.inner
    tokens, mask = (
        normal_numbers(3, 16, 3, dtype=torch.float32),
        torch.arange(48).reshape(3, 16) % 3 > 0,
    )
    z = normal_numbers(3, 5 * 32, seed=2, dtype=torch.float32)
    level = {key.removeprefix("next_fractal.generator."): value for key, value in state.items()}
    conditions = rows_of(z)
    own = rows_of(nested.outer.everywhere(tokens, nested.condition(z, None), mask))[0]
    expected = released_level(level, tokens, list(conditions), mask, heads=2)
    assert (own - expected).abs().max() < 1e-5

    x, _ = model.generate(
        torch.arange(2),
        Noise.of(torch.arange(2)),
        Sampler(guidance=6.5, steps=4, filter_threshold=1e-4),
    )
    assert x.shape == (2, 16, 48) and x.isfinite().all()
