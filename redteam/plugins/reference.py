"""How a plugin and its settings are written: `name:setting=value,setting=value`, chained by `+`.

Values are read as TOML and a bare word is a string, also inside brackets (`sites=[qk,vo]`). Quotes, brackets and braces
protect commas, colons and plus signs. A plus joins two references only where a name or path follows it, so that
`1e+5` stays a number. In place of a name, `path/to/file.py@name` points at a plugin in a file, and `path/to/file.toml`
at a file that an installed plugin reads.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redteam.errors import BadInput

DATA = ".toml"
"""What files are called that a plugin reads."""

_PAIRS = {"[": "]", "{": "}"}
_BARE = re.compile(r"[^\s\"'\[\]{}=,#]+")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*([_-][A-Za-z0-9]+)*")
_PATH = re.compile(r"[A-Za-z_./~][\w./~ -]*")
_SETTING = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_-]*)\s*=\s*(\S.*)")
_TOKEN = re.compile(r"""\"(?:\\.|[^"\\])*\"|'[^']*'|.""", re.DOTALL)  # a quoted text, or one character
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WORDS_OF_TOML = frozenset({"true", "false", "inf", "nan"})


@dataclass(frozen=True, eq=False)
class Reference:
    """A plugin's name and the settings given with it. Equal where the canonical texts are equal.

    Attributes:
        name: A registered name, `path/to/file.py@name`, or `path/to/file.toml`.
        settings: Setting → value, sorted by setting, arrays as tuples.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", {key: _plain(self.settings[key]) for key in sorted(self.settings)})

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads one reference.

        Raises:
            BadInput: If the text is not one, or chains several.
        """
        chain = parse_chain(text)
        if len(chain) > 1:
            raise BadInput(f"{text!r} chains {len(chain)} plugins with '+' where one is expected.")
        return chain[0]

    @property
    def file(self) -> str:
        """The path in front of the `@`, or of the file itself; empty for a registered name."""
        return self.name if self.is_data else self.name.rpartition("@")[0]

    @property
    def is_data(self) -> bool:
        """Whether it names a file that is read and not run."""
        return self.name.endswith(DATA)

    @property
    def plugin(self) -> str:
        """The plugin's own name, without a path; for a file that is read, what the file is called."""
        return Path(self.name).stem if self.is_data else self.name.rpartition("@")[2]

    def absolute(self) -> Reference:
        """The same, its file found from anywhere."""
        if not self.file:
            return self
        path = str(Path(self.file).expanduser().absolute())
        return Reference(path if self.is_data else f"{path}@{self.plugin}", self.settings)

    def __str__(self) -> str:
        name = self.name
        if self.file and not (_PATH.fullmatch(self.file) and self.file == self.file.strip()):
            name = _quoted(self.file) + f"@{self.plugin}" * (not self.is_data)
        # Nothing cannot be written, and is what such a setting has where it is left out.
        settings = [f"{key}={toml_text(value)}" for key, value in self.settings.items() if value is not None]
        return name + ":" * bool(settings) + ",".join(settings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def parse_chain(text: str) -> tuple[Reference, ...]:
    """Reads `a`, `a:x=1` or `a+b:x=1+c`, in order.

    Raises:
        BadInput: If brackets or quotes are left open, or a name, setting or value is missing or malformed.
    """
    if _CONTROL.search(text):
        raise BadInput(f"Cannot read {text!r}: it holds line breaks or control characters; leave them out.")
    if not text.strip():
        raise BadInput("A plugin's name is missing; write name or name:setting=value.")
    parts = _split(text, "+", text)
    return tuple(_reference(part, text) for part in parts)


def chain_text(chain: tuple[Reference, ...]) -> str:
    """The canonical text of a chain; `parse_chain` reads it back."""
    return "+".join(str(reference) for reference in chain)


def toml_text(value: Any) -> str:
    """A value as it is written in a reference.

    Raises:
        BadInput: If TOML has no way to write it.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value not in _WORDS_OF_TOML else _quoted(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(toml_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        items = (f"{_key_text(key)} = {_strict_text(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    raise BadInput(f"A setting cannot hold {value!r}; use numbers, text, true, false, or lists and tables of them.")


def _reference(text: str, whole: str) -> Reference:
    text = text.strip()
    drive = 2 if re.match(r"[A-Za-z]:[\\/]", text) else 0
    cut = next((at for at in _top_level(text, whole) if at >= drive and text[at] == ":"), len(text))
    name, tail = _name(text[:cut].strip(), whole), text[cut + 1 :]
    settings: dict[str, Any] = {}
    if cut < len(text) and not tail.strip():
        raise BadInput(f"Cannot read {whole!r}: settings are missing after the colon; write {name}:setting=value.")
    for item in _split(tail, ",", whole) if tail else ():
        written = _SETTING.fullmatch(item)
        if written is None:
            raise BadInput(f"Cannot read {item.strip()!r} in {whole!r}: a setting is written name=value.")
        key = written[1].replace("-", "_")
        if key in settings:
            raise BadInput(f"Cannot read {whole!r}: the setting {key!r} is given twice.")
        settings[key] = _value(written[2].strip(), whole)
    return Reference(name, settings)


def _name(text: str, whole: str) -> str:
    path, at, plugin = text.rpartition("@")
    bare = str(_toml(text, whole)) if not at and text[:1] in ("'", '"') else text
    if bare.endswith(DATA) and not at:
        return bare
    if at:
        if path[:1] in ("'", '"'):
            path = str(_toml(path, whole))
        if not path.strip() or not path.endswith(".py"):
            raise BadInput(f"Cannot read {whole!r}: a plugin in a file is written path/to/file.py@name.")
    if not _NAME.fullmatch(plugin):
        what = f"{plugin!r} is no plugin's name" if plugin else "a plugin's name is missing"
        raise BadInput(
            f"Cannot read {whole!r}: {what}; expected name:setting=value,… or path/to/file.py@name (of a scenario also "
            "path/to/file.toml)."
        )
    return f"{path}{at}{plugin}"


def _value(text: str, whole: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        inner = text[1:-1].strip().removesuffix(",")
        return tuple(_value(item.strip(), whole) for item in _split(inner, ",", whole)) if inner.strip() else ()
    if "#" not in text or text[0] in "\"'{":
        try:
            return _plain(_toml(text, whole))
        except BadInput:
            pass
    if _BARE.fullmatch(text):
        return text
    raise BadInput(f"Cannot read the value {text!r} in {whole!r}: put text in quotes, as in name='some text'.")


def _toml(text: str, whole: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise BadInput(f"Cannot read {text!r} in {whole!r}: {error}.") from None


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    return value


def _split(text: str, separator: str, whole: str) -> list[str]:
    pieces, start = [], 0
    for position in _top_level(text, whole):
        if text[position] != separator or (separator == "+" and not _joins(text, position)):
            continue
        pieces.append(text[start:position])
        start = position + 1
    pieces.append(text[start:])
    if not all(piece.strip() for piece in pieces):
        raise BadInput(f"Cannot read {whole!r}: something is missing beside a {separator!r}.")
    return pieces


def _joins(text: str, position: int) -> bool:
    before, after = text[:position].rstrip(), text[position + 1 :].lstrip()
    begins = after[:1].isalpha() or after[:1] in ("", "_", ".", "/", "~", "'", '"')
    return begins and before[-1:] not in ("=", ",", ":")


def _top_level(text: str, whole: str) -> Iterator[int]:
    """Positions outside quotes and brackets."""
    closers: list[str] = []
    for token in _TOKEN.finditer(text):
        if (piece := token[0]) in _PAIRS:
            closers.append(_PAIRS[piece])
        elif piece in _PAIRS.values():
            if not closers or closers.pop() != piece:
                raise BadInput(f"Cannot read {whole!r}: a {piece!r} closes nothing.")
        elif piece in ("'", '"'):  # no second one follows
            closers.append(piece)
            break
        elif len(piece) == 1 and not closers:
            yield token.start()
    if closers:
        raise BadInput(f"Cannot read {whole!r}: a {closers[-1]!r} is missing at the end.")


def _quoted(text: str) -> str:
    if _CONTROL.search(text):
        raise BadInput(f"A setting cannot hold {text!r}: it holds line breaks or control characters; leave them out.")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _key_text(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _quoted(key)


def _strict_text(value: Any) -> str:
    """Inside a table everything is TOML proper, where a bare word is no string."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_strict_text(item) for item in value) + "]"
    return toml_text(value)
