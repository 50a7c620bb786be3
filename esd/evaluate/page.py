"""Pages for people that need no other file and run no script; every text in them is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape


def escaped(value: object) -> str:
    """Return anything as text of a page."""
    return escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; nothing without rows."""
    return table_of_markup(header, ([escaped(cell) for cell in row] for row in rows))


def table_of_markup(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are parts of a page already; nothing without rows."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in header)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if body else ""


def picture(jpeg: bytes) -> str:
    """Return a picture that is in the page itself."""
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode("ascii")}">'


def page(title: str, parts: Iterable[str], rules: str = "", images: str = "data:") -> str:
    """Return a whole page from parts that are escaped already, with style rules of its own.

    `images` is where pictures may come from, as a Content-Security-Policy says it.
    """
    return _PAGE.format(title=escaped(title), rules=rules, images=images, body="\n".join(filter(None, parts)))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src {images}; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #202020 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} td, th {{ text-align: left; padding: .2rem .8rem .2rem 0 }}
th {{ border-bottom: 1px solid #bbb }} figure {{ display: inline-block; margin: .5rem 1rem .5rem 0 }}
img {{ width: 12rem }} figcaption {{ color: #666 }}
{rules}</style></head><body>
<h1>{title}</h1>
{body}
</body></html>
"""
