"""Every table that repeats the code says what the code says, and links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest

from redteam.anatomy import KINDS_OF_SITES
from redteam.anatomy.catalog import ARCHITECTURES, FOLDER
from redteam.audit.findings import SiteFinding
from redteam.audit.words import MEANING, STATES
from redteam.errors import RedteamError, ThreatModelViolation
from redteam.evaluation.flags import FLAGS
from redteam.evaluation.results import Control
from redteam.evaluation.thresholds import THRESHOLDS, Thresholds
from redteam.evaluation.verdict import Word
from redteam.key import Key
from redteam.plugins.contracts import LAWS, Needs
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS
from redteam.threat import THREAT_MODELS, threat_model
from redteam.views import DefenderView
from tests.zoo import network

HERE = Path(__file__).parent
PAGES = sorted(f"docs/{path.name}" for path in (HERE.parent / "docs").glob("*.md"))


def flags() -> Iterator[str]:
    yield "| flag | raised if | means | do |\n|---|---|---|---|\n"
    for name, flag in FLAGS.items():
        yield f"| {name} | {flag.raised_if} | {flag.means} | {flag.do} |\n"


def thresholds() -> Iterator[str]:
    """Names and values from the class, words from its docstring."""
    told = re.sub(r"\n\s{8,}", " ", (Thresholds.__doc__ or "").partition("Attributes:")[2])
    words = dict(re.findall(r"(\w+): (.*?)(?= \w+: |\s*$)", " ".join(told.split())))
    yield "| limit | value | what it is |\n|---|---|---|\n"
    for name, value in asdict(THRESHOLDS).items():
        yield f"| `{name}` | {value} | {words[name]} |\n"


def threats() -> Iterator[str]:
    yield "| written | the attacker | grants |\n|---|---|---|\n"
    for name in THREAT_MODELS:
        model = threat_model(name)
        granted = ", ".join(str(need.name).lower() for need in Needs if need in model.grants)
        yield f"| `{model.name}` | {model.words} | {granted} |\n"


def states() -> Iterator[str]:
    yield "| found | state in JSON | means |\n|---|---|---|\n"
    for state, meaning in MEANING.items():
        yield f"| {STATES.get(state, '*group* lock')} | {state} | {meaning} |\n"


def anatomies() -> Iterator[str]:
    """Of the catalogue, from the proof that stands in each file."""
    columns = ("qk", "vo", "mlp", "heads", "experts", "norm", "residual")
    yield "| model type | qk | vo | mlp | heads | experts | norm | stream | outputs change by | comes off to |"
    yield " `protect` | `attack` | nearness | `audit` | `merge` |\n"
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
    for name in sorted(file.stem for file in FOLDER.glob("*.json")):
        rows = ARCHITECTURES.data(name)["proof"]
        cells = []
        for kind in columns:
            groups = (group for row in rows if row["kind"] == kind for group in row["group"].split(" or "))
            also = " + queries" if kind == "heads" and any(row["kind"] == "queries" for row in rows) else ""
            cells.append((" / ".join(dict.fromkeys(groups)) or "–") + also)
        change, back = (max(row[what] for row in rows) for what in ("change", "back"))
        ran = ARCHITECTURES.data(name)["commands"]
        found, there, others = ran["audit"]
        cells += [f"{change:.0e}", f"{back:.0e}", f"{ran['protect']:.0e}", f"{ran['attack']:.0e}"]
        cells += [
            f"{ran['nearness']:.2f}",
            f"{found}/{there}" + (f" + {others}" if others else ""),
            f"{ran['merge']:.0e}",
        ]
        told = ", ".join(f"{key} = {value}" for key, value in ARCHITECTURES.data(name).get("when", {}).items())
        yield f"| {name.partition('+')[0]}{f' ({told})' * bool(told)} | {' | '.join(cells)} |\n"


def defenses() -> Iterator[str]:
    """Those that ask for data are told by their refusal, where they can be put by trying."""
    yield "| defense | exact | runs alone | keyed | data | on a ViT | on a Llama | weakened | source |\n"
    yield "|---|---|---|---|---|---|---|---|---|\n"
    for name in DEFENSES:
        plugin = DEFENSES.load(name)
        spec = plugin.spec
        cells = [put_on(plugin, network) for network in ("vit", "llama")]
        data = "needs data" in cells
        shown = ["not tried" if data else cell for cell in cells]
        weak = f"`{Reference(name, dict(spec.weakened))}`" if spec.weakened is not None else "–"
        answers = (answer(spec.exact), answer(not spec.sealed), answer(spec.keyed), answer(data))
        yield f"| `{name}` | {' | '.join((*answers, *shown, weak, spec.paper or '–'))} |\n"


def put_on(plugin: Any, name: str) -> str:
    checkpoint = network(name).checkpoint
    view = DefenderView(checkpoint, checkpoint, Key.of_seed(0))
    try:
        plugin(view)
    except ThreatModelViolation:
        return "needs data"
    except RedteamError:
        return "refused"
    return "adapts" if view.adaptations() else "yes"


def answer(whether: bool) -> str:
    return "yes" if whether else "no"


def attacks() -> Iterator[str]:
    yield "| attack | role | breaks | needs | targets | cost | source |\n|---|---|---|---|---|---|---|\n"
    for name in ATTACKS:
        plugin = ATTACKS.load(name)
        spec = plugin.spec
        kinds = [kind for kind in KINDS_OF_SITES if kind in {site for site, _ in spec.breaks}]
        groups = len({group for _, group in spec.breaks})
        breaks = f"{', '.join(kinds)} ({groups} group{'s' * (groups > 1)})" if kinds else "–"
        needs = ", ".join(str(need.name).lower() for need in Needs if need in spec.needs) or "–"
        targets = ", ".join(f"`{target}`" for target in sorted(spec.targets)) or "–"
        cost = next((word for setting, word in COSTS.items() if setting in plugin.settings), "direct")
        yield f"| `{name}` | {spec.role} | {breaks} | {needs} | {targets} | {cost} | {spec.paper or '–'} |\n"


def mergers() -> Iterator[str]:
    yield f"| merger | {' | '.join(LAWS)} |\n|---|{'---|' * len(LAWS)}\n"
    for name in MERGERS.names:
        holds = MERGERS.load(name).spec.holds
        yield f"| `{name}` | {' | '.join(answer(law in holds) for law in LAWS)} |\n"


COSTS = {"steps": "gradient steps", "rounds": "trials", "limit": "trials"}
"""By the setting that says how much."""

TABLES = {
    "defenses": ("docs/defenses.md", defenses),
    "attacks": ("docs/attacks.md", attacks),
    "mergers": ("docs/mergers.md", mergers),
    "anatomy": ("docs/architectures.md", anatomies),
    "states": ("docs/audit.md", states),
    "flags": ("docs/verdicts.md", flags),
    "thresholds": ("docs/verdicts.md", thresholds),
    "threats": ("docs/threat-models.md", threats),
}


@pytest.mark.parametrize("tag", TABLES)
def test_what_repeats_the_code_says_what_the_code_says(page: Callable[[str], Any], tag: str) -> None:
    name, made = TABLES[tag]
    expected = "".join(made())
    assert page(name).between(tag) == expected, f"{name} should have between its marks:\n{expected}"


def test_every_verdict_control_and_need_is_explained(page: Callable[[str], Any]) -> None:
    verdicts, attack = page("docs/verdicts.md").text, page("docs/write-an-attack.md").text
    controls = set(get_args(Control.model_fields["control"].annotation)) - {"keys"}
    assert all(f"\n| {word} | " in verdicts for word in get_args(Word))
    assert all(f"\n| {control} | " in verdicts for control in controls)
    assert all(f"| `Needs.{need.name}` |" in attack for need in (Needs.NONE, *Needs))


def test_whatever_ships_is_in_the_changelog(page: Callable[[str], Any]) -> None:
    text = page("CHANGELOG.md").text
    names = (*ATTACKS, *DEFENSES, *THREAT_MODELS)
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_state_of_a_site_is_explained() -> None:
    assert set(get_args(SiteFinding.model_fields["state"].annotation)) == set(MEANING)


def test_the_limits_in_the_text_are_those_in_force(page: Callable[[str], Any]) -> None:
    text = " ".join(page("docs/verdicts.md").text.split())
    t = THRESHOLDS
    for sentence in (
        f"falls more than {t.companions} under",
        f"steals {t.priced} or more",
        f"lower bound of the victim's gain is under {t.gain}",
        f"lower bound of theft without an attack is at least {t.stolen}",
        f"surely steals at least {t.stolen}",
        f"an upper bound reaches {t.stolen}",
        f"add at least {t.gain} to the merge",
        f"gains less than {t.gain} are left out",
        f"steal at most {t.trivial}?",
        f"steal at most {t.floor} from a freshly",
        f"steal less than {t.stolen} from a victim drowned",
        f"({t.planted_cost} times the tied cost",
        f"(theft {t.planted_theft} or more)",
        f"came back (theft {t.stolen})",
        f"by more than −{-t.harmless} (lower bound)",
        f"key's holder get {t.ceiling} back",
        f"trained anew worth {t.anew}?",
        f"p under {t.monotone} after",
        f"(protection {t.planted_protection} or more)",
    ):
        assert sentence in text, sentence


def test_the_attack_has_at_most_fifteen_lines(page: Callable[[str], Any]) -> None:
    assert len(page("docs/write-an-attack.md").files["my.py"].splitlines()) <= 15


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(page: Callable[[str], Any], name: str) -> None:
    shown = page(name)
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", shown.text):
        other = (shown.path.parent / target).resolve() if target else shown.path
        assert other.is_file(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
