"""The report: one file with everything inside, nothing of a model's text becomes markup, and a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from fake_driver import spec
from recorded_drives import make_bag

from owled_ros.errors import OwledError
from owled_ros.evaluation.birds_eye import Line, birds_eye
from owled_ros.evaluation.evaluate import EvaluationRequest, evaluate
from owled_ros.evaluation.frame_values import Tolerance
from owled_ros.evaluation.headline import segments_of, title_of, why_of
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
    return evaluate(EvaluationRequest([bag], [spec("seeing"), spec("mute")], folder / "out", Scenario(), go_on=True))


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


def test_the_title_names_models_and_bags(results):
    assert title_of(results) == "seeing, mute on bag"
    bags = [{"Name": f"drive{n}"} for n in range(5)]
    many = replace(results[0], condition={**results[0].condition, "Bags": bags})
    assert title_of([many]) == "seeing on drive0, drive1, drive2 and 2 more"
    beside = replace(many, condition={**many.condition, "Model": {"name": "base", "role": "dense"}})
    assert title_of([many, beside]).startswith("seeing on")


def test_what_dense_pruned_and_packed_cost_is_shown_where_the_artifact_says_it(results, tmp_path):
    rows = [
        {
            "name": "dense",
            "disk_bytes": 48_500_000,
            "resident_bytes": 460_000_000,
            "token_ms": 20.4,
            "action_ms": 331.0,
        },
        {"name": "packed", "note": "not packed: it has sliding windows"},
    ]
    cost = {"rows": rows, "threads": 1, "rounds": 5, "interleaved": True}
    model = {**results[0].metrics["model"], "cost": cost}
    page = page_of(
        write_html([replace(results[0], metrics={**results[0].metrics, "model": model})], tmp_path / "a.html")
    )
    shown = " ".join(page.text.split())
    assert "Dense, pruned and packed" in shown
    assert "dense48.5460.020.4331" in shown  # cells have no blanks between them
    assert "not packed: it has sliding windows" in shown
    assert "Dense, pruned and packed" not in page_of(write_html(results, tmp_path / "b.html")).text


def test_the_bar_of_reasons_adds_up(results):
    names = ["VALID"] * 5 + ["LOW_CONFIDENCE"] * 3 + ["UNPARSED"] * 2
    mixed = [replace(record, reason=name) for record, name in zip(results[0].records[:10], names, strict=True)]
    segments = segments_of(replace(results[0], records=mixed))
    assert [(s.reason, s.frames, s.share, s.kind) for s in segments] == [
        ("VALID", 5, 0.5, "acted"), ("LOW_CONFIDENCE", 3, 0.3, "withheld"), ("UNPARSED", 2, 0.2, "invalid"),
    ]  # fmt: skip


def judged(result: ResultFile, success: bool, conditions: list[dict], **metrics) -> ResultFile:
    return replace(result, success=success, metrics={**result.metrics, "conditions": conditions, **metrics})


def test_one_sentence_says_why(results):
    seeing, mute = results
    limit = {"condition": "max_path_ade_3s_m", "limit": 1.0, "value": 2.544, "passed": False}
    others = [{**limit, "condition": "max_miss_share"}, {**limit, "passed": True}]
    failed = why_of(judged(seeing, False, [limit, *others]))
    assert failed.startswith(
        "It failed because path ade 3s is 2.54 m, wanted at most 1 m (and 1 more condition); it acted on 100% of 120 frames"
    )
    assert why_of(judged(seeing, True, [])).startswith("It passed: it acted on 100% of 120 frames, its path is off by")
    assert why_of(mute) == "It never acted: on 100% of 120 frames because the answer could not be read."
    assert why_of(replace(seeing, records=[])) == "No frame was evaluated, so nothing is known about it."
    broken = why_of(judged(seeing, False, [limit], bag_failures={"two": "holds no camera"}))
    assert broken.startswith("It failed because two could not be evaluated (holds no camera); elsewhere it acted")
    beside = replace(seeing, condition={**seeing.condition, "Model": {"name": "base", "role": "dense"}})
    assert why_of(beside).startswith("Shown beside: it acted")


def test_nothing_holds_and_nothing_is_better_where_nothing_acted(results, tmp_path):
    html = write_html([results[1]], tmp_path / "report.html").read_text()
    assert ">holds<" not in html
    assert "met, but nothing acted" in html
    conditions = {item["condition"]: item for item in results[1].metrics["conditions"]}
    assert (conditions["acted_frames"]["value"], conditions["acted_frames"]["passed"]) == (0, False)
    assert conditions["must_beat hold"]["note"] == "nothing acted"
    together = write_html(results, tmp_path / "both.html").read_text()
    table = together[together.index("mute against seeing") : together.index('id="plots"')]
    assert "mute never acted" in table
    assert "Usable answers" in table
    assert "withheld as" not in table  # continuing is not what it answered


def test_a_page_does_not_miss_the_model_that_it_shows(results, tmp_path):
    note = "the dense model mute is not shown beside it, as it was not found; give it with --dense"
    missing = replace(results[0], metrics={**results[0].metrics, "beside": {"notes": [note, "no uniform model"]}})
    alone = page_of(write_html([missing], tmp_path / "alone.html")).text
    assert note in alone
    both = page_of(write_html([missing, results[1]], tmp_path / "both.html")).text
    assert note not in both
    assert "no uniform model" in both


def test_paths_are_drawn_from_above(results, tmp_path):
    html = write_html(results, tmp_path / "report.html").read_text()
    shown = html.count('<svg class="above"')
    assert shown == 2 * 20  # beside every image
    for heading in ("Paths from above, three seconds", "Where paths end after three seconds", "Path error by speed"):
        assert heading in html
    assert "Path error by command" not in html  # no command in this bag


def test_a_path_from_above_has_one_scale():
    # 20 m ahead and 2 m to the left: forward is up, left is left, ten times as far up
    line = Line(((0.0, 0.0, 0.0), (1.0, 20.0, 2.0)), "#123456")
    found = re.search(r'<polyline points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', birds_eye([line]))
    assert found
    x0, y0, x1, y1 = map(float, found.groups())
    assert x1 < x0
    assert (y0 - y1) / (x0 - x1) == pytest.approx(10.0, abs=0.1)
    assert "NaN" not in birds_eye([line])


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
