"""`redteam protect`: puts a defense on a checkpoint and writes what may be published."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import completion, of_adapters, of_tokenizers, opening
from redteam.cli.achieved import Achieved
from redteam.cli.printing import Json, Quiet, Said, Verbose
from redteam.errors import BadInput, NotACheckpoint

if TYPE_CHECKING:
    from torch import Tensor

    from redteam.checkpoint import Checkpoint
    from redteam.evaluation.resolve import Pipeline
    from redteam.key import Key
    from redteam.tasks import Scenario
    from redteam.views import DefenderView


FINGERPRINT = "fingerprint of key and defense"
"""Of a row in the model card."""
_SAMPLES = 16  # real inputs that are tried
_OTHER_SWITCHES = (
    "Where its config has switches that the catalogue was not tried with, redteam describe MODEL --out FILE may find "
    "what does keep it, for --architecture FILE."
)


class Dtype(StrEnum):
    """In what to store."""

    float64 = "float64"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def protect(
    defense: Annotated[str, typer.Argument(metavar="DEFENSE", help=shared.CHAIN, autocompletion=completion.DEFENSE)],
    model: shared.Model,
    out: shared.Out,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The key, 32 random bytes; made if there is no such file.", callback=shared.at_home
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="The public model, for defenses that ask for it.", callback=shared.at_home)
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="SCENARIO", help="Where training data come from, for defenses that ask.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Store weights so [default: as they were].")] = None,
    device: shared.OnDevice = shared.Device.cpu,
    certify: Annotated[
        bool, typer.Option("--certify", help="Run the network before and after, and say how far its outputs changed.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Certify, and write nothing if a loss is over its bound.")
    ] = False,
    unproven: Annotated[
        bool, typer.Option("--unproven", help="Write it without running the network before and after.")
    ] = False,
    check: shared.Check = False,
    architecture: shared.Description = None,
    dequantise: shared.Dequantise = False,
    force: shared.Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Put a defense on a checkpoint, or on an adapter, and write what may be published.

    A lock is written only with its proof: the network runs before and after, in float64, on made-up inputs and those of
    --data, and its outputs must agree. Without that (--unproven) the checkpoint is never held in memory. Shards, names
    and dtype stay as they were; computed in float64 and rounded once. Keep the key: with it `redteam attack key-holder`
    takes the lock off again.
    """
    from redteam.plugins.registry import DEFENSES, SCENARIOS

    DEFENSES.require_all(defense)  # a slip in a name or a path is said before torch is imported
    shared.require_usable(device, out, force, [model, base])
    flags = DEFENSES.decorations(defense)
    if any(said.get("sealed") == "True" for said in flags):
        raise _sealed(defense)
    if any(said.get("keyed") == "True" for said in flags):
        shared.key_at(_require_key(defense, key), out)
    if data is not None:
        SCENARIOS.require_all(data)
    model, base = opening.on_disk(model), base and opening.on_disk(base)
    said = Said(as_json)
    import torch

    from redteam.checkpoint.loading import require_agreement, require_loads
    from redteam.evaluation.pipelines import apply
    from redteam.evaluation.resolve import Pipeline
    from redteam.plugins.returned import check_as_read

    chain = Pipeline.load(DEFENSES, defense, Path())
    _require_alone(chain)
    if of_adapters.rewrites_factors(chain):
        _protect_adapter(
            chain,
            model,
            base,
            out,
            key,
            dtype=dtype,
            data=data,
            force=force,
            strict=strict,
            certify=certify,
            unproven=unproven,
            check=check,
            dequantise=dequantise,
            said=said,
        )
        said.end(out)
        return
    victim, given = opening.open_model(model, base, dequantise=shared.read_as(dequantise, dtype))
    opening.tell_description(architecture, victim, model)
    spelling, layout = victim.spelling, shared.laid_out_like(model, base)
    stored = victim if dtype is None else victim.cast(getattr(torch, dtype))
    if of_tokenizers.renumbers(chain):
        victim = of_tokenizers.as_they_are(victim, layout, f"The defense {chain.text}")
    secret, new = _key_for(chain, key, out)
    with shared.working() as progress:
        scenario = _scenario(data)
        protected, views = apply(
            chain.links,
            victim.cast(torch.float64, device),
            None if given is None else given.cast(torch.float64, device),
            secret,
            check=check_as_read,
            task=scenario.tasks[scenario.victim] if scenario else None,
        )
        sites = where(victim, views)
        adapted = [sentence for view in views for sentence in view.adaptations()]
        described = architecture is not None
        exact = _exact(chain) and not unproven
        proof = _proven(victim, protected, scenario, views, described=described) if exact else ""
        told = _certified(victim, protected, stored, scenario, strict=strict) if certify or strict else ()
        made, tokens, numbered = of_tokenizers.told(victim, protected, layout)
        achieved = Achieved(made.stored_as(stored), stored, given)
        rows = {**_rows(chain, sites, adapted, stored, proof, secret), **numbered}
        with shared.keep(secret, key, out) if new and key is not None else nullcontext():
            written = shared.save(
                achieved,
                out,
                **layout,
                spelling=spelling,
                force=force,
                progress=progress,
                title=opening.PROTECTED,
                rows=rows,
                tokens=tokens,
                check=lambda: _require_effect(chain, achieved),
                ending="The weights were rewritten so that the model works alone and merging it with others fails.",
            )
    said.facts |= rows
    for line in (
        *told,
        *(f"{kind}: {what}" for kind, what in sites),
        *(f"Adapted: {one}" for one in adapted),
        *of_tokenizers.sentences(numbered),
    ):
        said(line)
    if proof:
        said(proof)
    elif _exact(chain):
        said("Not proven: the network was not run, so whether it still computes the same is not known.")
    if key is not None and _keyed(chain):
        said(_told_of_key(key, new))
    shared.tell(said, written, achieved, f"{chain.text} is on; the model is in {out}.")
    require_agreement(out, layout["like"])
    if check:
        said(require_loads(out, layout["like"]))
    said.end(out)


def _protect_adapter(
    chain: Pipeline,
    model: Path,
    base: Path | None,
    out: Path,
    key: Path | None,
    *,
    dtype: Dtype | None,
    data: str | None,
    force: bool,
    strict: bool,
    certify: bool,
    unproven: bool,
    check: bool,
    dequantise: bool,
    said: Said,
) -> None:
    """As `protect`, where the defense rewrites an adapter's factors; what is written is an adapter."""
    import torch

    from redteam.checkpoint import Checkpoint
    from redteam.evaluation.pipelines import apply
    from redteam.plugins.returned import check_as_read

    what = f"The defense {chain.text}"
    of_adapters.refuse_options({"--certify": certify, "--strict": strict, "--load": check}, what)
    victim, anchor, like = of_adapters.open_adapter(model, base, what, dequantise=shared.read_as(dequantise))
    secret, new = _key_for(chain, key, out)
    with shared.working() as progress:
        exact = victim.cast(torch.float64)
        protected, views = apply(chain.links, exact, anchor.cast(torch.float64), secret, check=check_as_read, task=None)
        rewritten = of_adapters.require_rewritten(exact, protected, what)
        proven = not unproven
        proof = _proven(exact, protected, _scenario(data), views, described=False) if proven else ""
        held = Checkpoint(like.held, {})
        stored = held if dtype is None else held.cast(getattr(torch, dtype))
        rows = _rows(chain, where(exact, views), [], stored, proof, secret)
        with shared.keep(secret, key, out) if new and key is not None else nullcontext():
            told = of_adapters.write(
                protected,
                out,
                rewritten=rewritten,
                like=like,
                anchor=anchor,
                dtype=None if dtype is None else getattr(torch, dtype),
                force=force,
                progress=progress,
                title=opening.PROTECTED,
                rows=rows,
                ending="The factors were rewritten so that their product stays and combining them with others' fails.",
            )
    said.facts |= rows
    for line in (*told, proof or "Not proven: the network was not run."):
        said(line)
    if key is not None and _keyed(chain):
        said(_told_of_key(key, new))
    said(f"{chain.text} is on; the adapter is in {out}.")


def where(victim: Checkpoint, views: Sequence[DefenderView]) -> list[tuple[str, str]]:
    """What was put where, kind by kind of sites: the kind, and the group with the number of sites."""
    from redteam.anatomy import anatomy_of
    from redteam.symmetry import Lock

    lines: list[tuple[str, str]] = []
    for lock in (lock for view in views for lock in view.locks):
        if isinstance(lock, Lock):
            there = Counter(site.kind for site in anatomy_of(victim).sites())
            found = Counter((site.kind, lock.groups[site.label]) for site in lock.sites)
            for (kind, group), n in found.items():
                of = f" of {there[kind]}" if n < there[kind] else ""
                lines.append((kind, f"{group} at {n}{of} {'site' if there[kind] == 1 else 'sites'}"))
        else:
            # What a defense brought itself says at most which kinds of sites it is for.
            lines.append((", ".join(getattr(lock, "kinds", ())) or "weights", _words(type(lock).__name__)))
    return lines


def _words(name: str) -> str:
    return re.sub(r"(?<=.)([A-Z])", r" \1", name).lower()


def _key_for(chain: Pipeline, path: Path | None, out: Path) -> tuple[Key, bool]:
    """The key for a chain, and whether it is still to be written; a defense that draws on none gets nobody's."""
    from redteam.key import Key

    if not _keyed(chain):
        return Key.generate(), False
    return shared.key_at(_require_key(chain.text, path), out)


def _require_key(text: str, path: Path | None) -> Path:
    if path is None:
        raise BadInput(f"The defense {text} draws on a key; name its file with --key, which is made if missing.")
    return path


def _told_of_key(path: Path, new: bool) -> str:
    return f"The key is in {path}{', made now' if new else ''}; whoever has it takes the lock off."


def _require_alone(chain: Pipeline) -> None:
    """Refuses what seals: what is written here must run by itself."""
    if chain.any(lambda spec: spec.sealed):
        raise _sealed(chain.text)


def _sealed(defense: str) -> BadInput:
    return BadInput(
        f"{defense} seals the weights, which then run in an enclave alone, and there is none here to write for; judge "
        f"it with redteam run --defense {defense} --threat sealed."
    )


def _keyed(chain: Pipeline) -> bool:
    return chain.any(lambda spec: spec.keyed)


def _exact(chain: Pipeline) -> bool:
    return all(link.spec.exact for link in chain.links)


def _require_effect(chain: Pipeline, achieved: Achieved) -> None:
    if chain.any(lambda spec: spec.protects):
        achieved.require_rewritten(f"The defense {chain.text}")


def _scenario(data: str | None) -> Scenario | None:
    from redteam.evaluation.bench import load_scenario

    return None if data is None else load_scenario(data)


def _real(scenario: Scenario | None) -> dict[str, Tensor] | None:
    """Inputs of the victim's own task, where there are some."""
    if scenario is None:
        return None
    return {k: v[:_SAMPLES] for k, v in scenario.tasks[scenario.victim].inputs_of("validation").items()}


def _proven(
    victim: Checkpoint,
    protected: Checkpoint,
    scenario: Scenario | None,
    views: Sequence[DefenderView],
    *,
    described: bool,
) -> str:
    import torch

    from redteam.symmetry import prove

    before, after = victim.cast(torch.float64), protected.cast(torch.float64, "cpu")
    try:
        proof = prove(before, after, _real(scenario), small=_multiplies(views))
    except (NotACheckpoint, BadInput) as error:
        raise BadInput(
            f"{error} A lock is written only with its proof, for which the network must run; nothing was written "
            "(--unproven goes without)."
        ) from error
    if not proof.holds:
        hint = "" if described else f" {_OTHER_SWITCHES}"
        raise BadInput(f"{proof} Nothing was written.{hint}")
    return str(proof)


def _multiplies(views: Sequence[DefenderView]) -> bool:
    """Whether a factor may be on what norms read: of what a defense brought itself nobody knows."""
    from redteam.symmetry import Lock

    locks = [lock for view in views for lock in view.locks]
    known = all(isinstance(lock, Lock) for lock in locks) and bool(locks)
    return not known or any(site.kind == "norm-scale" for lock in locks for site in getattr(lock, "sites", ()))


def _certified(
    victim: Checkpoint, protected: Checkpoint, stored: Checkpoint, scenario: Scenario | None, *, strict: bool
) -> list[str]:
    import torch

    from redteam.symmetry import certify

    found = certify(victim.cast(torch.float64), protected.cast(torch.float64, "cpu"), _real(scenario))
    if strict and (losses := found.losses(_dtypes(stored))):
        raise BadInput(f"{' '.join(losses)} Nothing was written (--strict).")
    return str(found).splitlines()


def _rows(
    chain: Pipeline,
    sites: Sequence[tuple[str, str]],
    adapted: Sequence[str],
    stored: Checkpoint,
    proof: str,
    key: Key,
) -> dict[str, str]:
    """What the model card says."""
    outputs = "changed: the defense is not exact" if not _exact(chain) else proof or "not proven to be the original's"
    return {
        "defense": " + ".join(f"`{_settings(link)}`" for link in chain.links),
        "where": "; ".join(f"{kind}: {what}" for kind, what in sites) or "nowhere",
        **({"adapted": " ".join(adapted)} if adapted else {}),
        "outputs": outputs,
        "stored in": ", ".join(sorted(_dtypes(stored))),
        **({FINGERPRINT: fingerprint(chain, key)} if _keyed(chain) else {}),
    }


def fingerprint(chain: Pipeline, key: Key) -> str:
    """What the card says of key and defense, so that a wrong one is told (`Key.fingerprint`)."""
    return key.fingerprint("+".join(_settings(link) for link in chain.links))


def _dtypes(checkpoint: Checkpoint) -> set[str]:
    return {str(checkpoint.dtype(name)).removeprefix("torch.") for name in checkpoint}


def _settings(link: Any) -> str:
    from redteam.plugins.reference import Reference

    return str(Reference(link.spec.name, link.settings))
