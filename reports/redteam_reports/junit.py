"""JUnit XML, as Jenkins and others read it: a test case for every verdict and control.

A failure is a verdict that fails the gate. An error is something that could not be evaluated. A control that failed
without making a verdict invalid is a warning, for which JUnit has no word: it is `skipped`, with what was found.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from redteam import answer
from redteam.evaluation import gate
from redteam.evaluation.results import WITHOUT_FIGURE, Control, Results, Verdict
from redteam.files import write_atomically
from redteam_reports import wording

_UNREADABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Case:
    """One test case: its names, what became of it (element and message), and what is said about it."""

    suite: str
    group: str
    name: str
    outcomes: tuple[tuple[str, str], ...]
    text: str = ""
    seconds: float = 0.0


def write(results: Results, path: Path) -> None:
    """Writes the file.

    Raises:
        UnwritableOutput: If it cannot be written.
    """
    cases = [_run(results), *(_verdict(v, results) for v in results.verdicts), *map(_control, results.controls)]
    top = ElementTree.Element("testsuites", {"name": f"redteam {results.plan['name']}", **_counts(cases)})
    for suite in dict.fromkeys(case.suite for case in cases):
        mine = [case for case in cases if case.suite == suite]
        skipped = sum(kind == "skipped" for case in mine for kind, _ in case.outcomes)
        total = {"time": f"{sum(case.seconds for case in mine):.3f}", "skipped": str(skipped)}
        element = ElementTree.SubElement(top, "testsuite", {"name": suite, **_counts(mine), **total})
        for case in mine:
            _append(element, case)
    ElementTree.indent(top)
    text = ElementTree.tostring(top, encoding="unicode")
    write_atomically(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n')


def _run(results: Results) -> _Case:
    """The run as a whole: an error exactly where its exit code is 2."""
    outcomes = (("error", "; ".join(results.unevaluated)),) if results.unevaluated else ()
    lines = (
        answer.BOUND,
        gate.told(results.gate),
        f"Exit code {results.exit_code}.",
        wording.coverage(results.coverage),
    )
    text = "\n".join(lines)
    return _Case("run", "run", "everything could be evaluated", outcomes, text)


def _verdict(verdict: Verdict, results: Results) -> _Case:
    suite, where = f"{verdict.scenario}, {verdict.threat}", (verdict.scenario, verdict.defense, verdict.threat)
    outcomes = []
    if verdict.place not in {told.place for told in results.told}:
        outcomes.append(("skipped", f"left out among the victims in turn: {verdict.reason}"))
    elif verdict.verdict in WITHOUT_FIGURE:
        outcomes.append(("error", f"{verdict.verdict}: {verdict.reason}"))
    elif results.gate is not None and where in results.gate.undefined:
        outcomes.append(("error", f"the gate {results.gate.expression} is undefined here"))
    if results.gate is not None and where in results.gate.failed:
        outcomes.append(("failure", f"{results.gate.expression}: {verdict.verdict}, {verdict.reason}"))
    lines = [
        answer.sentence(verdict, results.about.get("defense")),
        f"{verdict.verdict}: {verdict.reason}",
        *verdict.flags,
    ]
    lines += [f"{fact.label}: {fact.text.replace('`', '')}" for fact in wording.facts(verdict)]
    return _Case(suite, suite, verdict.defense, tuple(outcomes), "\n".join(lines), verdict.cost.get("seconds") or 0.0)


def _control(control: Control) -> _Case:
    suite = f"{control.scenario}, {control.threat or 'all threat models'}: controls"
    about = " ".join(part for part in (control.attack, control.group, control.site) if part)
    name = " ".join(part for part in (about, f"on {control.defense}" if control.defense else "") if part)
    outcomes = {
        "ok": () if control.passed else (("skipped", f"{wording.outcome(control)}: {control.explanation}"),),
        "skipped": (("skipped", control.explanation),),
    }.get(control.status, (("error", f"{control.status}: {control.explanation}"),))
    return _Case(suite, f"control.{control.control}", name or control.control, outcomes, control.explanation)


def _counts(cases: Sequence[_Case]) -> dict[str, str]:
    kinds = [kind for case in cases for kind, _ in case.outcomes]
    return {"tests": str(len(cases)), "failures": str(kinds.count("failure")), "errors": str(kinds.count("error"))}


def _append(suite: ElementTree.Element, case: _Case) -> None:
    names = {"classname": _clean(case.group), "name": _clean(case.name), "time": f"{case.seconds:.3f}"}
    element = ElementTree.SubElement(suite, "testcase", names)
    for kind, message in sorted(case.outcomes, key=lambda outcome: ("skipped", "error", "failure").index(outcome[0])):
        ElementTree.SubElement(element, kind, {"message": _clean(message)})
    if case.text:
        ElementTree.SubElement(element, "system-out").text = _clean(case.text)


def _clean(text: str) -> str:
    """Without the characters that XML cannot hold."""
    return _UNREADABLE.sub("\ufffd", text)
