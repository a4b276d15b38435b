"""A figure as a part of a page: an ``<svg>`` that takes the page's colours and font."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from nnkernels.bench.report import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_ROLES = {
    figures.INK: "ink",
    figures.MUTED: "muted",
    figures.GRID: "grid",
    figures.PAPER: "paper",
    figures.BAND: "band",
    **{color: f"series-{number}" for number, color in enumerate(figures.SERIES)},
}
"""The page's variables by the colour that they stand for."""

_COLOR = re.compile("|".join(_ROLES))
_REFERENCE = re.compile(r"#(?=[\w-])")
_FONT = re.compile(r"font: ([\d.]+px)[^;]*")
_FAMILY = re.compile(r"font-family:[^;]*(?:; |$)")


def inline(figure: Figure, prefix: str) -> str:
    """``figure`` as the text of an ``<svg>`` element, hidden from readers of the table beside it.

    Args:
        figure: drawn by :mod:`nnkernels.bench.report.figures`.
        prefix: put before every id, so that several can stand in one page.
    """
    target = io.BytesIO()
    with figures.style():
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(target.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = _referenced(root)
    for element in root.iter():
        _adapt(element, prefix, used)
    _, _, width, height = (float(n) for n in root.attrib["viewBox"].split())
    root.attrib.update(
        {"width": f"{width * 4 / 3:.0f}", "height": f"{height * 4 / 3:.0f}", "aria-hidden": "true"}
    )
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _LINK)
    return ElementTree.tostring(root, encoding="unicode")


def _referenced(root: ElementTree.Element) -> set[str]:
    values = " ".join(value for element in root.iter() for value in element.attrib.values())
    return set(re.findall(r"#([\w-]+)", values))


def _adapt(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Colours become the page's variables, ids the page's own; unused ids go."""
    for name, value in list(element.attrib.items()):
        if name == "id":
            if value in used:
                element.attrib[name] = prefix + value
            else:
                del element.attrib[name]
        elif name == f"{{{_LINK}}}href" or value.startswith("url(#"):
            element.attrib[name] = _REFERENCE.sub(f"#{prefix}", value)
        elif name == "style":
            themed = _COLOR.sub(lambda match: f"var(--{_ROLES[match[0]]})", value)
            element.attrib[name] = _FAMILY.sub("", _FONT.sub(r"font-size: \1", themed))
