"""`redteam attack`: tries to take a lock off a checkpoint, from weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redteam.cli import checkpoint_options as shared
from redteam.cli import completion, of_adapters, of_tokenizers, opening
from redteam.cli.achieved import Achieved
from redteam.cli.printing import Json, Quiet, Said, Verbose
from redteam.errors import BadInput, NotACheckpoint

if TYPE_CHECKING:
    from redteam.checkpoint import Checkpoint
    from redteam.checkpoint.adapter_folder import Rewritten
    from redteam.checkpoint.plain_lora import Merged
    from redteam.evaluation.resolve import Pipeline
    from redteam.key import Key as Secret
    from redteam.plugins.contracts import Needs


_ENDING = "A lock against merging may have been taken off the weights."
_NOT_PROVEN = "Not proven: the network was not run, so whether it still computes the same is not known."
_LITTLE = 0.5  # of the distance to the base: what stays of it where a lock comes off is what training moved


def attack(
    attack: Annotated[str, typer.Argument(metavar="ATTACK", help=shared.CHAIN, autocompletion=completion.ATTACK)],
    model: shared.Model,
    out: shared.Out,
    base: Annotated[
        Path | None, typer.Option(help="The public model that MODEL was fine-tuned from.", callback=shared.at_home)
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For the key's holder: the key.", callback=shared.at_home)
    ] = None,
    defense: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.DEFENSE,
            help="For the key's holder: the defense as it was put on, settings and all.",
        ),
    ] = None,
    device: shared.OnDevice = shared.Device.cpu,
    certify: Annotated[
        bool, typer.Option("--certify", help="Run both networks as stored, and say how far the outputs lie apart.")
    ] = False,
    unproven: Annotated[
        bool, typer.Option("--unproven", help="Write it without running the network before and after.")
    ] = False,
    check: shared.Check = False,
    seed: shared.Seed = 0,
    architecture: shared.Description = None,
    dequantise: shared.Dequantise = False,
    force: shared.Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Try to take a lock off a checkpoint, or an adapter, from its weights and the base's.

    Attacks that need data, companions or further releases run in `redteam run`. The owner takes a lock off with
    `redteam attack key-holder MODEL --key FILE --defense DEFENSE --out DIR`. What only changes the basis must keep the
    outputs: the network runs before and after, in float64, unless it can't or --unproven says not to.
    """
    from redteam.key import read_key
    from redteam.plugins.contracts import Needs
    from redteam.plugins.registry import ATTACKS, DEFENSES

    ATTACKS.require_all(attack)  # a slip in a name or a path is said before torch is imported
    if defense is not None:
        DEFENSES.require_all(defense)
    if key is not None:
        read_key(key)
    held = [need for need, value in ((Needs.ANCHOR, base), (Needs.KEY, key), (Needs.CODE, defense)) if value]
    for link in ATTACKS.decorations(attack):
        _require_grants(Needs.written(link.get("needs", "")), attack, held)
    shared.require_usable(device, out, force, [model, base], key)
    model, base = opening.on_disk(model), base and opening.on_disk(base)
    said = Said(as_json)
    from redteam.checkpoint.loading import require_agreement, require_loads
    from redteam.evaluation.resolve import Pipeline

    chain = Pipeline.load(ATTACKS, attack, Path())
    lock = None if defense is None else Pipeline.load(DEFENSES, defense, Path())
    _require_grants(chain.needs, attack, held)
    secret: Secret | None = None if key is None else read_key(key)
    key_told = _key_told(model, lock, secret)
    what = f"The attack {chain.text}"
    like: Merged | None = None
    anchor: Checkpoint | None
    reshapes = chain.any(lambda spec: spec.changes_architecture)
    if of_adapters.rewrites_factors(lock if lock and Needs.CODE in chain.needs else chain):
        protected, anchor, like = of_adapters.open_adapter(model, base, what, dequantise=shared.read_as(dequantise))
    else:
        protected, anchor = opening.open_model(model, base, shapes=not reshapes, dequantise=shared.read_as(dequantise))
    opening.tell_description(architecture, protected, model)
    spelling, layout = protected.spelling, shared.laid_out_like(model, base)
    if of_tokenizers.renumbers(lock) and Needs.CODE in chain.needs:
        protected = of_tokenizers.as_they_are(protected, layout, what)
    elif of_tokenizers.renumbers(chain) and base is not None:
        protected = of_tokenizers.by_their_strings(protected, layout, base, what)
    kept = _keeps_function(chain, lock)
    rows = {"attack": f"`{chain.text}`", "base": "none" if base is None else opening.named(base)}
    rows |= {"seed": str(seed)} if seed else {}
    with shared.working() as progress:
        recovered = _recovered(chain, lock, protected, anchor, secret, device, seed)
        rewritten: Rewritten | None = None
        if like is not None and recovered.has_factors:
            of_adapters.refuse_options({"--certify": certify, "--load": check}, what)
            rewritten = of_adapters.require_rewritten(protected, recovered, what)
        proof = _proven(protected, recovered, reshapes=reshapes) if kept and not unproven else ""
        if like is not None and anchor is not None and rewritten is not None:
            told = of_adapters.write(
                recovered,
                out,
                rewritten=rewritten,
                like=like,
                anchor=anchor,
                force=force,
                progress=progress,
                title=opening.ATTACKED,
                rows=rows,
                ending=_ENDING,
            )
            for line in (*told, proof or _NOT_PROVEN):
                said(line)
            if secret is not None and not key_told:
                said("Nothing here tells whether the key was the right one: under any other the product stays.")
            said(f"{chain.text} is done; the adapter is in {out}.")
            said.facts |= rows
            said.end(out)
            return
        made, tokens, numbered = of_tokenizers.told(protected, recovered, layout)
        with shared.read_ahead(made.stored_as(protected)) as ready:
            achieved = Achieved(ready, protected, anchor)
            written = shared.save(
                achieved,
                out,
                **layout,
                spelling=spelling,
                tokens=tokens,
                force=force,
                progress=progress,
                title=opening.ATTACKED,
                rows={**rows, **numbered},
                check=lambda: None if like else _require_effect(chain, achieved, what),
                ending=_ENDING,
            )
    said.facts |= {**rows, **numbered}
    for line in of_tokenizers.sentences(numbered):
        said(line)
    outputs = "" if kept else "; its outputs may have changed"
    shared.tell(said, written, achieved, f"{chain.text} is done; the model is in {out}{outputs}.")
    if kept:
        said(proof or _NOT_PROVEN)
    if certify:
        said(_certified(protected, recovered, out))
    if achieved.distances is None and secret is not None and not key_told:
        said("Nothing here tells whether the key was the right one; --base would.")
    elif like is None and achieved.distances is not None and achieved.distances[1] > _LITTLE * achieved.distances[0]:
        said("It is hardly nearer to the base than before: there was no lock, or none that this undoes.")
    require_agreement(out, layout["like"])
    if check:
        said(require_loads(out, layout["like"]))
    said.end(out)


def _recovered(
    chain: Pipeline,
    lock: Pipeline | None,
    protected: Checkpoint,
    anchor: Checkpoint | None,
    secret: Secret | None,
    device: str,
    seed: int,
) -> Checkpoint:
    """What the links of a chain make of a model, one after the other, in float64."""
    import torch

    from redteam.evaluation.pipelines import remove
    from redteam.key import Key
    from redteam.plugins.returned import check_as_read
    from redteam.threat import OWNER
    from redteam.views import AttackerView

    exact = None if anchor is None else anchor.recent().cast(torch.float64, device)

    def unlock(checkpoint: Checkpoint, key: Secret) -> Checkpoint:
        return remove(lock.links if lock else (), checkpoint, exact, key)

    recovered = protected.recent().cast(torch.float64, device)
    for link in chain.links:
        view = AttackerView(
            recovered,
            OWNER,
            Key.derive(seed=seed, index=0, name=f"attack {link.spec.name}"),
            needs=link.spec.needs,
            _anchor=exact,
            _key=secret,
            _unlock=unlock,
        )
        recovered = check_as_read(link, recovered, link(view))
    return recovered


def _keeps_function(chain: Pipeline, lock: Pipeline | None) -> bool:
    return all(link.spec.keeps_function for link in chain.links) and all(
        link.spec.exact and not link.spec.sealed for link in (lock.links if lock else ())
    )


def _proven(protected: Checkpoint, recovered: Checkpoint, *, reshapes: bool) -> str:
    """The sentence on an attack that must keep the outputs, or why nothing can be said.

    Where shapes are restored, what cancels goes, and in a release that was rounded it did so but for rounding.

    Raises:
        BadInput: If the outputs changed.
    """
    import torch

    from redteam.symmetry import prove
    from redteam.symmetry.rounding import explained_by_rounding

    locked, found = protected.cast(torch.float64), recovered.cast(torch.float64, "cpu")
    try:
        proof = prove(locked, found)
        if proof.outputs_moved:
            proof = prove(locked, found, eps=False)  # a factor that norms take out is seen by their eps
    except (BadInput, NotACheckpoint) as error:
        return f"Not proven: {error}"
    if proof.outputs_moved and reshapes:
        explained = explained_by_rounding(protected, found, eps=proof.eps)
        if proof.change <= explained:
            return (
                f"Proven up to rounding: in float64 the outputs change by {proof.change:.1e} of their size, where the "
                f"rounding of what was taken out explains up to {explained:.1e}."
            )
    if proof.outputs_moved:
        raise BadInput(
            f"{proof} The description of this model type does not fit it (docs/architectures.md), or the attack is "
            "wrong. Nothing was written (--unproven writes it anyway)."
        )
    return str(proof)


def _certified(protected: Checkpoint, recovered: Checkpoint, out: Path) -> str:
    """How far the outputs of what was written lie from those of the locked model."""
    import torch

    from redteam.checkpoint import Checkpoint
    from redteam.checkpoint.tensors import NUMBERS
    from redteam.symmetry import prove

    try:
        written = Checkpoint.open(out).canonical().replace(recovered.only({NUMBERS} & set(recovered)))
        proof = prove(protected.cast(torch.float64), written.cast(torch.float64))
    except (BadInput, NotACheckpoint) as error:
        return f"Not certified: {error}"
    return f"Run in float64, its outputs differ from the locked model's by {proof.change:.1e} of their size."


def _require_effect(chain: Pipeline, achieved: Achieved, what: str) -> None:
    """Refuses a result that is not what was asked for; attacks that steal nothing by design may do as they like."""
    if chain.role not in ("naive", "trivial"):
        achieved.require_rewritten(what)
        achieved.require_nearer(what)


def _key_told(model: Path, lock: Pipeline | None, secret: Secret | None) -> bool:
    """Whether the model's card says that key and defense are the right ones.

    Raises:
        BadInput: If its fingerprint differs.
    """
    from redteam.checkpoint.companion_files import card_row
    from redteam.cli.protect import FINGERPRINT, fingerprint

    said = card_row(model, opening.PROTECTED, FINGERPRINT)
    if lock is None or secret is None or said is None:
        return False
    if said != fingerprint(lock, secret):
        raise BadInput(
            f"The card of {model} says that it was locked under another key or by another defense than {lock.text} "
            f"({FINGERPRINT}: {said}); give --key and --defense as they were, settings and all."
        )
    return True


def _require_grants(needs: Needs, text: str, held: list[Needs]) -> None:
    """Refuses an attack that needs what was not given, or what no file holds."""
    from redteam.plugins.contracts import Needs
    from redteam.threat import THREAT_MODELS, threat_model

    words = {
        Needs.ANCHOR: ("the public base", "--base"),
        Needs.KEY: ("the defender's key", "--key"),
        Needs.CODE: ("the defense as it was put on", "--defense"),
        Needs.COMPANIONS: ("experts of the attacker's own tasks", ""),
        Needs.INPUTS: ("inputs of the victim's task", ""),
        Needs.SAMPLES: ("labelled samples of the victim's task", ""),
        Needs.RELEASES: ("further releases of the victim", ""),
        Needs.SIBLINGS: ("an expert of the attacker's own under the victim's defense", ""),
    }
    missing = [need for need in words if need in needs and need not in held]
    beyond = [need for need in missing if not words[need][1]]
    if beyond:
        granting = [name for name in THREAT_MODELS if threat_model(name).allows(needs)]
        where = f"which the threat model {' or '.join(granting)} grants" if granting else "which only the owner has"
        raise BadInput(
            f"The attack {text} needs {' and '.join(words[need][0] for need in beyond)}, {where}; no checkpoint "
            f"on disk holds that, so evaluate it with redteam run --attack {text}"
            + (f" --threat {granting[0]}." if granting else ".")
        )
    if missing:
        what = " and ".join(f"{words[need][0]} ({words[need][1]})" for need in missing)
        raise BadInput(f"The attack {text} needs {what}; give it as well.")
