"""Every example in docs/ runs, and every table that repeats the code says what the code says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest

from redteam.anatomy import KINDS_OF_SITES
from redteam.anatomy.catalog import ARCHITECTURES, FOLDER
from redteam.audit.findings import SiteFinding
from redteam.audit.words import MEANING, STATES
from redteam.checkpoint.extract import Extraction
from redteam.errors import RedteamError, ThreatModelViolation
from redteam.evaluation.flags import FLAGS
from redteam.evaluation.results import Control
from redteam.evaluation.run import run
from redteam.evaluation.thresholds import THRESHOLDS, Thresholds
from redteam.evaluation.verdict import Word
from redteam.key import Key
from redteam.plugins.contracts import LAWS, Needs
from redteam.plugins.reference import Reference
from redteam.plugins.registry import ATTACKS, DEFENSES, MERGERS, SCENARIOS
from redteam.threat import THREAT_MODELS, threat_model
from redteam.views import DefenderView
from tests.zoo import network

HERE = Path(__file__).parent
TOY = HERE / "evaluation" / "toy.py"
ROOMY = Path(__file__).parent / "search" / "plugins.py"
PAGES = sorted(f"docs/{path.name}" for path in (HERE.parent / "docs").glob("*.md"))
SLOW = ("check", "search")  # each loads libraries in a process of its own, or tries many things
IN_ORDER = "docs/shell.md"  # whose commands read what those before them wrote
BEGUN = "docs/is-this-lock-safe.md"  # and so do those of this one, of which the first is a run
WALKED = {"docs/own-model.md", "docs/own-open-clip.md", "docs/own-adapters.md"}  # in tests/test_own_model.py
EXAMPLE = "docs/doctor.md"  # in tests/doctor/test_page.py


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
    (attack,) = (text for name, text in files(page("docs/write-an-attack.md")).items() if name == "my.py")
    assert len(attack.splitlines()) <= 15


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(page: Callable[[str], Any], name: str) -> None:
    shown = page(name)
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", shown.text):
        other = (shown.path.parent / target).resolve() if target else shown.path
        assert other.is_file(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


def test_the_commands_on_checkpoints_run_one_after_the_other(
    page: Callable[[str], Any], shell: Callable[..., Any], stand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = commands(page(IN_ORDER))
    assert {line.split()[1] for line in lines} == {"protect", "attack", "merge"}
    monkeypatch.chdir(stand)
    for line in lines:
        told = shell(*shlex.split(line)[1:])
        assert told.code == 0, line + told.out + told.err


@pytest.mark.slow
def test_the_tutorial_goes_from_a_name_to_a_verdict_that_follows(
    page: Callable[[str], Any], shell: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = commands(page(BEGUN))
    assert [line.split()[1] for line in lines] == ["show", "run", "show", "report", "verify", "run"]
    for line in lines:
        words = shlex.split(line)[1:]
        on_toys = ["--scenario", f"{TOY}@toy", "--workers", "0"] if words[0] == "run" else []
        told = shell(*words, *on_toys)
        assert told.code == 0, line + told.out + told.err
    assert (tmp_path / "lock.html").is_file()


def files(page: Any) -> dict[str, str]:
    """The Python blocks that are files: their first line names them."""
    named = ((re.match(r"# (\w+\.py)\n", block), block) for block in page.fenced("python"))
    return {match.group(1): block for match, block in named if match}


def commands(page: Any) -> list[str]:
    """The lines of all shell blocks that call this program."""
    lines = [line for block in page.fenced("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("redteam ")]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader stands: with checkpoints of their own."""
    folder = tmp_path_factory.mktemp("reader")
    toy = SCENARIOS.load(f"{TOY}@toy").function()
    toy.base.save(folder / "base")
    toy.experts["victim"].save(folder / "victim")
    toy.experts["left"].save(folder / "mine")
    adapter = Extraction(toy.experts["victim"], toy.base, 2)
    adapter.layers = {name.removesuffix(".weight"): name for name in adapter.layers.values()}  # as its base has them
    adapter.write(folder / "adapter", base="base", force=False, card=lambda: "## Of the reader\n")
    return folder


@pytest.mark.parametrize("name", [name for name in PAGES if name != EXAMPLE])
def test_python_examples_run(
    page: Callable[[str], Any], name: str, stand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one namespace, on the toy scenario and in this process."""
    import redteam.evaluation.run as home

    def on_toys(plan: Any, **rest: Any) -> Any:
        return run({**plan, "scenarios": [f"{TOY}@toy"]}, workers=0, **rest)

    monkeypatch.setattr(home, "run", on_toys)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(stand)
    shown, namespace = page(name), {"__name__": "__main__"}
    for block in shown.fenced("python"):
        if block not in files(shown).values():
            exec(compile(block, name, "exec"), namespace)
    if "export_mlflow" in namespace:
        assert namespace["logged"], "mlflow was not reached"


SHELL = [
    pytest.param(name, line, marks=[pytest.mark.slow] if line.split()[1] in SLOW else [])
    for name in PAGES
    if name not in {IN_ORDER, BEGUN, EXAMPLE, *WALKED}
    for line in dict.fromkeys(
        re.findall(r"^redteam .*$", (HERE.parent / name).read_text(encoding="utf-8"), re.MULTILINE)
    )
]


@pytest.mark.parametrize(("name", "line"), SHELL)
def test_shell_examples_run(
    page: Callable[[str], Any],
    shell: Callable[..., Any],
    name: str,
    line: str,
    stand: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = page(name)
    assert line in commands(shown), "a command stands in a shell block"
    for file, text in files(shown).items():
        (stand / file).write_text(text)
    monkeypatch.chdir(stand)
    words = shlex.split(line, comments=True)[1:]
    if words[0] == "run" and "--dry-run" not in words:
        words += ["--scenario", f"{TOY}@toy", "--workers", "0"]
    if "--defend" in words:
        words += ["--scenario", f"{ROOMY}@roomy", "--workers", "0", "--trials", "2", "--attack", "gauge-fit"]
    elif words[0] == "search":
        words += ["--scenario", f"{TOY}@toy", "--workers", "0", "--trials", "4"]
    told = shell(*words)
    assert told.code == 0, told.out + told.err
