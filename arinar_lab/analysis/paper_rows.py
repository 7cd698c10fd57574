"""Rows from papers beside ours: numbers that somebody else measured, with the protocol
under which they did.

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

METRICS = {name: column.metric for column in COLUMNS for name in (column.heading, column.metric)}
"""What a row may call a metric → the metric."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a table that is not ours.

    Arguments:
        name: the model, which no arm has as its name.
        protocol: how the numbers were measured.
        source: where they are published.
        values: metric → number; in a file each metric is a key of the row, and
            there is at least one.
        steps: length of the training; unstated by default.
        hardware: what the model was trained on; unstated by default.

    Raises:
        ValueError: if there is no number, or its origin is empty.
    """

    name: str
    protocol: str
    source: str
    values: dict[str, float] = field(metadata={"gathered": METRICS})
    steps: str | int | None = None
    hardware: str | None = None

    def __post_init__(self) -> None:
        for key in ("name", "protocol", "source"):
            if not getattr(self, key):
                raise ValueError(
                    f"{key}: is empty; a number that is not ours says name, protocol, source"
                )

        if not self.values:
            raise ValueError(f"name: {self.name} has no number of a metric of ours, as bits/dim is")
        by_metric = {METRICS[name]: value for name, value in self.values.items()}
        object.__setattr__(self, "values", by_metric)

    @property
    def note(self) -> str:
        """What stands behind the row, in a line."""
        training = (
            f"trained for {self.steps or 'unstated steps'} on "
            f"{self.hardware or 'unstated hardware'}"
        )
        return f"{self.name} (not ours; {self.source}): {self.protocol}; {training}."
