"""A feature extractor without weights to download: sixteen fixed random features, four of
them, and ten logits.
"""

import torch
import torch_fidelity
from torch import nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from arinar_lab.quality.extractors import WEIGHTS, Extractor


class Tiny(FeatureExtractorBase):
    """Convolution, mean over the image: the features; a linear map of them: the logits."""

    def __init__(self, name, features_list, **ignored):
        super().__init__(name, features_list)
        generator = torch.Generator().manual_seed(0)
        self.look, self.logits = nn.Conv2d(3, 16, 5, 2), nn.Linear(16, 10)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=generator) * 0.3

    @staticmethod
    def get_provided_features_list():
        return "features", "few", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled():
        return False

    @staticmethod
    def get_dummy_input_for_compile():
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

    def forward(self, images):
        features = self.look(images.float() / 127.5 - 1).relu().mean((2, 3))
        outputs = {"features": features, "few": features[:, :4], "logits": self.logits(features)}
        return tuple(outputs[name] for name in self.features_list)


torch_fidelity.register_feature_extractor("tiny", Tiny)
WEIGHTS["tiny"] = None
TINY = Extractor("tiny")
FEW = Extractor("tiny", "few")
