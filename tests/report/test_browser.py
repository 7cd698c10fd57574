"""The page of a report in a browser: it opens from disk, asks for nothing, shows every picture,
and fits its window.
"""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from PIL import Image
from reports import analysed, study, whole_and_full

from arinar_lab.report.figures import DPI, FIGURES
from arinar_lab.report.report import page, write_report
from arinar_lab.report.style import COLUMN

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS = (1280, 400)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--window-size=1400,2000",
    "--virtual-time-budget=20000",
    "--dump-dom",
)
ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
PROBE = """<!doctype html><title>probe</title><body>
%s<pre id="found"></pre>
<script>
const clipped = e => e.closest(".wide") && !e.matches(".wide");  // what scrolls by itself
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, width = page.documentElement.clientWidth;
    const folded = page.querySelectorAll("details:not([open])").length;
    page.querySelectorAll("details").forEach(details => { details.open = true; });
    const ends = [...page.querySelectorAll("#differences > .wide td:last-child")]
      .map(e => e.getBoundingClientRect().right);
    const verdict = page.querySelector("#verdict .wide");
    return {
      width, folded, sideways: verdict ? verdict.scrollWidth - verdict.clientWidth : 0,
      verdicts: ends.length, end: Math.max(...ends),
      scroll: page.documentElement.scrollWidth,
      images: [...page.images].map(i => ({
        loaded: i.complete && i.naturalWidth > 0, width: i.getBoundingClientRect().width,
      })),
      beyond: [...page.body.querySelectorAll("*")]
        .filter(e => !clipped(e) && e.getBoundingClientRect().right > width + 1)
        .map(e => e.outerHTML.slice(0, 80)),
    };
  });
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script>"""


pytestmark = [
    pytest.mark.usefixtures("alone"),
    pytest.mark.skipif(
        BROWSER is None, reason="no chromium here: on Debian, apt-get install chromium"
    ),
]


def results():
    """Of a study with long names that a line cannot be broken in."""
    names = [
        "a",
        "an arm with a long name,that=1,goes_on_and_on_without_a_single_space_in_it=2",
        "c",
    ]
    reports = dict(
        zip(
            [(name, seed) for name in names for seed in (0, 1, 2)],
            whole_and_full().values(),
            strict=True,
        )
    )
    arms = {name: {"inner.head.components": 1 + i} for i, name in enumerate(names)}

    return analysed(study(reports, full=True, axes=None, arms=arms))


def undrawn(results):
    """The page with a line as wide as a column for each figure."""
    Image.new("RGB", (round(COLUMN * DPI), 1)).save("line.png")
    Path("report.html").write_text(
        page(results, {figure.name: Path("line.png") for figure in FIGURES})
    )
    return Path("report.html")


@pytest.mark.parametrize(
    "write",
    [undrawn, pytest.param(lambda result: write_report(result)[0], marks=pytest.mark.slow)],
    ids=["undrawn", "drawn"],
)
def test_the_page_opens_from_disk_whole_and_fits_its_window(write):
    path = write(results())
    result, errors = opened(path)
    assert not errors
    for one, width in zip(result, WIDTHS, strict=True):
        assert abs(one["width"] - width) < 20  # a scroll bar
        assert one["scroll"] <= one["width"] and not one["beyond"]
        assert one["sideways"] == 0  # the verdict's table
        assert one["folded"] > 5 and one["verdicts"] == 6
        assert one["end"] <= one["width"] or width < 1280  # the verdicts, without scrolling
        assert len(one["images"]) == path.read_text().count("<img") > 5
        assert all(
            image["loaded"] and 200 < image["width"] < one["width"] for image in one["images"]
        )


def test_the_probe_sees_what_is_wrong():
    Path("wrong.html").write_text(
        '<head></head><body><link rel="stylesheet" href="http://example.org/there.css"><img '
        'src="absent.png">'
        "<div style='width: 3000px'>wide</div><script>let x = 1</script></body>"
    )
    result, errors = opened(Path("wrong.html"))
    assert all(
        any(word in line for line in errors)
        for word in ("there.css", "absent.png", "inline script")
    )
    for one in result:
        assert one["scroll"] > one["width"] and any("wide" in text for text in one["beyond"])
        assert not one["images"][0]["loaded"]


def opened(path):
    """What a browser finds in a page at each width, and what its console says.

    The policy refuses whatever is not in the page itself, and the console names it:
    other files, the network.
    """
    Path("checked.html").write_text(
        path.read_text().replace(
            "<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{ALLOWED}">', 1
        )
    )
    frames = "".join(
        f'<iframe src="checked.html" width="{w}" height="900"></iframe>' for w in WIDTHS
    )
    Path("probe.html").write_text(PROBE % frames)
    command = [
        BROWSER,
        *FLAGS,
        f"--user-data-dir={Path('profile').resolve()}",
        Path("probe.html").resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    (text,) = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)

    return json.loads(unescape(text)), [
        line for line in done.stderr.splitlines() if ":CONSOLE" in line
    ]
