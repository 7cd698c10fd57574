"""Rows from papers: numbers that others measured, each with its protocol.

    references:
      - {name: GIVT, bits/dim: 3.1, protocol: 50k images, steps: 500 epochs,
         hardware: 16 TPUv4, source: arXiv 2312.02116}
      - scikit-learn    (the same as `references: true`: density estimators on our own data)

Metrics are named as ours, by name (`val/bits_per_dim`) or by the table's heading (`bits/dim`). Such
a row is marked as not ours, its protocol stands in the notes, and it is no part of any interval,
test, figure or ranking.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..metrics import COLUMNS

METRIC_BY_KEY: dict[str, str] = {}
"""Heading or name of a metric, as a row may have it → its name."""
for _metric, _column in COLUMNS.items():
    METRIC_BY_KEY |= {_column.heading: _metric, _metric: _metric}


@dataclass(frozen=True)
class PaperRow:
    """A row of a table that is not ours.

    Arguments:
        name: The model's name, which no arm has.
        protocol: How the numbers were measured.
        source: Where the numbers are published.
        values: Metric → number; in a file each metric is a key of the row, and at least one is set.
        steps: Length of the training, a number or words; unstated by default.
        hardware: Hardware of the training; unstated by default.
        seeds: The number of trainings whose mean the numbers are; unstated by default. A row of
            one or of an unstated number carries a caution where it lies near the baseline.

    Raises:
        ValueError: if there is no number, its origin is empty, or seeds are fewer than one.
    """

    name: str
    protocol: str
    source: str
    values: dict[str, float] = field(metadata={"gathered": METRIC_BY_KEY})
    steps: str | int | None = None
    hardware: str | None = None
    seeds: int | None = None

    def __post_init__(self) -> None:
        for key in ("name", "protocol", "source"):
            if not getattr(self, key):
                raise ValueError(
                    f"{key}: is empty; a number that is not ours says name, protocol, source"
                )

        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds: {self.seeds} is below 1")
        if not self.values:
            raise ValueError(f"name: {self.name} has no number of a metric of ours, as bits/dim is")
        by_metric = {METRIC_BY_KEY[name]: value for name, value in self.values.items()}
        object.__setattr__(self, "values", by_metric)

    @property
    def note(self) -> str:
        """The origin of the row, in a line."""
        steps = self.steps or "unstated steps"
        hardware = self.hardware or "unstated hardware"
        origin = f"{self.name} (not ours; {self.source}): {self.protocol}"
        return f"{origin}; trained for {steps} on {hardware}."
