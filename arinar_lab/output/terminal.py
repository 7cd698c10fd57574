"""The terminal by rich. Text is printed literally: neither rich's markup nor escapes act."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TextColumn
from rich.segment import Segment
from rich.text import Text

from .text import printable


class Terminal(Console):
    """A console that takes strings literally. Style is given by `style=` or a `Text`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "highlight": False, "emoji": False, **options})

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render to segments without control characters in their text; rich's own are separate."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def failure_line(text: str) -> Text:
    """Return a line on a failure that begins with `failed` in red."""
    return Text.assemble(("failed", "red"), f" {text}")


def description_column() -> TextColumn:
    """Return the column of a progress bar that names the current work."""
    return TextColumn("{task.description}", markup=False)
