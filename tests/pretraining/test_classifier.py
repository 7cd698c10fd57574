"""The classifiers of distances: their accuracy, and their training."""

from dataclasses import replace

import pytest
import torch
from command import arinar
from safetensors.torch import load_file

from arinar_lab.data.fashion import Fashion, halved
from arinar_lab.data.sources import Digits
from arinar_lab.model.classifiers import CLASSIFIERS, classify, load_classifier
from arinar_lab.pretraining import classifier
from arinar_lab.pretraining.classifier import TRAININGS, retrain_classifier


@pytest.mark.parametrize(
    ("name", "source", "least"), [("digits", Digits, 0.97), ("fashion", Fashion, 0.88)]
)
def test_a_shipped_classifier_knows_images_it_was_not_trained_on(name, source, least):
    images, labels = source().held_out
    features, logits = classify(load_classifier(name), images)
    assert features.shape == (len(images), 64)
    assert (logits.argmax(-1) == labels).float().mean() > least


def test_fashion_at_half_the_size_is_known_too():
    images, labels = Fashion().held_out
    _, logits = classify(load_classifier("fashion"), halved(images))
    assert (logits.argmax(-1) == labels).float().mean() > 0.84


def test_every_classifier_can_be_retrained():
    assert TRAININGS.keys() == CLASSIFIERS.keys()


@pytest.mark.parametrize("name", list(TRAININGS))
def test_a_training_of_some_steps_learns_and_tells_its_accuracy(name, tmp_path, monkeypatch):
    training = TRAININGS[name]
    source = {"digits": Digits, "fashion": Fashion}[name]
    monkeypatch.setitem(TRAININGS, name, replace(training, source=source, steps=60))
    line = retrain_classifier(name, tmp_path)
    path = tmp_path / f"{name}_classifier.safetensors"
    assert line.startswith(f"{path}: ") and "accuracy on " in line
    accuracies = [float(word) for word in line.split() if word[:2] in ("0.", "1.")][1:]
    assert len(accuracies) == training.sizes and min(accuracies) > 0.4
    state = load_file(path)
    assert state.keys() == load_classifier(name).state_dict().keys()


def test_without_its_images_a_retraining_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("arinar_lab.data.fashion.FULL_FOLDERS", (tmp_path,))
    assert arinar("retrain", "fashion") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "make fashion fetches them" in line


def test_images_are_shifted_by_at_most_some_pixels():
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[..., 4, 4] = 1
    places = set()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(200):
            shifted = classifier._shifted(image)
            places.add(tuple(shifted.nonzero()[0, 2:].tolist()))
    assert places == {(i, j) for i in (3, 4, 5) for j in (3, 4, 5)}
