"""The figures of a study's report: their captions, their drawing, and the data that they need.

Every figure is written as PNG (for the page and the dashboard) and as PDF (for a paper). A figure
without data is named as left out, and its old files are removed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.analyse import Analysis
from ..analysis.results import Results
from ..errors import ConfigError
from ..files.atomic import atomic_draft
from ..output.text import say
from .density_figures import calibration_histograms, conditional_densities, sample_grid
from .diagnostic_figures import learning_curves, where_the_bits_go
from .result_figures import against_factor, against_speed, cost_breakdown, ranks_by_regime
from .statements import EVALUATION_NOISE, TRAINING_NOISE

DPI = 320  # of the PNG: a column's width is 1,056 pixels, a page's 2,208


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Arguments:
        name: The stem of its files.
        title: Its title.
        caption: How it is read.
        needs: The data without which it cannot be drawn.
        draw: Draws it; returns None if its data are absent.
        applies: Whether such a study should have it; if not, it is not named as left out.
    """

    name: str
    title: str
    caption: str
    needs: str
    draw: Callable[[Analysis], Any | None]
    applies: Callable[[Results], bool] = lambda results: True

    def write(self, analysis: Analysis, folder: Path) -> list[Path]:
        """Draw it into the folder; returns the paths of PNG and PDF, or none.

        A damaged file of a run costs the figure that shows it, and a line that names it.
        """
        import matplotlib.pyplot as plt

        paths = [folder / f"{self.name}.png", folder / f"{self.name}.pdf"]
        figure = None
        try:
            figure = self.draw(analysis) if analysis.results.any_report else None
        except ConfigError as error:
            say(
                f"Left out: {self.title.lower()}: {error}; arinar evaluate makes it anew once"
                " report.json beside it is deleted",
                sys.stderr,
            )
        if figure is None:
            for path in paths:
                path.unlink(missing_ok=True)
            return []
        with atomic_draft(paths[0]) as draft:
            figure.savefig(draft, dpi=DPI)
        figure.set_layout_engine("none")  # keeps the layout of the PNG
        with atomic_draft(paths[1]) as draft:
            figure.savefig(draft, metadata={"CreationDate": None})
        plt.close(figure)
        return paths


FIGURES = (
    Figure(
        "factor",
        "Likelihood and sample quality against what was varied",
        f"Marker or dash: mean over seeds. Thin bar with caps: {TRAINING_NOISE}. Broad pale bar,"
        f" where measured: {EVALUATION_NOISE}. Dots: single seeds. Colours and markers are those"
        " of the arms in every figure. Dotted line: the baseline's mean. Dashed grey line: real"
        " images, beside the distance of as many images (few). Distances that span more than a"
        " factor of ten have a logarithmic axis. An arrow at the edge: the interval goes on beyond"
        " it, to the value there, for it comes from few seeds.",
        "bits/dim or Fréchet distance of a finished run",
        against_factor,
    ),
    Figure(
        "speed",
        "Quality against speed",
        "Means over seeds with 95 % t-intervals in both directions. Hollow: another arm is at"
        " least as good and as fast, and better in one of both, by the means. Dashed: the front of"
        " the others. Whether two neighbours on it differ is said by their intervals, not by the"
        " line. Axes that span more than a factor of five are logarithmic; an arrow at the edge:"
        " the interval goes on beyond it, to the value there. Where the title calls the speeds"
        " unreliable, their order may be that of the machine's load: no front is drawn, and no arm"
        " is hollow.",
        "a measured speed",
        against_speed,
    ),
    Figure(
        "curves",
        "Learning curves",
        "Line: mean over seeds. Band: from the lowest to the highest seed. Held-out bits/dim are"
        " of the averaged weights. Training losses are compared only among arms whose loss is a"
        " likelihood (those of diffusion, flow and energy are none). The first tenth of the steps"
        " may leave the axes.",
        "a metrics.csv in the run folders",
        learning_curves,
    ),
    Figure(
        "bits",
        "Where the bits go: by feature and by token",
        "Held-out bits/dim given all that precedes. The mean over features, and that over tokens,"
        " is the arm's bits/dim. Band: from the lowest to the highest seed.",
        "a head that is walked feature by feature, and its diagnosis in report.json",
        where_the_bits_go,
    ),
    Figure(
        "calibration",
        "Calibration of the conditionals",
        "Histogram of F(x | what precedes) over all held-out features: flat where the densities"
        " are right, a hill in the middle where they are too wide, high ends where they are too"
        " narrow. Pale: mean over seeds; dark: from the lowest to the highest seed. KS: largest"
        " distance from uniform. Bars above 3 leave the axes.",
        "a head with a distribution function, and its diagnosis in report.json",
        calibration_histograms,
    ),
    Figure(
        "beliefs",
        "What each arm believes about the same features",
        "Density of the first features of one held-out token, each given the true ones before it"
        " (of heads that are not walked feature by feature: a histogram of draws). One seed.",
        "a beliefs.npz of the evaluation",
        conditional_densities,
    ),
    Figure(
        "samples",
        "Samples beside training images",
        "The first images that each arm generated, unchosen. A column has one class (above it), and"
        " the same noise in all arms. First row: training images of these classes. One training"
        " seed.",
        "generated images in the run folders",
        sample_grid,
    ),
    Figure(
        "cost",
        "Where the time of generation goes",
        "Milliseconds for an image of a batch: the outer model's walk, the trunk over a token's"
        " features (of a nested model: all of it), the head (densities made, guided and drawn"
        " from), the codec. The shares are measured part by part in a pass with clocks between,"
        " and scaled to the time without them. Mean over seeds.",
        "a speed that was measured part by part",
        cost_breakdown,
    ),
    Figure(
        "ranks",
        "Does the ranking last?",
        "Rank of each arm by its mean over seeds, in each regime. Lines that cross are arms that"
        " change places; whether a pair differs in both regimes for sure is said in the text.",
        "at least two arms in two regimes",
        ranks_by_regime,
        lambda results: bool(results.regimes),
    ),
)
