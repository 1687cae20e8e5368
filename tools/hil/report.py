"""Reports of runs: on the terminal (rich), as JUnit XML, and as one HTML file."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.markup import escape as plain
from rich.table import Table

from tools.hil import svg
from tools.hil.judgement import STAGES, Judgement
from tools.hil.outcome import Run

COLOURS = {"PASS": "green", "FAIL": "red", "INVALID": "yellow"}
STAGE_HEAD = ("stage", "messages", "p50 ms", "p95 ms", "p99 ms", "max ms")
EXPECTED_HEAD = ("expectation", "", "measured")
OFFENCE_HEAD = ("kind", "which", "why", "sent at s")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = """
:root{--ink:#1c2630;--soft:#66727e;--line:#d9dfe5;--paper:#fff;--card:#f6f8fa;--sent:#8a97a5;
--came:#1f6fb2;--fault:#c9541a;--pass:#1a7f4b;--fail:#b3261e;--invalid:#8a6100}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--soft:#9aa7b4;--line:#38424d;
--paper:#14191f;--card:#1c232b;--sent:#7d8a98;--came:#5aa9e6;--fault:#f08a4b;--pass:#4fc487;
--fail:#ff7a70;--invalid:#e0b040}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
max-width:1080px;padding:24px}h1{font-size:22px;margin:28px 0 2px}h2{font-size:16px;margin:24px 0
6px}.soft,td.soft{color:var(--soft)}.PASS{color:var(--pass)}.FAIL{color:var(--fail)}
.INVALID{color:var(--invalid)}.badge{font-weight:700}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--line);
vertical-align:top}th{font-weight:600}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}.wide svg{min-width:760px}table.narrow{width:auto}
td.badge{width:90px}code,pre{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}
pre{background:var(--card);padding:10px;overflow:auto;max-height:300px}svg{width:100%;height:auto;
display:block}svg text{font:11px system-ui,sans-serif;fill:var(--ink)}svg .small{fill:var(--soft)}
svg .fault{fill:var(--fault)}svg .name{font-weight:600}svg .axis{stroke:var(--line)}
svg .band{fill:var(--fault);opacity:.13}
svg .offence{stroke:var(--fail);stroke-width:2}svg polyline{fill:none;stroke-width:1.6}
svg polyline.sent{stroke:var(--sent)}svg polyline.came{stroke:var(--came)}
svg g.sent{fill:var(--sent)}
svg g.came,svg .bar{fill:var(--came)}svg .mark{stroke:var(--fault);stroke-dasharray:3 3}
.key i{display:inline-block;width:12px;height:4px;margin:0 5px 3px 14px;background:var(--sent)}
.key i.came{background:var(--came)}.key i.band{background:var(--fault);opacity:.4;height:10px}
.key i.offence{background:var(--fail);width:2px;height:10px}
"""


def number(value: float) -> str:
    """Return a measured number as people read it."""
    if value % 1 == 0:
        return f"{value:,.0f}"
    return f"{value:,.3g}" if abs(value) < 10 else f"{value:,.1f}"


def _measured(verdict: Judgement, expectation: str) -> str:
    value = verdict.measured.get(expectation.split()[0])
    return "not measured" if value is None else number(value)


def _place(verdict: Judgement) -> str:
    """Say what is wrong."""
    return "; ".join(verdict.invalid) or ", ".join(
        f"{text} does not hold: {_measured(verdict, text)}"
        for text, holds in verdict.expectations if not holds)


def to_terminal(runs: Sequence[Run], console: Console) -> None:
    """Print a table of the runs, and the offences of each that did not pass."""
    table = Table(box=None, header_style="bold")
    for name in ("scenario", "verdict", "owed", "lost", "doubled", "reordered", "p99 [ms]",
                 "drain [s]"):
        left = name in ("scenario", "verdict")
        table.add_column(plain(name), justify="left" if left else "right")
    for run in runs:
        verdict, measured = run.verdict, run.verdict.measured
        colour = COLOURS[verdict.outcome]
        table.add_row(run.scenario.name, f"[{colour}]{verdict.outcome}[/]", *(
            f"{measured[name]:,.0f}" for name in
            ("produced", "lost", "duplicated", "reordered", "p99_ms")),
            f"{measured['drain_s']:.1f}")
    console.print(table)
    for run in runs:
        verdict = run.verdict
        if verdict.outcome == "PASS":
            continue
        console.print(f"\n[bold]{run.scenario.name}[/] "
                      f"[{COLOURS[verdict.outcome]}]{verdict.outcome}[/] {plain(_place(verdict))}",
                      soft_wrap=True)
        for offence in verdict.offences[:10]:
            at = "" if offence.t_s is None else f" (sent at {offence.t_s:.2f} s)"
            why = f": {offence.why}" if offence.why else ""
            console.print(f"  {plain(f'{offence.kind} {offence.what}{at}{why}')}",
                          highlight=False, soft_wrap=True)


def junit(runs: Sequence[Run]) -> str:
    """Return JUnit XML: a test case a scenario; INVALID is an error, FAIL a failure."""
    outcomes = Counter(run.verdict.outcome for run in runs)
    suite = ET.Element("testsuite", name="tidegate hil", tests=str(len(runs)),
                       failures=str(outcomes["FAIL"]), errors=str(outcomes["INVALID"]),
                       time=f"{sum(run.seconds for run in runs):.3f}")
    for run in runs:
        verdict = run.verdict
        case = ET.SubElement(suite, "testcase", classname="hil", name=run.scenario.name,
                             time=f"{run.seconds:.3f}")
        if verdict.outcome != "PASS":
            kind = "failure" if verdict.outcome == "FAIL" else "error"
            problem = ET.SubElement(case, kind, message=_NOT_XML.sub("?", _place(verdict)))
            problem.text = _NOT_XML.sub("?", "\n".join(
                f"{offence.kind} {offence.what}: {offence.why}" for offence in verdict.offences))
        out = ET.SubElement(case, "system-out")
        out.text = _NOT_XML.sub("?", verdict.line + "\n" + "\n".join(
            f"{moment.t_s:.1f} s {moment.what}" for moment in run.moments))
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _bands(run: Run) -> list[tuple[float, float, str]]:
    """Pair each fault with the moment it was taken back."""
    bands, heals = [], [moment for moment in run.moments if moment.kind == "heal"]
    for moment in run.moments:
        if moment.kind != "fault":
            continue
        end = next((heal for heal in heals
                    if heal.t_s >= moment.t_s and heal.what == f"over: {moment.what}"), None)
        if end is not None:
            heals.remove(end)
        bands.append((moment.t_s, end.t_s if end else moment.t_s, moment.what))
    return bands


def _per_second(times: Sequence[tuple[float, str]], end_s: float) -> list[tuple[float, float]]:
    step = max(end_s / 200, 0.1)
    counts = Counter(int(t_s / step) for t_s, _ in times if t_s >= 0)
    return [(bin_ * step, round(counts[bin_] / step, 1)) for bin_ in range(int(end_s / step) + 1)]


def _natural(name: str) -> tuple[str, int]:
    """Sort dev-2 before dev-10."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem):] or 0)


def _charts(run: Run) -> str:
    ends = [t_s for t_s, _ in (*run.sent, *run.arrived, *run.depth)]
    end_s = max([run.seconds, *ends])
    timeline = svg.Timeline(end_s, _bands(run))
    timeline.lines("messages/s", [("sent", _per_second(run.sent, end_s)),
                                  ("came", _per_second(run.arrived, end_s))])
    timeline.lines("backlog", [("came", run.depth)], height=60)
    lanes = sorted({lane for _, lane in run.sent}, key=_natural)
    timeline.marks("offences", [one.t_s for one in run.verdict.offences if one.t_s is not None])
    timeline.lanes("devices", lanes, run.sent, run.arrived)
    whole = run.verdict.stages[STAGES[3]]
    marks = [(name, round(whole.percentile(percent), 1))
             for name, percent in (("p50", 50), ("p99", 99))]
    return (f"<h2>Timeline</h2><p class='soft key'><i></i>sent<i class='came'></i>arrived"
            f"<i class='band'></i>fault<i class='offence'></i>when something was sent that went "
            f"wrong</p><div class='wide'>{timeline.render('timeline')}</div>"
            f"<h2>Latency, end to end</h2><div class='wide'>"
            f"{svg.histogram(whole.bars(), marks, 'latency')}</div>")


def _row(cells: Sequence[object], tag: str = "td", kinds: str = "") -> str:
    return "<tr>" + "".join(
        f'<{tag} class="{kinds[index : index + 1]}">{escape(str(cell))}</{tag}>'
        for index, cell in enumerate(cells)) + "</tr>"


def _times(summary: Mapping[str, float]) -> list[str]:
    """Return a stage's numbers; of what was not seen there are none."""
    count, *times = summary.values()
    return [number(count), *(number(time_ms) if count else "-" for time_ms in times)]


def _section(run: Run) -> str:
    verdict = run.verdict
    stages = "".join(
        _row([name, *_times(verdict.stages[name].summary())], kinds=" nnnnn")
        for name in STAGES)
    expected = "".join(
        f'<tr><td>{escape(text)}</td><td class="{"PASS" if holds else "FAIL"}">'
        f'{"holds" if holds else "does not hold"}</td>'
        f'<td class="n">{escape(_measured(verdict, text))}</td></tr>'
        for text, holds in verdict.expectations)
    offences = "".join(
        _row([one.kind, one.what, one.why, "" if one.t_s is None else f"{one.t_s:.2f}"],
             kinds="   n") for one in verdict.offences) or _row(["none", "", "", ""])
    logs = "".join(f"<details><summary><code>{escape(name)}</code></summary>"
                   f"<pre>{escape(text)}</pre></details>" for name, text in run.logs.items())
    story = "".join(_row([f"{moment.t_s:.1f} s", moment.what], kinds="n ")
                    for moment in run.moments)
    late = "".join(f"<p class='soft'>{escape(report.line)}</p>" for report in run.replays)
    return (
        f'<section><h1>{escape(run.scenario.name)} <span class="badge {verdict.outcome}">'
        f'{verdict.outcome}</span></h1><p>{escape(run.scenario.title)}</p>'
        f'<p class="soft"><code>{escape(verdict.line)}</code></p>{_charts(run)}'
        f'<div class="wide"><table>{_row(STAGE_HEAD, "th", " nnnnn")}'
        f'{stages}</table></div><h2>Expected</h2><div class="wide"><table>'
        f'{_row(EXPECTED_HEAD, "th", "  n")}{expected}</table></div>'
        f'<h2>Offences</h2><div class="wide"><table>{_row(OFFENCE_HEAD, "th", "   n")}'
        f"{offences}</table></div>{late}<h2>What happened</h2>"
        f"<table class='narrow'>{story}</table><h2>Logs</h2>{logs}</section>")


def html(runs: Sequence[Run]) -> str:
    """Return one HTML page with all in it."""
    summary = _row(("scenario", "verdict", "", "owed"), "th", "   n") + "".join(
        f'<tr><td>{escape(run.scenario.name)}</td><td class="badge {run.verdict.outcome}">'
        f"{run.verdict.outcome}</td><td>{escape(_place(run.verdict))}</td>"
        f'<td class="n">{number(run.verdict.measured["produced"])}</td></tr>' for run in runs)
    sections = "".join(_section(run) for run in runs)
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width"><title>Tidegate HIL report</title><style>{_STYLE}'
            f'</style></head><body><h1>Tidegate HIL report</h1><div class="wide"><table>{summary}'
            f"</table></div>{sections}</body></html>\n")


def write(runs: Sequence[Run], folder: Path) -> tuple[Path, Path]:
    """Write report.html and junit.xml into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    page, xml = folder / "report.html", folder / "junit.xml"
    page.write_text(html(runs), encoding="utf-8")
    xml.write_text(junit(runs), encoding="utf-8")
    return page, xml
