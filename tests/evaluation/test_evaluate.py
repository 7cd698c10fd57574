"""Evaluation: the report, what its numbers are, and how memory, operations and
distances are counted.
"""

import math
import os
import shutil
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import finished, tiny

from arinar_lab.config.build import build
from arinar_lab.data.latent_cache import held_out_fingerprint
from arinar_lab.data.sources import Digits
from arinar_lab.errors import ConfigError
from arinar_lab.evaluation import evaluate
from arinar_lab.evaluation.classifier_distance import classifier_distances
from arinar_lab.evaluation.evaluate import (
    PeakMemory,
    count_flops,
    evaluate_run,
    generate_images,
    likelihood,
    load_trained,
    measure_speed,
    peak_memory,
    save_grid,
)
from arinar_lab.files.locks import SPEED_LOCK
from arinar_lab.model import packed_linear
from arinar_lab.runs.folder import RunFolder, read_sealed, write_sealed
from arinar_lab.runs.history import read_metrics
from arinar_lab.training.module import BitsPerDim
from arinar_lab.training.train import train

pytestmark = pytest.mark.usefixtures("alone")

METRICS = {
    "val/bits_per_dim",
    "val/bits_per_dim_median",
    "val/bits_per_dim_insured",
    "val/bits_per_dim_at_level",
    "quality/fd_digits",
    "quality/fd_digits_floor",
    "quality/kid_digits",
    "quality/kid_digits_floor",
    "quality/sliced_digits",
    "quality/sliced_digits_floor",
    "quality/precision",
    "quality/precision_floor",
    "quality/recall",
    "quality/recall_floor",
    "quality/density",
    "quality/density_floor",
    "quality/coverage",
    "quality/coverage_floor",
    "quality/truncated_share",
    "quality/nearest_train_ratio",
    "train/bits_per_dim",
    "train/gap_bits_per_dim",
    "components/effective",
    "components/dead",
    "cost/parameters",
    "time/train_seconds",
    "time/evaluate_seconds",
}
SPEEDS = {
    "speed/images_per_second",
    "speed/latency_ms_b1",
    "cost/peak_memory_gb",
    "cost/gflops_per_image",
}
MASKED = "outer={kind: masked, width: 16, encoder_depth: 1, decoder_depth: 1, heads: 2, steps: 8}"


@pytest.fixture(scope="module")
def digits():
    return Digits()


@pytest.fixture(scope="module")
def report(one_run):
    """The finished run's report, as it lies on disk."""
    return one_run.report(tiny())


def trained(*overrides):
    """A trained run of a few steps and its recipe."""
    recipe = tiny("training.steps=2", *overrides)
    folder = RunFolder(Path("run"))
    folder.path.mkdir()
    train(recipe, folder)
    return recipe, folder


# The report


def test_the_report_holds_every_metric_with_a_unit(report):
    assert set(report["metrics"]) == METRICS | SPEEDS
    assert set(report["units"]) == set(report["metrics"]) and all(report["units"].values())
    assert all(math.isfinite(value) for value in report["metrics"].values())


def test_metrics_lie_where_they_can(report):
    m = report["metrics"]
    assert 2 < m["val/bits_per_dim"] < 12 and 2 < m["val/bits_per_dim_at_level"] < 12
    assert m["quality/fd_digits"] > 10 * m["quality/fd_digits_floor"] > 0
    assert m["quality/sliced_digits"] > 10 * m["quality/sliced_digits_floor"] > 0
    assert 0 <= m["quality/precision"] <= 1 and 0 <= m["quality/recall"] <= 1
    assert m["quality/coverage"] < m["quality/coverage_floor"] < 1
    assert 0.8 < m["quality/density_floor"] < 1.2
    assert m["quality/truncated_share"] == 0


def test_the_report_says_what_its_numbers_are(report):
    likelihood = {
        "kind": "exact",
        "unit": "pixel",
        "steps": None,
        "images": 360,
        "draws": 1,
        "resolution": None,
    }
    held_out = held_out_fingerprint(Digits())[:8]
    assert report["likelihood"] == likelihood | {"precision": "float32", "held_out": held_out}
    quality = {
        "images": 100,
        "reference": 1437,
        "part": "training",
        "floor_images": 100,
        "kid": "over all images",
        "precision": "float32",
    }

    assert report["quality"] == quality
    assert (report["steps"], report["seed"]) == (6, 0)
    assert report["training_signature"] == tiny().training_signature
    assert report["evaluation_signature"] == tiny().evaluation_signature
    assert {"torch", "python", "device", "cpus"} <= set(report["environment"])


def test_what_is_of_images_has_a_half_width_over_them(report):
    without_noise = {
        "val/bits_per_dim_median",
        "components/dead",
        "cost/parameters",
        "time/train_seconds",
        "time/evaluate_seconds",
    }
    noise, m = report["noise"], report["metrics"]
    assert set(noise) == METRICS - without_noise and noise["quality/truncated_share"] == 0
    assert 0.001 < noise["val/bits_per_dim"] < 0.2 * m["val/bits_per_dim"]
    assert all(
        0 < noise[f"quality/{name}"] < m[f"quality/{name}"]
        for name in ("fd_digits", "fd_digits_floor")
    )


def test_the_report_on_disk_is_the_one_returned(a_run):
    shutil.rmtree(a_run.path / "evaluations")
    returned = evaluate_run(tiny(), a_run)
    assert set(returned["metrics"]) == METRICS
    assert read_sealed(a_run.evaluation(tiny()) / "report.json") == returned


def test_parameters_are_counted(report, one_run):
    model = load_trained(tiny(), one_run).model
    assert report["metrics"]["cost/parameters"] == sum(p.numel() for p in model.parameters())


def test_an_evaluation_is_done_once(a_run, monkeypatch):
    monkeypatch.setattr(evaluate, "load_trained", lambda *_: pytest.fail("evaluated again"))
    before = (a_run.evaluation(tiny()) / "report.json").stat().st_mtime_ns
    evaluate_run(tiny(), a_run)
    measure_speed(tiny(), a_run)
    assert (a_run.evaluation(tiny()) / "report.json").stat().st_mtime_ns == before


def test_another_sampler_is_another_folder_of_the_same_run(a_run):
    other = tiny("sampler.temperature=0.8")
    evaluate_run(other, a_run)
    folders = {path.name for path in (a_run.path / "evaluations").iterdir()}
    assert folders == {tiny().evaluation_signature, other.evaluation_signature}
    a, b = a_run.report(tiny())["metrics"], a_run.report(other)["metrics"]
    assert a["val/bits_per_dim"] == b["val/bits_per_dim"]
    assert a["quality/fd_digits"] != b["quality/fd_digits"]


def test_a_masked_model_reports_a_bound_with_its_steps():
    recipe, folder = trained(MASKED)
    likelihood_report = evaluate_run(recipe, folder)["likelihood"]
    assert (likelihood_report["kind"], likelihood_report["steps"]) == ("bound", 8)


def test_the_samplers_steps_are_those_of_the_bound():
    recipe, folder = trained(MASKED)
    four = tiny("training.steps=2", MASKED, "sampler.steps=4")
    a, b = evaluate_run(recipe, folder), evaluate_run(four, folder)
    assert b["likelihood"]["steps"] == 4
    assert a["metrics"]["val/bits_per_dim"] != b["metrics"]["val/bits_per_dim"]


def test_latents_are_reported_as_latents_without_a_grey_level():
    recipe, folder = trained("codec={kind: vae}")
    report = evaluate_run(recipe, folder)
    assert report["likelihood"]["unit"] == "latent"
    assert (
        "val/bits_per_dim_at_level" not in report["metrics"]
        and "quality/fd_digits" in report["metrics"]
    )
    codec = report["metrics"]["quality/fd_digits_codec"]
    assert 0 < codec < report["metrics"]["quality/fd_digits_floor"]


def test_known_data_report_the_gap_to_the_truth_and_no_pictures():
    data = "data={kind: synthetic, train: 200, held_out: 50}"
    recipe, folder = trained(data, "codec=tokens", "training.steps=6")
    report = evaluate_run(recipe, folder)
    m = report["metrics"]
    assert m["val/gap_bits_per_dim"] > 5 * m["val/gap_standard_error"] > 0
    assert not any(name.startswith("quality/") for name in m)
    assert not (folder.evaluation(recipe) / "samples").exists()
    assert set(measure_speed(recipe, folder)["metrics"]) >= SPEEDS


# Likelihood


def test_the_bits_of_every_image_lie_beside_the_report(report, one_run):
    kept = one_run.image_bits(tiny(), report)
    m = report["metrics"]
    assert kept["bits"].shape == kept["insured"].shape == (360,)
    assert kept["bits"].mean() == pytest.approx(m["val/bits_per_dim"], rel=1e-12)
    assert np.median(kept["bits"]) == pytest.approx(m["val/bits_per_dim_median"], rel=1e-12)
    assert kept["insured"].mean() == pytest.approx(m["val/bits_per_dim_insured"], rel=1e-12)
    assert kept["insured"].max() < kept["bits"].max() + 0.0015


def test_bits_of_images_that_were_edited_are_refused_and_old_reports_have_none(a_run):
    report = a_run.report(tiny())
    path = a_run.evaluation(tiny()) / "bits.npz"
    np.savez(path, bits=np.zeros(360), insured=np.zeros(360))
    with pytest.raises(ConfigError, match=r"bits\.npz: damaged or edited"):
        a_run.image_bits(tiny(), report)

    del report["image_bits"]
    assert a_run.image_bits(tiny(), report) == {}
    path.unlink()
    assert a_run.image_bits(tiny(), report) == {}
    with pytest.raises(ConfigError, match=r"bits\.npz: missing; delete report\.json beside it"):
        a_run.image_bits(tiny(), {**report, "image_bits": "abc"})


def test_a_model_without_a_likelihood_keeps_no_bits():
    recipe = tiny("inner={kind: feature_ar, width: 8, heads: 2, group: 4, head: {kind: energy}}")
    experiment = build(recipe)
    assert evaluate.metrics_by_image(recipe, experiment) == {}
    assert evaluate.mean_metrics({}) == {} and experiment.model.likelihood == "none"


def test_likelihood_is_that_of_the_model_averaged_over_draws(one_run):
    recipe, experiment = tiny("evaluation.draws=2"), load_trained(tiny(), one_run)
    one, two = likelihood(tiny(), experiment), likelihood(recipe, experiment)
    assert one["val/bits_per_dim"] != two["val/bits_per_dim"]
    assert one["val/bits_per_dim"] == pytest.approx(two["val/bits_per_dim"], abs=0.05)


def test_the_first_draw_is_the_one_of_validation(one_run):
    from arinar_lab.runs.history import read_metrics

    last = read_metrics(one_run.path / "metrics.csv")[-1]
    assert last[1] == "val/bits_per_dim"
    assert one_run.report(tiny())["metrics"]["val/bits_per_dim"] == pytest.approx(last[2], rel=1e-6)


def test_draws_of_one_image_are_no_images_of_their_own():
    """Tokens without dequantisation, in a fixed order: a second draw is the first again,
    and narrows nothing.
    """
    from arinar_lab.config.build import build

    data = ["data={kind: synthetic, train: 50, held_out: 40}", "codec=tokens"]
    experiment = build(tiny(*data))
    one, two = (
        likelihood(tiny(*data, f"evaluation.draws={draws}"), experiment) for draws in (1, 2)
    )
    assert one == pytest.approx(two, rel=1e-6) and one["val/gap_standard_error"] > 0


def test_the_half_width_of_bits_per_dim_is_over_images(one_run):
    recipe = tiny("evaluation.draws=2")
    bits = evaluate.metrics_by_image(recipe, load_trained(recipe, one_run))["val/bits_per_dim"]
    assert bits.shape == (360,) and bits.std() > 0
    assert (
        bits.mean().item() == likelihood(recipe, load_trained(recipe, one_run))["val/bits_per_dim"]
    )


def test_likelihood_does_not_depend_on_the_batch(one_run):
    experiment = load_trained(tiny(), one_run)
    a, b = (likelihood(tiny(f"evaluation.batch={batch}"), experiment) for batch in (50, 360))
    assert a == pytest.approx(b, rel=1e-5)


def test_bits_per_dim_is_the_mean_over_items_not_batches():
    metric = BitsPerDim(dims=4)
    metric.update(torch.tensor([-4 * math.log(2)]))
    metric.update(torch.tensor([-8 * math.log(2), -8 * math.log(2)]))
    assert metric.compute().item() == pytest.approx((1 + 2 + 2) / 3)


# Samples


def sample(experiment, recipe, count, batch):
    y, seeds = torch.arange(count) % 10, torch.arange(count)
    return torch.cat(
        [
            generate_images(recipe, experiment, y[i], seeds[i])[0]
            for i in torch.arange(count).split(batch)
        ]
    )


@pytest.mark.parametrize("override", ["sampler.guidance=1", "sampler.guidance=2"])
def test_an_image_depends_on_its_seed_and_not_on_its_batch(one_run, override):
    recipe, experiment = tiny(override), load_trained(tiny(), one_run)
    a, b = sample(experiment, recipe, 40, 7), sample(experiment, recipe, 40, 40)
    assert (a == b).float().mean() > 0.99
    assert len(a.flatten(1).unique(dim=0)) == 40


def test_samples_on_disk_do_not_depend_on_the_batch(a_run):
    other = tiny("evaluation.batch=7")
    evaluate_run(other, a_run)
    a, b = (np.load(a_run.evaluation(r) / "samples" / "images.npy") for r in (tiny(), other))
    assert a.shape == (100, 1, 8, 8) and a.dtype == np.uint8
    assert (a == b).mean() > 0.99


def test_two_images_of_one_seed_and_label_are_the_same(one_run):
    experiment = load_trained(tiny(), one_run)
    y, seeds = torch.zeros(2, dtype=torch.long), torch.tensor([5, 5])
    same = generate_images(tiny(), experiment, y, seeds)[0]
    assert torch.equal(same[0], same[1])


def test_guidance_changes_samples(one_run):
    experiment = load_trained(tiny(), one_run)
    plain, guided = (
        sample(experiment, tiny(o), 10, 10) for o in ("sampler.guidance=1", "sampler.guidance=4")
    )
    assert not torch.equal(plain, guided)


def test_samples_are_drawn_with_the_labels_of_the_training_images(one_run, digits, monkeypatch):
    recorded = []
    real = evaluate.generate_images

    def spy(recipe, experiment, y, seeds):
        recorded.append((y.tolist(), seeds.tolist()))
        return real(recipe, experiment, y, seeds)

    monkeypatch.setattr(evaluate, "generate_images", spy)
    recipe = tiny("evaluation.images=20", "evaluation.batch=15", "evaluation.seed=3")
    evaluate.evaluate_samples(
        recipe, load_trained(recipe, one_run), Path("samples"), RunFolder(Path("run"))
    )
    labels = digits.train[1][:20].tolist()
    assert recorded == [(labels[:15], list(range(3, 18))), (labels[15:], list(range(18, 23)))]
    with np.load("samples/real.npz") as content:  # which figures show beside them
        assert content["labels"].tolist() == labels
        assert np.array_equal(content["images"], digits.train[0][:20].numpy())


def test_the_grid_has_a_row_for_each_class():
    images = torch.zeros(30, 1, 8, 8, dtype=torch.uint8)
    save_grid(images, torch.arange(30) % 10, 17, 10, Path("grid.png"))
    assert Image.open("grid.png").size == ((3 * 9 + 1) * 4, (10 * 9 + 1) * 4)


def test_a_grid_of_few_images_shows_them_all():
    save_grid(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3), 17, 10, Path("grid.png"))
    assert Image.open("grid.png").size == ((3 * 9 + 1) * 4, (9 + 1) * 4)


# Distances


def test_a_set_is_no_distance_from_itself(digits):
    images = digits.train[0][:300]
    same = classifier_distances(images, images, "digits")
    assert abs(same["fd_digits"]) < 1e-3 and same["precision"] == 1 and same["recall"] == 1
    assert same["sliced_digits"] == 0 and same["coverage"] == 1
    assert same["density"] == pytest.approx(6 / 5)  # a ball holds its centre and 5 neighbours


def test_noise_is_far_from_digits(digits):
    images = digits.train[0][:300]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 17, images.shape, generator=generator, dtype=torch.uint8)
    far = classifier_distances(noise, images, "digits")
    near = classifier_distances(digits.held_out[0], images, "digits")
    assert far["fd_digits"] > 10 * near["fd_digits"] and far["kid_digits"] > 10 * abs(
        near["kid_digits"]
    )
    assert far["sliced_digits"] > 10 * near["sliced_digits"]
    assert far["precision"] < 0.1 < 0.5 < near["precision"]
    assert far["coverage"] < 0.1 < 0.8 < near["coverage"]


@pytest.mark.slow
def test_a_distance_of_as_few_images_as_held_out_ones_stands_beside_that_of_all(a_run):
    result = evaluate_run(tiny("evaluation.images=720"), a_run)
    images = torch.from_numpy(
        np.load(a_run.evaluation(tiny("evaluation.images=720")) / "samples" / "images.npy")
    )
    halves = [classifier_distances(half, Digits().train[0], "digits") for half in images.split(360)]
    for name in ("fd_digits", "sliced_digits", "coverage"):
        mean = (halves[0][name] + halves[1][name]) / 2
        assert result["metrics"][f"quality/{name}_few"] == pytest.approx(mean, rel=1e-6)
        assert result["units"][f"quality/{name}_few"]
    assert result["quality"]["floor_images"] == 360


def test_few_kinds_of_good_images_are_precise_and_recall_little(digits):
    images, y = digits.train
    distances_of_set = classifier_distances(
        digits.held_out[0][digits.held_out[1] == 0], images[:600], "digits"
    )
    assert (y[:600] == 0).float().mean() < 0.2
    assert distances_of_set["precision"] > 0.6 > 0.4 > distances_of_set["recall"]


# Speed and cost


def test_speed_is_measured_and_told(report):
    m, measured = report["metrics"], report["speed"]
    assert m["speed/images_per_second"] > 0 and m["speed/latency_ms_b1"] > 0
    assert (measured["batch"], measured["repeats"], measured["threads"]) == (4, 1, 1)
    assert len(measured["images_per_second"]) == len(measured["latency_ms_b1"]) == 1
    assert measured["device"] and measured["precision"] == "float32"
    assert set(measured["seconds_by_part"]) == {"outer", "inner", "head", "codec"}


def test_speed_is_the_median_of_the_repeats(a_run, monkeypatch):
    seconds = {4: [0.5, 0.1, 0.2], 1: [0.003, 0.001, 0.002]}
    monkeypatch.setattr(
        evaluate, "_time", lambda recipe, experiment, batch, repeats: seconds[batch][:repeats]
    )
    recipe = tiny("evaluation.speed_repeats=3")
    evaluate_run(recipe, a_run)
    report = measure_speed(recipe, a_run)

    assert report["metrics"]["speed/images_per_second"] == pytest.approx(4 / 0.2)
    assert report["metrics"]["speed/latency_ms_b1"] == pytest.approx(2)
    assert report["speed"]["images_per_second"] == pytest.approx([8, 40, 20])


def test_the_first_batch_is_a_warm_up(one_run, monkeypatch):
    calls = []
    monkeypatch.setattr(evaluate, "generate_images", lambda *_: calls.append(_))
    assert len(evaluate._time(tiny(), load_trained(tiny(), one_run), 4, 3)) == 3
    assert len(calls) == 4


def test_peak_memory_counts_a_known_sequence():
    with PeakMemory() as memory:
        a = torch.zeros(1000)  # 4000
        b = a + 1  # 8000
        del a  # 4000
        c = b * 2  # 8000
        c += 1
        d = torch.cat([b, c])  # 16000, the peak
        e = d.view(2, 1000).t()[0]  # no memory of their own
        del b, c, d  # 8000, which e holds
        f = torch.zeros(500)  # 10000
        assert memory.now == 10_000
        del e, f

        assert memory.now == 0

    assert memory.peak == 16_000


def test_peak_memory_counts_only_while_it_is_on():
    before = torch.zeros(1000)
    with PeakMemory() as memory:
        before += 1
    torch.zeros(1000)
    assert memory.peak == 0


def test_peak_memory_grows_with_the_batch_and_holds_the_weights(one_run):
    experiment = load_trained(tiny(), one_run)
    weights = sum(t.nbytes for t in experiment.model.state_dict().values())
    small, large = (peak_memory(tiny(f"evaluation.speed_batch={n}"), experiment) for n in (2, 64))
    assert weights < small < large


def test_flops_are_those_of_the_matrix_products(one_run, report):
    """Of every linear map of the outer model once a token, and of the inner model's on top;
    guidance doubles them.
    """
    experiment, plain = (
        load_trained(tiny(), one_run),
        1e9 * report["metrics"]["cost/gflops_per_image"],
    )
    linear = [m for m in experiment.model.outer.modules() if isinstance(m, torch.nn.Linear)]
    outer = 16 * sum(2 * m.weight.numel() for m in linear)
    assert outer < plain < 20 * outer
    assert count_flops(tiny("sampler.guidance=2"), experiment) == pytest.approx(2 * plain, rel=0.1)


# What is refused


def test_missing_and_damaged_weights_are_refused(a_run):
    other = tiny("sampler.temperature=0.8")
    a_run.weights.write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"final.safetensors: damaged[^\n]*$"):
        evaluate_run(other, a_run)
    a_run.weights.unlink()
    with pytest.raises(ConfigError, match=r"final.safetensors: missing[^\n]*$"):
        evaluate_run(other, a_run)
    assert not a_run.evaluation(other).exists()


def test_a_run_killed_between_its_weights_and_done_is_not_finished(a_run):
    (a_run.path / "DONE").unlink()
    with pytest.raises(ConfigError, match="has not finished training"):
        evaluate_run(tiny("sampler.temperature=0.8"), a_run)


def test_evaluation_is_a_function_of_run_and_recipe(a_run):
    again = RunFolder(Path("again"))
    a = finished(tiny(), again).report(tiny())["metrics"]
    b = a_run.report(tiny())["metrics"]
    assert {k: a[k] for k in METRICS if not k.startswith("time/")} == {
        k: b[k] for k in METRICS if not k.startswith("time/")
    }


# Likelihoods that are not exact


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        ("{kind: diffusion, width: 8, depth: 1, sampling_steps: 4}", "bound"),
        ("{kind: flow, width: 8, depth: 1, steps: 2}", "estimate"),
        ("{kind: energy, width: 8, depth: 1}", "none"),
    ],
)
def test_a_report_says_what_its_likelihood_is(head, kind):
    recipe, folder = trained(f"inner={head}", "sampler.guidance=1.5", "sampler.temperature=0.9")
    report = evaluate_run(recipe, folder)
    assert report["likelihood"]["kind"] == kind
    metrics = report["metrics"]
    assert ("val/bits_per_dim" in metrics) == (kind != "none")
    assert ("val/bits_per_dim_error" in metrics) == (kind == "estimate")
    assert "val/bits_per_dim_at_level" not in metrics and metrics["quality/fd_digits"] > 0

    logged = {name for _, name, _ in read_metrics(folder.path / "metrics.csv")}
    assert "val/loss" in logged and ("val/bits_per_dim" in logged) == (kind != "none")


def test_the_error_of_an_estimate_is_what_doubled_steps_change():
    recipe, folder = trained("inner={kind: flow, width: 8, depth: 1, steps: 2}")
    metrics = likelihood(recipe, load_trained(recipe, folder))
    twice = tiny("training.steps=2", "inner={kind: flow, width: 8, depth: 1, steps: 4}")
    finer = likelihood(twice, load_trained(twice, folder))
    difference = abs(finer["val/bits_per_dim"] - metrics["val/bits_per_dim"])
    assert (
        metrics["val/bits_per_dim_error"] == pytest.approx(difference, abs=1e-7) and difference > 0
    )


def test_a_stated_resolution_is_the_probability_of_an_interval(monkeypatch, tmp_path):
    """As Δ shrinks, -log2 P(x ± Δ/2) comes to bits/dim - log2 Δ; of latents and of
    pixels, in their raw units.
    """
    from arinar_lab.config.build import build
    from arinar_lab.evaluation.evaluate import likelihood
    from arinar_lab.model.noise import Noise

    for base in ([], ["codec={kind: vae, normalise: channel}"]):
        experiment = build(tiny(*base))
        experiment.codec.fit(
            experiment.source.train[0], Noise.of(torch.arange(len(experiment.source.train[0])))
        )
        for delta in (1e-3, 1e-7):
            result = likelihood(tiny(*base, f"evaluation.resolution={delta}"), experiment)
            fine = result["val/bits_per_dim"] - math.log2(delta)
            assert result["val/bits_per_dim_at_resolution"] == pytest.approx(fine, abs=1e-3)
        coarse = likelihood(tiny(*base, "evaluation.resolution=1e6"), experiment)[
            "val/bits_per_dim_at_resolution"
        ]
        assert coarse == pytest.approx(0, abs=1e-6)
    whitened = build(tiny("codec={kind: vae, normalise: whiten}"))
    assert "val/bits_per_dim_at_resolution" not in likelihood(
        tiny("evaluation.resolution=0.1"), whitened
    )


def test_packed_weights_are_counted(monkeypatch):
    """Operations are those without packing, and memory is what packed weights take more
    (`model/packed_linear.py`).
    """
    recipe = tiny("outer.width=128", "outer.heads=4", "inner.width=128", "evaluation.speed_batch=1")
    experiment = build(recipe)
    with_packing = count_flops(recipe, experiment), peak_memory(recipe, experiment)
    monkeypatch.setattr(packed_linear, "_available", lambda: False)
    without = count_flops(recipe, experiment), peak_memory(recipe, experiment)
    maps = [
        m
        for m in experiment.model.modules()
        if isinstance(m, packed_linear.Packable) and packed_linear._fits(m)
    ]
    weights = sum(m.weight.nbytes for m in maps)

    assert weights > 0 and with_packing[0] == without[0]
    assert with_packing[1] - without[1] == pytest.approx(weights, rel=0.2)


def test_all_users_of_a_machine_can_take_the_lock_of_the_speed_pass(a_run, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(evaluate, "load_trained", lambda *_: pytest.fail("held"))
    report = a_run.report(tiny())
    del report["metrics"]["speed/images_per_second"]
    write_sealed(a_run.evaluation(tiny()) / "report.json", report)
    before = os.umask(0o077)
    try:
        with pytest.raises(pytest.fail.Exception, match="held"):
            measure_speed(tiny(), a_run)
    finally:
        os.umask(before)

    assert (tmp_path / SPEED_LOCK).stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize(
    ("override", "recorded", "is_new"),
    [
        ("machine.threads=2", {}, True),
        ("machine.threads=0", {}, False),
        ("machine.compile=true", {"compile": False}, True),
        ("machine.accelerator=cpu", {"device_type": "cuda"}, True),
        ("machine.accelerator=auto", {"device_type": "cuda"}, False),
    ],
)
def test_a_speed_is_of_the_machine_settings_that_are_asked_for(
    a_run, monkeypatch, capsys, override, recorded, is_new
):
    recipe = tiny(override)

    def with_other_speed(report):
        metrics = report["metrics"] | {"speed/images_per_second": -1.0, "quality/other": 7.0}
        return report | {"speed": report["speed"] | recorded, "metrics": metrics}

    a_run.update_report(recipe, with_other_speed)
    monkeypatch.setattr(
        evaluate, "load_trained", lambda *_: SimpleNamespace(device=torch.device("cpu"))
    )
    monkeypatch.setattr(evaluate, "_time", lambda *_: [0.5])
    for name in ("seconds_by_phase", "count_flops", "peak_memory", "generation_dtype"):
        monkeypatch.setattr(evaluate, name, lambda *_: 1)
    report = measure_speed(recipe, a_run)
    assert (report["metrics"]["speed/images_per_second"] != -1.0) is is_new
    assert report["metrics"]["quality/other"] == 7.0 and report == a_run.report(recipe)
    assert (
        "measured under other settings of machine; measured anew" in capsys.readouterr().out
    ) is is_new
    if is_new:
        assert report["speed"]["threads"] == recipe.machine.threads
        assert measure_speed(recipe, a_run) == report


def test_a_distance_that_is_measured_beside_the_speed_stays(a_run, monkeypatch):
    """Who adds to a report reads it, changes it and writes it under a lock."""
    recipe = tiny("machine.threads=2")

    def add_distance(*_):
        a_run.update_report(
            recipe, lambda report: report | {"metrics": report["metrics"] | {"quality/fid": 3.0}}
        )
        return [0.5]

    monkeypatch.setattr(evaluate, "_time", add_distance)
    for name in ("seconds_by_phase", "count_flops", "peak_memory"):
        monkeypatch.setattr(evaluate, name, lambda *_: 1)
    measure_speed(recipe, a_run)
    assert a_run.report(recipe)["metrics"]["quality/fid"] == 3.0


def test_two_that_add_to_a_report_at_once_lose_nothing(a_run):
    def add(name):
        for i in range(20):
            new = {f"{name}/{i}": 1.0}
            a_run.update_report(
                recipe, lambda report, new=new: report | {"metrics": report["metrics"] | new}
            )

    recipe = tiny()
    threads = [threading.Thread(target=add, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"{name}/{i}" for name in "ab" for i in range(20)} <= set(
        a_run.report(tiny())["metrics"]
    )


def test_an_edited_report_is_no_report_and_made_again(a_run, capfd):
    path = a_run.evaluation(tiny()) / "report.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert a_run.report(tiny()) == {}
    assert f"{path}: damaged or edited" in capfd.readouterr().err
    assert evaluate_run(tiny(), a_run)["seed"] == 0
