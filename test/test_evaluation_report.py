"""The report: one file with everything inside, nothing of a model's text becomes markup, and a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from fake_driver import spec
from recorded_drives import make_bag

from owled_ros.errors import OwledError
from owled_ros.evaluation.evaluate import Request, evaluate
from owled_ros.evaluation.frame_values import Tolerance
from owled_ros.evaluation.images import random_records, worst_records
from owled_ros.evaluation.report import write_html
from owled_ros.evaluation.result import ResultFile, read_result
from owled_ros.evaluation.scenario import Scenario

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[ResultFile]:
    """Two models on two drives of 60 images."""
    folder = tmp_path_factory.mktemp("report")
    bag = make_bag(folder / "bag", images=60, drives=2)
    return evaluate(Request([bag], [spec("seeing"), spec("mute")], folder / "out", Scenario()))


class _Page(HTMLParser):
    """Collects what a browser would fetch, and what it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_data(self, data):
        self.text += data


def page_of(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text())
    return page


def test_everything_is_inside_one_file(results, tmp_path):
    page = page_of(write_html(results, tmp_path / "report.html"))
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "script" not in page.tags
    images = [link for link in page.links if link.startswith("data:image/jpeg")]
    assert len(images) >= 2 * 20  # ten worst and ten random frames of each model
    assert page.tags.count("svg") >= 3
    assert "constant" in page.text
    assert "min_valid_share" in page.text


def test_text_of_a_model_stays_text(results, tmp_path):
    data = results[0].path.read_text().replace("cruise, acceleration -1.0", "<script>alert(1)</script> -1.0")
    path = tmp_path / "result.jsonl"
    path.write_text(data)
    html = write_html([read_result(path)], tmp_path / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in html
    assert "<script" not in html


def test_a_report_without_its_bags_and_verdict_still_opens(results, tmp_path):
    lines = results[0].path.read_text().replace(str(results[0].condition["Bags"][0]["Path"]), "/nowhere").splitlines()
    path = tmp_path / "result.jsonl"
    path.write_text("\n".join(lines[:-1]) + "\n")
    page = page_of(write_html([read_result(path)], tmp_path / "report.html"))
    assert "image not available" in page.text
    assert "ends before its verdict" in page.text
    with pytest.raises(OwledError, match="no result"):
        write_html([], tmp_path / "none.html")


def test_worst_frames_are_apart_and_random_ones_repeat(results):
    records = results[0].records
    worst = worst_records(records, Tolerance())
    indices = sorted(record.index for record in worst)
    assert len(worst) == 10
    assert min(b - a for a, b in pairwise(indices)) >= 5
    assert worst[0].acceleration == -1.0  # the expert does +1.0
    assert random_records(records) == random_records(list(reversed(records)))


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 1200])
def test_a_real_browser_shows_it(results, tmp_path, width):
    html = write_html(results, tmp_path / "report.html")
    # the page reports its own layout into its title: nothing may be wider than the window, every image must have loaded
    probe = (
        "<script>addEventListener('load', () => { const i = [...document.images]; document.title = 'LAYOUT ' + "
        "document.documentElement.scrollWidth + ' ' + i.filter(x => x.naturalWidth > 0).length + ' ' + i.length; })"
        "</script>"
    )
    html.write_text(html.read_text().replace("</head>", probe + "</head>").replace('loading="lazy"', ""))
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900", "--virtual-time-budget=20000", "--dump-dom", html.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=BROWSER_TIMEOUT_S, check=True).stdout
    match = re.search(r"<title>LAYOUT (\d+) (\d+) (\d+)</title>", shown)
    assert match, "the page did not finish loading"
    layout, loaded, images = map(int, match.groups())
    assert loaded == images >= 40
    assert layout <= max(width, 500)  # headless chromium has no window narrower than 500
