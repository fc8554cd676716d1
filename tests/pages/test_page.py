"""A page is one file that asks for nothing and runs nothing but its own scripts; names in it are text."""

import hashlib
import re
from base64 import b64encode

import pytest

from mec.pages import charts
from mec.pages.page import policy


def scripts_of(page: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>\n", page, flags=re.DOTALL)


def test_the_policy_lets_through_the_scripts_as_they_stand_and_nothing_from_elsewhere():
    allowed = policy(["let a = 1;", "two()"])
    hashes = {b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in ("let a = 1;", "two()")}
    assert set(re.findall(r"'sha256-(.*?)'", allowed)) == hashes
    assert "default-src 'none'" in allowed
    assert "unsafe-eval" not in allowed
    assert "http" not in allowed
    assert re.search(r"script-src [^;]*unsafe-inline", allowed) is None


@pytest.mark.parametrize("number", range(25))
def test_colours_come_again_after_the_last(number):
    assert charts.colour(number) == charts.COLOURS[number % 10]


def test_a_chart_keeps_what_it_was_given():
    chart = charts.curves(
        "t", {"a": ([1, 2], [3.0, 4.0])}, limits={"most": ([1, 2], [9.0, 9.0])}, mark=(2, "collapsed")
    )
    data = [dict(glyph.data_source.data) for glyph in chart.renderers if hasattr(glyph, "data_source")]
    assert data == [{"x": [1, 2], "y": [3.0, 4.0]}, {"x": [1, 2], "y": [9.0, 9.0]}]
    assert [item.label.value for item in chart.legend.items] == ["a", "most"]
    assert {part.text for part in chart.center if hasattr(part, "text")} == {"collapsed"}


def test_two_maps_share_one_source_of_images():
    points = {"before": [[0, 1], [2, 3]], "after": [[4, 5], [6, 7]]}
    one, other = charts.maps(
        points, {"image": ["a", "b"], "name": ["x", "y"], "colour": ["#000", "#111"]}, "run0-images"
    )
    sources = {glyph.data_source for chart in (one, other) for glyph in chart.renderers}
    (source,) = sources
    assert source.name == "run0-images"
    assert source.data["x0"] == [0, 2]
    assert source.data["y1"] == [5, 7]
