"""The report of a run says what the verdict says, and needs nothing from outside."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from tools.hil import report
from tools.hil.histogram import Histogram
from tools.hil.judgement import COUNTS, STAGES, Judgement, Offence
from tools.hil.outcome import Moment, Run
from tools.hil.scenario import parse
from tools.hil.svg import LEFT, PLOT
from tools.verdict import Message

NASTY = "t/<script>alert(1)</script> & \"b'\\x00\x07'\""
LOST = str(Message("hil/dev-1/data", b"7"))
OFFENCES = [Offence("lost", LOST, "the gateway acknowledged it and never sent it", 2.5),
            Offence("duplicated", NASTY, "2 times", 7.5), Offence("will_lost", "w")]
TIMES_MS = [1.0] * 50 + [20.0] * 40 + [300.0] * 10


class Tag:
    """An element: its name, attributes, class, and the text in and under it."""

    def __init__(self, name: str, attributes: dict[str, str], parent: Tag | None) -> None:
        self.name, self.attributes, self.parent, self.text = name, attributes, parent, ""

    @property
    def kind(self) -> str:
        return self.attributes.get("class", "").strip()

    def number(self, key: str) -> float:
        return float(self.attributes[key])


class Page(HTMLParser):
    """A page as a flat list of its elements, in order; open ones at the end are `left`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[Tag] = []
        self.left: list[Tag] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        parent = self.left[-1] if self.left else None
        made = Tag(tag, {key: value or "" for key, value in attrs}, parent)
        self.tags.append(made)
        if tag != "meta":
            self.left.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.left.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.left.pop().name == tag

    def handle_data(self, data: str) -> None:
        for tag in self.left:
            tag.text += data

    def all(self, name: str, kind: str = "") -> list[Tag]:
        return [tag for tag in self.tags if tag.name == name and (not kind or tag.kind == kind)]

    def rows_after(self, title: str) -> list[list[str]]:
        """Return the text of the cells of the first table after a heading."""
        begin = next(index for index, tag in enumerate(self.tags)
                     if tag.name == "h2" and tag.text == title)
        table = next(tag for tag in self.tags[begin:] if tag.name == "table")
        return [[cell.text for cell in self.tags
                 if cell.name in ("td", "th") and cell.parent is row]
                for row in self.tags if row.name == "tr" and row.parent is table]


def run_of(outcome: str = "FAIL", **more: object) -> Run:
    """Make a run of 10 s with two faults, three devices, and a hundred times."""
    scenario = parse('title = "a <b>title</b>"\nseconds = 10\nexpect = ["lost = 0"]\n'
                     "[[traffic]]\n", "made-up", Path())
    measured = dict.fromkeys(COUNTS, 0.0) | {
        "produced": 1234, "delivered": 1233, "lost": 1, "duplicated": 2, "p99_ms": 303.2,
        "drain_s": 0.108107, "most_backlog": 42}
    run = Run(scenario, 10.0, 0)
    run.moments = [Moment(2.0, "fault", "broker stopped (SIGTERM)"),
                   Moment(3.0, "fault", "link cut (devices)"),
                   Moment(4.0, "heal", "over: broker stopped (SIGTERM)"),
                   Moment(10.0, "note", "all has arrived")]
    run.depth = [(0.0, 0), (4.0, 42), (10.0, 0)]
    run.sent = [(t / 10, f"dev-{t % 3}") for t in range(99)] + [(5.0, "dev-10")]
    run.arrived = [(t / 10 + 0.05, f"dev-{t % 3}") for t in range(99)]
    run.logs = {"gateway/gateway.log": f"one line\n{NASTY}"}
    expectations = [("lost = 0", outcome == "PASS"), ("p99_ms < 500", True),
                    ("drain_s < 1", True), ("boots > 1", outcome == "PASS")]
    run.judgement = Judgement(
        outcome, measured, expectations, [] if outcome == "PASS" else OFFENCES,
        ["the replay was late"] if outcome == "INVALID" else [],
        {name: Histogram(TIMES_MS) for name in STAGES})
    return run


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(report.html([run_of()]))


def test_page_is_whole_and_needs_nothing_from_outside(page: Page) -> None:
    text = report.html([run_of()])
    assert page.left == []
    assert not re.search(r"https?:|//|url\(|@import|\bsrc\b|\bhref\b", text)
    assert {tag.name for tag in page.tags}.isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "base", "form"})
    assert not [key for tag in page.tags for key in tag.attributes if key.startswith("on")]
    assert "a <b>title</b>" in [tag.text for tag in page.all("p")]


def x_of(t_s: float) -> float:
    return LEFT + PLOT * t_s / 10


def test_faults_are_marked_where_they_were(page: Page) -> None:
    bands = page.all("rect", "band")
    assert [band.number("x") for band in bands] == [
        pytest.approx(x_of(2), abs=0.1), pytest.approx(x_of(3), abs=0.1)]
    assert bands[0].number("width") == pytest.approx(PLOT * 0.2, abs=0.1)
    assert 0 < bands[1].number("width") < 3  # it was not taken back: a moment
    assert [tag.text for tag in page.all("text", "fault")] == [
        "broker stopped (SIGTERM)", "link cut (devices)"]


def points(tag: Tag) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, _, y in
            (pair.partition(",") for pair in tag.attributes["points"].split())]


def test_timeline_shows_messages_and_backlog(page: Page) -> None:
    sent, came, backlog = page.all("polyline")
    assert [sent.kind, came.kind, backlog.kind] == ["sent", "came", "came"]
    assert [x for x, _ in points(backlog)] == [
        pytest.approx(x_of(t_s), abs=0.1) for t_s in (0, 4, 10)]
    heights = [y for _, y in points(backlog)]
    assert heights[0] == heights[2] > heights[1]  # its top is where the most waited
    assert "max 42" in [tag.text for tag in page.all("text", "small")]
    flat = max(y for _, y in points(sent))
    assert min(y for _, y in points(sent)) < flat


def test_offences_are_marked_when_they_were_sent(page: Page) -> None:
    assert [mark.number("x1") for mark in page.all("line", "offence")] == [
        pytest.approx(x_of(2.5), abs=0.1), pytest.approx(x_of(7.5), abs=0.1)]


def test_each_device_has_a_lane_in_natural_order(page: Page) -> None:
    names = [tag.text for tag in page.all("text", "small") if tag.text.startswith("dev-")]
    assert names == ["dev-0", "dev-1", "dev-2", "dev-10"]
    cells = [[tag for tag in page.tags if tag.name == "rect" and tag.parent is lane]
             for lane in page.tags if lane.name == "g"]
    assert [len(lane) for lane in cells] == [33, 33, 33, 33, 33, 33, 1, 0]


def test_histogram_is_that_of_the_verdict(page: Page) -> None:
    whole = Histogram(TIMES_MS)
    bars = page.all("rect", "bar")
    heights = [bar.number("height") for bar in bars if bar.number("height")]
    assert [height / heights[0] for height in heights] == [
        1, pytest.approx(0.8, abs=0.01), pytest.approx(0.2, abs=0.01)]
    texts = [tag.text for tag in page.all("text")]
    assert f"p50 {round(whole.percentile(50), 1):g} ms" in texts
    assert f"p99 {round(whole.percentile(99), 1):g} ms" in texts
    assert "max 50" in texts


def test_tables_say_what_the_verdict_says(page: Page) -> None:
    verdict = run_of().verdict
    assert page.rows_after("Expected") == [
        ["expectation", "", "measured"], ["lost = 0", "does not hold", "1"],
        ["p99_ms < 500", "holds", "303.2"], ["drain_s < 1", "holds", "0.108"],
        ["boots > 1", "does not hold", "not measured"]]
    assert page.rows_after("Offences") == [
        ["kind", "which", "why", "sent at s"],
        *([one.kind, one.what, one.why, "" if one.t_s is None else f"{one.t_s:.2f}"]
          for one in verdict.offences)]
    stages = page.rows_after("Latency, end to end")
    assert [row[0] for row in stages[1:]] == list(STAGES)
    assert stages[1][1] == "100"
    assert page.rows_after("What happened")[0] == ["2.0 s", "broker stopped (SIGTERM)"]
    assert verdict.line in [tag.text for tag in page.all("code")]


def test_summary_names_each_run() -> None:
    page = Page(report.html([run_of("PASS"), run_of("FAIL"), run_of("INVALID")]))
    table = page.all("table")[0]
    rows = [[cell.text for cell in page.all("td") if cell.parent is row]
            for row in page.all("tr") if row.parent is table]
    assert rows[1:] == [
        ["made-up", "PASS", "", "1,234"],
        ["made-up", "FAIL", "lost = 0 does not hold: 1, boots > 1 does not hold: not measured",
         "1,234"],
        ["made-up", "INVALID", "the replay was late", "1,234"]]


def test_log_of_a_run_is_in_it(page: Page) -> None:
    assert page.all("details")[0].text.startswith("gateway/gateway.log")
    assert NASTY in page.all("pre")[0].text


def test_junit_is_what_the_verdicts_say() -> None:
    suite = ET.fromstring(report.junit([run_of("PASS"), run_of("FAIL"), run_of("INVALID")]))
    assert suite.tag == "testsuite"
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "time")} == {
        "tests": "3", "failures": "1", "errors": "1", "time": "30.000"}
    passed, failed, invalid = suite.findall("testcase")
    assert {case.get("name") for case in (passed, failed, invalid)} == {"made-up"}
    assert [child.tag for child in passed] == ["system-out"]
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message", "").startswith("lost = 0 does not hold: 1")
    lines = (failure.text or "").splitlines()
    assert lines[0] == f"lost hil/dev-1/data '7': {OFFENCES[0].why}"
    assert "<script>" in lines[1]
    assert "\x07" not in lines[1]
    error = invalid.find("error")
    assert error is not None
    assert error.get("message") == "the replay was late"
    assert "2.0 s broker stopped (SIGTERM)" in (passed.findtext("system-out") or "")


def test_terminal_names_columns_and_offences() -> None:
    out = io.StringIO()
    report.to_terminal([run_of("PASS"), run_of("FAIL")], Console(file=out, width=200))
    text = out.getvalue()
    assert "p99 [ms]" in text
    assert "drain [s]" in text
    assert "lost hil/dev-1/data '7' (sent at 2.50 s): the gateway acknowledged it" in text


def test_offence_is_one_line_however_narrow_the_place_is() -> None:
    out = io.StringIO()
    report.to_terminal([run_of("FAIL")], Console(file=out, width=40))
    assert f"  lost {LOST} (sent at 2.50 s): {OFFENCES[0].why}" in out.getvalue().splitlines()


@pytest.mark.parametrize(("payload", "shown"), [
    (b"21.5 \xc2\xb0C", "a/b '21.5 °C'"), (b"\xff\x00", "a/b 0xff00"),
    ("é".encode() * 60, f"a/b '{'é' * 40}'")])
def test_payload_is_shown_as_text_where_it_is_text(payload: bytes, shown: str) -> None:
    assert str(Message("a/b", payload)) == shown


def test_write_gives_both_files(tmp_path: Path) -> None:
    page, xml = report.write([run_of()], tmp_path / "out")
    assert page.read_text(encoding="utf-8") == report.html([run_of()])
    assert ET.parse(xml).getroot().get("tests") == "1"
