"""The page and the LaTeX of a report: self-contained, whole, and safe whatever arms are called."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from reports import analysed, full_report, study, whole, whole_and_full

from arinar_lab.analysis.verdict import verdict_of
from arinar_lab.report.figures import FIGURES
from arinar_lab.report.latex import escape_latex, latex_table
from arinar_lab.report.report import page
from arinar_lab.report.statements import methods_markdown

pytestmark = pytest.mark.usefixtures("alone")

NAMES = ["a & b_c", "100 % {x} [y]", "<em>x</em> \\cmd $1 #2 ~^", "Δ ± é → 漢", "plain"]


class Elements(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def strange(names=NAMES, seeds=(0, 1)):
    """A study whose arms have names that need escaping."""
    arms = {name: {"outer.width": 16 + 2 * i} for i, name in enumerate(names)}
    reports = {
        (name, seed): full_report(2.0 + i / 10 + seed / 100)
        for i, name in enumerate(arms)
        for seed in seeds
    }

    return study(
        reports, seeds=seeds, axes=None, arms=arms, question="<script>alert(1)</script> & 100 %?"
    )


def page_of(plan, drawn=()):
    """The page with a picture of one pixel for each figure that is drawn."""
    Image.new("RGB", (1, 1)).save("pixel.png")
    return page(analysed(plan), {name: Path("pixel.png") for name in drawn})


# The page


def test_the_page_asks_the_network_for_nothing():
    text = page_of(study(whole_and_full()), drawn=["factor", "cost"])
    parsed = Elements(text)
    assert not parsed.open
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    links = [
        value
        for _, attrs in parsed.tags
        for name, value in attrs.items()
        if name in ("src", "href", "srcset")
    ]

    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert not re.search(r"url\(|@import|https?://", text)


def test_the_page_holds_every_arm_every_section_and_every_figure_that_is_there():
    plan = study(whole_and_full())
    parsed = Elements(page_of(plan, drawn=[figure.name for figure in FIGURES]))
    text = " ".join(parsed.words)
    assert all(arm.name in text for arm in plan.arms) and "How many?" in text
    pictures = [attrs for tag, attrs in parsed.tags if tag == "img"]
    assert [picture["alt"] for picture in pictures] == [figure.title for figure in FIGURES]
    sections = [attrs["id"] for tag, attrs in parsed.tags if tag == "section"]

    assert sections == [
        "verdict",
        "differences",
        "table",
        "fronts",
        "figures",
        "reading",
        "methods",
    ]
    assert "Left out" not in text


def test_the_page_opens_with_the_verdict_and_folds_the_rest():
    plan = study({cell: report for cell, report in whole().items() if cell != ("components=4", 2)})
    text = page_of(plan)
    verdict = verdict_of(analysed(plan))
    opening = " ".join(Elements(text.partition("<details>")[0] + "</body></html>").words)
    opening = " ".join(opening.split())

    assert text.index("<h1>How many?</h1>") < text.index('class="answer"') < text.index("<details>")
    for words in (verdict.answer, *verdict.headings, verdict.step.command(), verdict.caution, "▲"):
        assert words in opening, words
    assert "Holm" not in opening and "Missing: " not in opening
    links = [attrs["href"] for tag, attrs in Elements(text).tags if tag == "a"]
    assert links == ["#cautions"] and '<section id="cautions">' in text
    assert not re.search(r"<details open|</section>\s*<section", text)


def test_the_page_says_what_is_resolved_and_what_is_not():
    text = " ".join(Elements(page_of(study(whole()))).words)
    assert "bits/dim, against the baseline: better: components=2, components=4." in text
    assert "FD digits, against the baseline: equivalent: components=2, components=4." in text


def test_figures_that_are_left_out_are_named_with_what_they_need():
    text = " ".join(" ".join(Elements(page_of(study(whole()))).words).split())
    for figure in FIGURES[:-1]:
        assert f"{figure.title}: needs {figure.needs}." in text
    assert "Does the ranking last?" not in text  # the study has no regimes


def test_what_is_missing_stands_on_the_page():
    reports = {cell: report for cell, report in whole().items() if cell != ("components=4", 2)}
    assert "Missing: components=4 seed 2." in page_of(study(reports))
    assert "Missing" not in page_of(study(whole()))


def test_a_study_without_a_finished_run_has_a_page():
    text = page_of(study({}))
    assert (
        "No cell is finished." in text and "components=4" in text and "Differences to" not in text
    )


def test_names_are_no_markup():
    parsed = Elements(page_of(strange()))
    assert not {"script", "em"} & {tag for tag, _ in parsed.tags}
    assert all(any(name in words for words in parsed.words) for name in NAMES)


def test_both_kinds_of_noise_and_n_stand_in_the_table():
    text = page_of(study(whole_and_full()))
    assert re.search(
        r'<td>3 of 3</td>\s*<td>exact</td>\s*<td><span class="">2\.533</span> ± 0\.625', text
    )
    assert '<span class="noise">(± 0.004)</span>' in text


# LaTeX


def test_latex_escapes_what_it_would_read_as_commands():
    assert escape_latex("a_b & 5 % $x$ {y} ~ ^ # \\n") == (
        r"a\_b \& 5 \% \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \# \textbackslash{}n"
    )
    assert escape_latex("Δ ± é 漢 ﬁ") == r"$\Delta$ $\pm$ e U+6F22 fi"
    assert escape_latex("["[:]) == "{[}"


def test_latex_has_every_arm_and_every_column_once():
    results = analysed(study(whole_and_full()))
    text = latex_table(results)
    assert all(
        text.count(escape_latex(arm.name)) == text.count(r"\toprule")
        for arm in results.results.arms[1:]
    )
    for column in results.columns:
        assert (
            len(re.findall(rf"& {re.escape(escape_latex(column.heading))}( \$|  *\\\\| &)", text))
            == 1
        ), column

    assert r"\textbf{2.434} $\pm$ 0.624" in text and r"\scriptsize ($\pm$ 0.004)" in text


def document(table):
    return "\n".join(
        [
            r"\documentclass[a4paper,10pt]{article}",
            r"\usepackage[utf8]{inputenc}",
            r"\usepackage{booktabs}",
            r"\usepackage[a4paper,textwidth=17cm]{geometry}",
            r"\begin{document}",
            rf"\input{{{table}}}",
            r"\end{document}",
        ]
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
@pytest.mark.parametrize(
    "make",
    [lambda: study(whole_and_full()), strange, lambda: study({})],
    ids=["whole", "strange names", "nothing finished"],
)
def test_latex_compiles_and_fits_the_page(make):
    Path("table.tex").write_text(latex_table(analysed(make())))
    Path("document.tex").write_text(document("table.tex"))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )

    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout and Path("document.pdf").stat().st_size > 5000


# Methods


def test_methods_say_what_was_done():
    text = methods_markdown(analysed(study(whole_and_full())))
    for words in (
        "differ in inner.head.components",
        "3 seeds (0, 1, 2); 9 of 9 runs are finished",
        "6 steps of AdamW",
        "360 held-out items",
        "100 generated images",
        "torch 2.15.0",
        "a CPU, 2 CPUs",
        "commit abc",
        "Holm",
        "t-interval",
        "batch 4 and batch 1",
    ):
        assert words in text, words

    assert "but" not in text  # nothing differs


def test_methods_name_what_differs_and_where():
    reports = whole_and_full()
    for seed in (0, 1, 2):
        reports["components=4", seed]["environment"]["device"] = "a GPU"
    reports["components=2", 1]["steps"] = 7
    text = methods_markdown(analysed(study(reports)))
    assert "a CPU (but a GPU in components=4)" in text
    assert "6 (but 7 in components=2 seed 1) steps" in text


def test_methods_of_one_run_claim_nothing_of_many():
    plan = study(
        {("components=1", 0): full_report(2.0)}, seeds=(0,), axes={"inner.head.components": [1]}
    )
    text = methods_markdown(analysed(plan))
    assert "1 arm, each trained with 1 seed (0); 1 of 1 runs" in text
    assert (
        "Holm" not in text and "baseline" not in text and "no difference is called resolved" in text
    )


def varied(arms):
    return list(analysed(study({}, axes=None, arms=arms)).results.varied)


def test_of_parts_that_differ_in_kind_the_kind_alone_is_named():
    heads = {
        "a": {},
        "b": {"inner.head": "discrete"},
        "c": {"inner.head": "byte", "training.lr": 0.01},
    }
    assert varied(arms=heads) == ["inner.head.kind", "training.lr"]


def test_what_differs_within_a_kind_is_named_beside_it():
    masked = {"kind": "masked", "width": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}
    outers = {"a": {}, "b": {"outer": masked}, "c": {"outer": {**masked, "steps": 3}}}
    assert varied(arms=outers) == ["outer.kind", "outer.steps"]


def test_arms_that_share_a_training_are_named():
    arms = {"a": {}, "b": {"sampler.guidance": 2.0}, "c": {"training.lr": 0.01}}
    plan = study({}, axes=None, arms=arms)
    assert (
        "One training serves a, b, which differ in sampling or evaluation alone."
        in methods_markdown(analysed(plan))
    )
