"""The fenced blocks of the documentation's pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {
    "needs a GPU",
    "needs ImageNet",
    "needs several machines",
    "needs a PostgreSQL server",
    "needs the network",
    "needs published weights",
    "sketch",
}
"""Titles of blocks that are not run here."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language, title and text."""

    page: str
    language: str
    title: str
    text: str

    @property
    def is_run(self) -> bool:
        return self.title not in NEEDS

    @property
    def commands(self) -> list[str]:
        """Lines of a shell block, those that end in a backslash joined, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def pages() -> list[Path]:
    """The README and every page below `docs/`."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    name = str(page.relative_to(ROOT))
    result = FENCE.findall(page.read_text(encoding="utf-8"))
    return [Block(name, language, title, text) for language, title, text in result]
