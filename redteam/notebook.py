"""What was found, as a notebook shows it: sentences and tables in HTML that has no colours of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from html import escape

from redteam.terminal import disarmed

_MOST = 100  # rows of a table that a notebook gets
_LEFT = 'style="text-align:left"'


@dataclass(frozen=True)
class Table:
    """A table of texts, the same on a terminal and in a notebook.

    Attributes:
        columns: What stands over them.
        rows: A text for each column.
        title: What stands over the table; may be empty.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""


@singledispatch
def html(found: object) -> str:
    """What a model of findings shows as; the module that has its words registers how.

    Raises:
        TypeError: If nobody did.
    """
    raise TypeError(f"There are no words for {type(found).__name__}.")


def fragment(above: Iterable[str], tables: Iterable[Table], below: Iterable[str] = ()) -> str:
    """A piece of HTML in the font and the colours of the page around it, light or dark.

    Args:
        above: Sentences.
        tables: Of each no more than its first 100 rows; one without rows is left out.
        below: Sentences, in small.

    Returns:
        One element. Texts are escaped, what turns their direction is taken out, and dollars are no formulas.
    """
    parts = [f"<p>{_text(sentence)}</p>" for sentence in above]
    parts += [_table(table) for table in tables if table.rows]
    parts += [f"<p><small>{_text(sentence)}</small></p>" for sentence in below]
    return f'<div class="tex2jax_ignore mathjax_ignore">{"".join(parts)}</div>'


def _table(table: Table) -> str:
    title = f"<caption {_LEFT}>{_text(table.title)}</caption>" if table.title else ""
    head = "".join(f'<th scope="col" {_LEFT}>{_text(name)}</th>' for name in table.columns)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows[:_MOST])
    more = f"<p><small>and {len(table.rows) - _MOST} more</small></p>" if len(table.rows) > _MOST else ""
    return f"<table>{title}{f'<thead><tr>{head}</tr></thead>' * bool(head)}<tbody>{rows}</tbody></table>{more}"


def _cell(text: str) -> str:
    return f"<td {_LEFT}>{_text(text)}</td>"


def _text(text: str) -> str:
    return escape(disarmed(text))
