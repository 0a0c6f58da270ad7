"""HTML that cannot be broken by what is written into it: text is escaped unless it was made by `tag`.

A rubber stamp for elements: give it a name and what goes inside, and only what it stamped itself passes unescaped. Not
a template language: a page is a Python expression, and a missing piece is a type error.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, TypeAlias

Content: TypeAlias = "Html | str | None"

_VOID: Final = frozenset({"meta", "br", "hr", "img"})


class Html(str):
    """Text that is HTML already. Everything else is escaped when it is put into an element."""

    __slots__ = ()


def tag(name: str, /, *content: Content, **attributes: str | None) -> Html:
    """Make an element; None is left out, of content and of attributes.

    >>> tag("p", "1 < 2 ", tag("b", "& so on"), class_="note")
    '<p class="note">1 &lt; 2 <b>&amp; so on</b></p>'
    """
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{named}>")
    return Html(f"<{name}{named}>{join(content)}</{name}>")


def join(content: Iterable[Content]) -> Html:
    """Put pieces one after the other."""
    return Html("".join(piece if isinstance(piece, Html) else escape(piece) for piece in content if piece is not None))


def table(head: Sequence[Content], rows: Iterable[Sequence[Content]], *, n_words: int = 1) -> Html:
    """A table that scrolls by itself where the screen is narrow.

    Args:
        head: the column titles.
        rows: as many cells each.
        n_words: the first so many columns hold words and stand left; the others hold figures and stand right.
    """

    def cells(name: str, row: Sequence[Content]) -> Html:
        return join(tag(name, cell, class_="word" if nth < n_words else None) for nth, cell in enumerate(row))

    body = tag("tbody", *(tag("tr", cells("td", row)) for row in rows))
    return tag("div", tag("table", tag("thead", tag("tr", cells("th", head))), body), class_="wide")


def document(title: str, *content: Content) -> str:
    """A whole page that needs nothing but itself: no script, no font, no request."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *content)), lang='en')}\n"


_STYLE: Final = """
:root { --ink: #1f2329; --muted: #68717b; --rule: #d7dce1; --shade: #f1f3f5; --paper: #fefefe; --good: #00704f;
  --bad: #b34700; --accent: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --muted: #9aa4ae; --rule: #3a4149; --shade: #22272d;
  --paper: #171b20; --good: #3cc79b; --bad: #ff9b5c; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.02rem; margin: 1.7rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.muted, figcaption, footer { color: var(--muted); }
figcaption, .small, footer { font-size: .875rem; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.note { border-left: 3px solid var(--bad); padding: .15rem 0 .15rem .8rem; }
.rule { border-left: 3px solid var(--accent); padding: .15rem 0 .15rem .8rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.tile { background: var(--shade); border-radius: 8px; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .85rem; line-height: 1.4; display: block; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .42rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 600; color: var(--muted); vertical-align: bottom; white-space: normal; line-height: 1.3; }
th:first-child, td:first-child { padding-left: 0; }
td small { display: block; color: var(--muted); font-size: .76rem; line-height: 1.25; }
td { vertical-align: top; }
.word { text-align: left; }
figure { margin: 1.1rem 0 1.6rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
.pair { display: grid; grid-template-columns: 2fr 3fr; gap: 0 1.6rem; align-items: end; }
@media (max-width: 46rem) { .pair { grid-template-columns: 1fr; } }
pre, code { font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--shade); border-radius: 6px; padding: .7rem .9rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: .6rem 0; }
code { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: .7rem 0; font-size: .92rem; }
dt { color: var(--muted); }
dd { margin: 0; }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 3rem; border-top: 1px solid var(--rule); padding-top: .8rem; }
@media print {
  :root { --ink: #000; --muted: #444; --rule: #bbb; --shade: #f3f3f3; --paper: #fff; --good: #00573d; --bad: #8a3600;
    --accent: #00568a; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  figure, .tile, tr, pre { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .wide { overflow: visible; }
  table { font-size: .7rem; }
  th, td { padding: .2rem .3rem; }
}
"""
