"""Tables in HTML, for notebooks and pages: no scripts, no colours of their own."""

import html
from collections.abc import Iterable, Sequence

LEFT = "text-align: left"
# Digits of one width, so that those of the same value stand in one column.
RIGHT = "text-align: right; font-variant-numeric: tabular-nums"


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table whose first column is of names, and all others of numbers.

    Args:
        header: The headings of the columns, as plain text.
        rows: The cells of each row, as plain text.
    """
    head = _row("th", header)
    body = "".join(_row("td", row) for row in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[str]) -> str:
    styles = [LEFT] + [RIGHT] * (len(cells) - 1)
    parts = []
    for cell, style in zip(cells, styles, strict=True):
        parts.append(f'<{tag} style="{style}">{html.escape(cell)}</{tag}>')
    return f"<tr>{''.join(parts)}</tr>"
