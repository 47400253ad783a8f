"""HTML elements as text, everything escaped that is not markup already."""

import json
from html import escape
from typing import Any


class Html(str):
    """Text that is markup already and is not escaped again."""


def element(name: str, *children: object, **attributes: object) -> Html:
    """`<name attribute="...">children</name>`.

    Children are escaped unless they are Html; None is left out, lists are taken apart. `class_` and `aria_label`
    become `class` and `aria-label`; an attribute that is None is left out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: object) -> Html:
    """Children side by side, escaped as in `element`."""
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(child)
        elif isinstance(child, (list, tuple)):
            parts.append(joined(*child))
        elif child is not None:
            parts.append(Html(escape(str(child))))
    return Html("".join(parts))


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def json_block(value: Any, identity: str) -> Html:
    """A `<script type="application/json">` whose content cannot end the element, whatever the texts in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Html(f'<script type="application/json" id="{escape(identity)}">{text}</script>')


def colour(rgb: Any) -> str:
    """Three numbers 0..255 as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*(int(part) for part in rgb))


def swatch(rgb: Any) -> Html:
    """A small square of a colour; says nothing to a screen reader."""
    square = element("rect", width=14, height=14, rx=2, fill=colour(rgb))
    return element("svg", square, class_="swatch", viewBox="0 0 14 14", aria_hidden="true")


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"
