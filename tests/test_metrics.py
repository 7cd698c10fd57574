"""The one table of metrics: reports, searches and tables take names, units
and directions from it.
"""

import pytest

from arinar_lab.metrics import COLUMNS, METRICS
from arinar_lab.quality.measure import _unit
from arinar_lab.report.result_figures import axis_label
from arinar_lab.sweep.sweep_file import _check_metric


def test_every_column_is_a_metric_with_a_unit():
    assert all(METRICS[metric].unit for metric in COLUMNS)
    assert len({column.heading for column in COLUMNS.values()}) == len(COLUMNS)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("inception_score", "e^nats"),
        ("kid_dinov2", "squared MMD of the extractor's features"),
        ("kid_floor", "squared MMD of the extractor's features"),
        ("recall_floor", "share"),
        ("precision_dinov2", "share"),
        ("fid_interval", "squared distance of features of {extractor}"),
        ("fd_inception64_floor", "squared distance of features of {extractor}"),
    ],
)
def test_a_published_metric_has_the_unit_of_its_kind(name, unit):
    assert _unit(name) == unit


def test_a_search_takes_what_every_evaluation_measures_and_nothing_else():
    _check_metric("objectives.0.metric", "quality/precision")
    with pytest.raises(ValueError, match="no run produces 'quality/kid'"):
        _check_metric("objectives.0.metric", "quality/kid")


def test_an_axis_says_which_direction_is_better():
    assert axis_label("quality/recall") == "recall (more is better)"
    assert axis_label("cost/parameters") == "parameters"
    assert axis_label("a metric of nobody") == "a metric of nobody"
