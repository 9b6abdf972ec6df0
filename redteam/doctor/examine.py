"""A base and the models that are to be merged on it, looked at from all sides."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping

from redteam.audit.walk import Progress
from redteam.checkpoint import Checkpoint
from redteam.checkpoint.parts import in_place
from redteam.checkpoint.vocabulary import as_long_as
from redteam.doctor.findings import Diagnosis, Examined, Finding, ordered
from redteam.doctor.gauges import far, shared
from redteam.doctor.headers import headers
from redteam.doctor.numbers import alone, layers, lengths, twins
from redteam.doctor.weighed import Weighed, copies, weigh


def examine(
    base: Checkpoint,
    models: Mapping[str, Checkpoint],
    *,
    paths: Mapping[str, str],
    at: str = "BASE",
    already: Iterable[Finding] = (),
    restoring: Callable[[], str] = str,
    progress: Progress | None = None,
) -> Diagnosis:
    """Says why a merge of models over their base will fail: what stops it, what damages it, what is worth knowing.

    Every tensor is read once, one at a time; fits are made on few layers, and only of a model that is further from the
    base than training goes.

    Args:
        base: The public base.
        models: Those that were fine-tuned from it, by name, with names of tensors that agree with the base's.
        paths: Name → where it lies, also of models that could not be opened.
        at: Where the base lies.
        already: What was found when they were opened.
        restoring: Asked for attacks that give a network its base's shapes back, for the sentence on other shapes.
        progress: Called before every step with steps done, steps in all, and what comes next.

    Raises:
        BadInput: If a tensor cannot be read.
    """
    findings, fit = list(already), dict[str, Checkpoint]()
    for name, model in models.items():
        found = list(headers(name, model, base, restoring=restoring))
        findings += found
        if all(finding.kind != "unrelated" for finding in found):
            fit[name] = in_place(as_long_as(model, base), base)
    weighed = weigh(fit, base, progress)
    trained: dict[str, Weighed] = {}
    for name, one in weighed.items():
        found = list(alone(name, one))
        if not one.refused:
            where = (shlex.quote(paths[name]), shlex.quote(at))
            found += far(name, models[name], base, one, where)
        if all(finding.kind == "dtype" or finding.severity == "note" for finding in found):
            found += layers(name, one)
            trained[name] = one
        findings += found
    locked = {name for finding in findings if finding.kind == "gauge" for name in finding.models}
    findings += [*twins(copies(fit, weighed)), *lengths(trained), *shared({name: fit[name] for name in sorted(locked)})]
    return Diagnosis(
        base=at,
        models=tuple(_summed(name, path, weighed.get(name)) for name, path in paths.items()),
        findings=ordered(tuple(findings)),
    )


def _summed(name: str, path: str, one: Weighed | None) -> Examined:
    if one is None:
        return Examined(name=name, path=path)
    return Examined(
        name=name, path=path, shared=len(one.shared), changed=len(one.shared) - len(one.same), length=one.length
    )
