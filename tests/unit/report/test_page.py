import re
from collections import Counter
from importlib.resources import files

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from kdstats.report import Report, render_report


def test_nothing_comes_from_outside_the_page(everything):
    text = render_report(Report(**everything))
    assert not re.findall(r"https?://|src=|<link|<script|@import|@font-face", text)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', text))


def test_the_policy_forbids_the_browser_to_load_anything(everything, render):
    (policy,) = [meta["content"] for meta in render(**everything).all("meta") if "http-equiv" in meta]
    assert "default-src 'none'" in policy


def test_the_page_is_well_formed_and_in_a_language(everything, render):
    page = render(**everything)
    assert page.text.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert len(page.all("main")) == 1


def test_headings_go_down_one_level_at_a_time(everything, render):
    levels = [int(tag[1]) for tag, _, _ in render(**everything).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert max(np.diff(levels)) <= 1


def test_ids_are_unique_and_every_reference_has_a_target(everything, render):
    page = render(**everything)
    ids = Counter(attrs["id"] for _, attrs, _ in page.tags if "id" in attrs)
    assert max(ids.values()) == 1
    for _, attrs, _ in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attrs.get(name, "figures") in {*ids, "figures"}
        references = (
            [attrs["href"]] if "href" in attrs else re.findall(r"url\((#[^)]*)\)", " ".join(map(str, attrs.values())))
        )
        assert all(reference[1:] in ids for reference in references)


def test_every_drawing_has_a_name_and_a_caption(everything, render):
    page = render(**everything)
    drawings = page.all("svg")
    assert [drawing["aria-label"] for drawing in drawings] == ["Points", "Students", "Plain"]
    assert {drawing["role"] for drawing in drawings} == {"img"}
    captions = [attrs["id"] for attrs in page.all("figcaption")]
    assert [drawing["aria-describedby"] for drawing in drawings] == captions
    assert everything["figures"]["Points"].get_label() in page.said


def test_figures_without_titles_take_their_own(everything, render):
    everything["figures"] = list(everything["figures"].values())
    names = [drawing["aria-label"] for drawing in render(**everything).all("svg")]
    assert names == ["Predicted against observed inter-student variance", "Were there enough students?", "Figure 3"]


def test_tables_have_heads_with_scope_and_captions(everything, render):
    page = render(**everything)
    assert {attrs.get("scope") for attrs in page.all("th")} == {"row", "col"}
    assert len(page.all("caption")) == len(page.all("table")) == 4
    assert all("thead" in path or "tbody" in path for tag, _, path in page.tags if tag == "tr")


def test_words_have_enough_contrast():
    css = (files("kdstats.report") / "templates" / "style.css.j2").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w+);", css))

    def luminance(name):
        channels = np.array(mpl.colors.to_rgb(colours[name]))
        linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    assert 1.05 / luminance("rule") < 4.5  # what the measure says of a pale grey
    for ink in ("ink", "soft", "link"):
        assert 1.05 / luminance(ink) >= 4.5
        assert luminance("panel") / luminance(ink) >= 4.5


def test_the_same_study_is_the_same_bytes(everything):
    text = render_report(Report(**everything))
    assert text == render_report(Report(**everything))


@pytest.mark.parametrize("part", ["title", "unit", "caption", "toml", "attrs", "reason"])
def test_text_cannot_become_markup(everything, render, part, predicted):
    evil = "</pre></title><script>alert(1)</script><img src=x onerror=y>&\"'"
    if part in ("title", "unit"):
        everything[part] = evil
    elif part == "caption":
        figure = Figure(label=evil)
        figure.subplots().set_title(evil)
        everything["figures"] = {evil: figure}
    elif part == "toml":
        everything["problem"] = type("Evil", (), {"to_toml": lambda self: evil, "fingerprint": lambda self: evil})()
    elif part == "attrs":
        everything["predicted"] = type(predicted)(
            estimate=predicted.estimate,
            standard_error=predicted.standard_error,
            attrs={**predicted.attrs, "noise_law": evil},
        )
    else:
        everything["comparison"] = FakeComparison(reason=evil, text=evil)
    page = render(**everything)
    assert not page.all("script")
    assert not page.all("img")
    assert "<script>alert(1)</script>" in page.said


class FakeComparison:
    verdict = "undecided"
    n_students_needed = 1234

    def __init__(self, reason="", text=""):
        self.reason, self.text = reason, text

    def summary(self):
        return self.text

    def to_frame(self):
        import pandas as pd

        return pd.DataFrame({"statistic": [1.5], "pvalue": [0.2], "df": [7.0]}, index=[self.reason or "equality"])


def test_a_plain_comparison_is_enough(everything, render):
    everything["comparison"] = FakeComparison()
    said = render(**everything).said
    assert "Undecided" in said
    assert "About 1 234 students would decide it." in said


def test_the_templates_are_part_of_the_package():
    names = {entry.name for entry in (files("kdstats.report") / "templates").iterdir()}
    assert {"report.html.j2", "table.html.j2", "style.css.j2"} <= names
