"""Pages of documentation, and the examples in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: As its fence names it; empty for one that is indented.
        text: What stands in it.
    """

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines as a shell takes them, those that `\\` continues as one."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line for line in lines if line and not line.startswith("#")]


@dataclass(frozen=True)
class Page:
    """One page."""

    path: Path
    text: str

    @classmethod
    def read(cls, name: str | Path) -> Page:
        """A page, named from the root of the repository."""
        return cls(ROOT / name, (ROOT / name).read_text(encoding="utf-8"))

    @cached_property
    def blocks(self) -> list[Block]:
        """Every block of code, fenced or indented, in order."""
        tokens = MarkdownIt().parse(self.text)
        return [Block(one.info.strip(), one.content) for one in tokens if one.type in ("fence", "code_block")]

    def fenced(self, language: str) -> list[str]:
        """The fenced blocks in a language."""
        return [block.text for block in self.blocks if block.language == language]

    @property
    def files(self) -> dict[str, str]:
        """The Python blocks that are files: their first line names them."""
        named = ((re.match(r"# (\w+\.py)\n", block), block) for block in self.fenced("python"))
        return {match[1]: block for match, block in named if match}

    def between(self, tag: str) -> str:
        """What stands between `<!-- tag: … -->` and `<!-- end -->`."""
        found = re.search(rf"<!-- {tag}:.*?-->\n(.*?)<!-- end -->", self.text, re.DOTALL)
        assert found is not None
        return found.group(1)
