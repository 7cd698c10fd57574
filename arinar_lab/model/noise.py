"""Randomness as a value: a key gives any amount of numbers, always the same ones.

    image seed ─at(ORDER)→ order of the tokens
               └at(TOKENS)─at(n)→ token n ─at(g)→ group g ─uniform / normal→ numbers

A `Noise` holds one 64-bit key for each element of a batch. `at(i)` derives a new key, `uniform(n)`
and `normal(n)` hash the key with a counter (the SplitMix64 finaliser, Steele et al., OOPSLA 2014).
No generator has a state, so a sample depends on its seed alone: not on its batch, nor on earlier
draws.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
_MULTIPLY_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MULTIPLY_2 = -7723592293110705685  # 0x94D049BB133111EB
_CHILD, _DRAW = 0x632BE59BD9B4E019, 0x1D8E4E27C47D124F  # keep derived keys and drawn numbers apart


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLY_1
    x = (x ^ _shift(x, 27)) * _MULTIPLY_2
    return x ^ _shift(x, 31)


class Stream(IntEnum):
    """Names of derived noise. Two names share a number only below different keys."""

    # below the key of a data item, or of one draw of it
    CODEC = 0  # dequantisation, or the draw from a posterior
    MODEL = 1
    VALIDATION_LOSS = 2
    FIRST_DRAW = 0  # of several numbered ones

    # below MODEL, and in a nested model below the key of a token
    ORDER = 0  # of the tokens; below it ORDER again in training, and MASKED_SHARE
    TOKENS = 1
    LABELS = 2  # dropout of labels in training
    GUIDE = 2  # the guiding pixel of a nested model
    MASKED_SHARE = 2

    # below the key of a number that is drawn, or of a term of a training loss
    CHOICE = 0  # a component or a bin
    PLACE = 1  # in that component or bin
    TIME = 0  # of a flow or a diffusion
    START = 1  # of a flow; of a diffusion the noise that is added

    # below the key of an epoch
    MIRRORED = 1

    # below the key of an item of synthetic data
    LABEL = 0
    ITEM = 1


@dataclass(frozen=True)
class Noise:
    """Keyed noise for a batch of shape [*].

    Arguments:
        key: int64 keys, [*].
    """

    key: Tensor

    @classmethod
    def of(cls, seeds: Tensor, stream: str = "") -> Noise:
        """Noise of integer seeds [*], independent for different `stream` names."""
        return cls(_mix(_mix(seeds.long() * _GOLDEN + zlib.crc32(stream.encode())) + _CHILD))

    def at(self, i: int | Tensor) -> Noise:
        """Noise derived by a `Stream` or by a number of a step, token or image (`fold_in` of JAX).

        An integer keeps the shape [*]; a tensor [*, m] or [*] gives noise of its shape.
        """
        i = torch.as_tensor(i)  # its arithmetic wraps at 64 bits; Python's does not
        key = self.key.reshape(self.key.shape + (1,) * (i.dim() - self.key.dim()))
        return Noise(_mix((key ^ _CHILD) + (i + 1) * _GOLDEN))

    def uniform(self, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """n numbers from the open interval (0, 1) for each key: [*, n]."""
        counter = torch.arange(1, n + 1, device=self.key.device) * _GOLDEN
        words = _mix(_mix(self.key.unsqueeze(-1) ^ _DRAW) + counter)
        bits = _shift(words, 12)  # 52 bits, so that (bits + 1/2)/2^52 < 1 exactly
        return ((bits.double() + 0.5) * 2.0**-52).to(dtype)

    def normal(self, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """n standard normal numbers for each key: [*, n]."""
        return torch.special.ndtri(self.uniform(n)).to(dtype)

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 … n-1 for each key: [*, n]."""
        return self.uniform(n).argsort(-1)

    def repeat(self, times: int) -> Noise:
        """The noise repeated `times` times along the first axis."""
        return Noise(self.key.repeat(times, *(1,) * (self.key.dim() - 1)))


def training_noise(seed: int, step: int, index: Tensor) -> Noise:
    """The noise of each image [B] of a training step; CODEC and MODEL are below it."""
    return Noise.of(torch.full_like(index, seed), "train").at(step).at(index)


@dataclass(frozen=True)
class FixedNoise(Noise):
    """Noise that returns prescribed numbers, to repeat the sampling of other code.

    `at(i).normal(n)` is the first n of values[i], and further `at` change nothing; `uniform` is the
    normal CDF of `normal`.

    Arguments:
        key: int64, [*]; only its shape is used.
        values: [T, *, n], or [*, n] behind `at`.
    """

    values: Tensor

    def at(self, i: int | Tensor) -> FixedNoise:
        inside = self.values.dim() == self.key.dim() + 1
        return self if inside else FixedNoise(self.key, self.values[i])

    def uniform(self, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.special.ndtr(self.normal(n, torch.float64)).to(dtype)

    def normal(self, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.values[..., :n].to(dtype)
