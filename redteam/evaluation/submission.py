"""A finished run as what its author sends in: results, plan, digests and the files that the plan names."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from redteam.archive import FILES, PLAN, RESULTS
from redteam.errors import BadInput
from redteam.evaluation.results import Results
from redteam.plugins.files import sources_of
from redteam.plugins.reference import Reference, chain_text, parse_chain
from redteam.plugins.source import digest_over

_TOLD = re.compile(
    r"(['\"])(?:~|[A-Za-z]:)?[/\\][^'\"]*[/\\]([^/\\'\"]+)\1|(?<![\w./\\~)])(?:~|[A-Za-z]:)?(?:[/\\][^\s'\"/\\]+)+[/\\]([^\s'\"/\\]+)"
)
"""A path from the root or the home folder in a sentence, with a folder in it, of which the last name is told."""
_LEADING = re.compile(r"[^=+,'\"\[\]]*[/\\]")
"""The folders of a path in a word of a command."""
_KINDS = ("scenarios", "defenses", "attacks", "mergers")


def members_of(run: Path) -> dict[str, bytes]:
    """What an archive of a run holds but for its manifest: no path of this machine, no key, no weights.

    Files that the plan names become `files/N/…`, and the plan and the command name them so.

    Args:
        run: The folder of a finished run.

    Raises:
        BadInput: If the folder holds no finished run, or a file that the plan names is gone or was edited since.
    """
    results, announced = Results.read(run), _announced(run)
    if announced.get("plan") != results.plan:
        raise BadInput(f"{run} holds results of another plan than the one begun last; run that plan to its end first.")
    named: dict[str, dict[str, str]] = announced.get("files", {})
    members: dict[str, bytes] = {}
    folders: dict[Path, str] = {}
    places: dict[str, str] = {}
    for written, about in named.items():
        file = Path(about["at"])
        folder = folders.setdefault(file.parent, f"{FILES}/{len(folders)}")
        for name, content in _unchanged(file, about["digest"], run).items():
            members[f"{folder}/{name}"] = content
        places[written] = f"{folder}/{file.name}"
    plan = _placed(results.plan, lambda file: places.get(file, file))
    told = {**_without_folders(results.model_dump(mode="json", by_alias=True)), "command": _placeless(results.command)}
    moved = Results.model_validate({**told, "plan": plan})
    digests = {places[written]: about["digest"] for written, about in named.items()}
    begun = {**announced, "plan": plan, "files": {file: {"digest": digests[file]} for file in sorted(digests)}}
    members[PLAN] = _json(begun)
    members[RESULTS] = (moved.as_json() + "\n").encode()
    return members


def _placeless(command: str) -> str:
    """A command whose paths are cut to their last names, and addresses to what they begin with."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return shlex.join(
        f"{word.partition('://')[0]}://…" if "://" in word else _LEADING.sub("", word.rstrip("/\\")) for word in words
    )


def _without_folders(value: Any) -> Any:
    """Values whose sentences, such as that of an error, name files without saying where they lay."""
    if isinstance(value, str):
        return _TOLD.sub(lambda found: f"{found[1]}{found[2]}{found[1]}" if found[1] else found[3], value)
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    return [_without_folders(one) for one in value] if isinstance(value, list) else value


def _announced(run: Path) -> dict[str, Any]:
    path = run / PLAN
    try:
        held = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); name the folder of a finished run.") from None
    except (ValueError, RecursionError):
        held = None
    if not isinstance(held, dict) or "files" not in held:
        raise BadInput(f"{path} is not of this version; run the plan again, which computes only what is missing.")
    return held


def _unchanged(file: Path, expected: str, run: Path) -> dict[str, bytes]:
    try:
        found = sources_of(file)
    except OSError as error:
        raise BadInput(f"{file}, which the plan of {run} names, cannot be read ({error.strerror}).") from None
    if digest_over(found) != expected:
        raise BadInput(f"{file}, or what it imports from its folder, was edited after the run; run the plan again.")
    return found


def comparable(*plans: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The plans; where one of them is an archive's, whose files lie elsewhere, with files by their last names."""
    if not any(re.search(rf"\b{FILES}/\d+/", json.dumps(plan)) for plan in plans):
        return [*plans]
    return [_placed(plan, lambda file: re.split(r"[/\\]", file)[-1]) for plan in plans]


def _placed(plan: Mapping[str, Any], place: Callable[[str], str]) -> dict[str, Any]:
    """The plan with its files at other places."""
    moved = {kind: [_moved(text, place) for text in value] if kind in _KINDS else value for kind, value in plan.items()}
    if "also" in plan:
        moved["also"] = [_placed(one, place) for one in plan["also"]]
    return moved


def _moved(text: str, place: Callable[[str], str]) -> str:
    chain = [
        Reference(place(link.file) + ("" if link.is_data else f"@{link.plugin}"), link.settings) if link.file else link
        for link in parse_chain(text)
    ]
    return chain_text(tuple(chain))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
