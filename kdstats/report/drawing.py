"""Figures as SVG inside the page: nothing to load, no name clashes, the same bytes every time."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from kdstats.errors import StudyError, invalid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Illustration", "as_illustrations", "inline_svg"]

REFERENCE = re.compile(r"#([^)\"'\s]+)")
POINTS_TO_PIXELS = 96 / 72


@dataclass(frozen=True, kw_only=True, eq=False)
class Illustration:
    """A figure with its title and the caption that says in words what it shows."""

    figure: Figure
    title: str
    caption: str


def as_illustrations(figures: Mapping[str, Any] | Sequence[Any]) -> tuple[Illustration, ...]:
    """Return illustrations; plain figures take title and caption from themselves.

    Parameters
    ----------
    figures : sequence of Figure or Illustration, or mapping from title to Figure
        The title of a plain Figure is that of its legend strip, its caption its label
        (``figure.get_label()``), as the functions of :mod:`kdstats.plots` leave them.
    """
    named = figures.items() if isinstance(figures, Mapping) else [(None, figure) for figure in figures]
    found = []
    for position, (title, figure) in enumerate(named, 1):
        if isinstance(figure, Illustration):
            found.append(figure)
            continue
        if not hasattr(figure, "savefig"):
            raise invalid(
                "figures", "hold matplotlib Figures or Illustrations", f"a {type(figure).__name__}", StudyError
            )
        name = title or _title(figure) or f"Figure {position}"
        found.append(Illustration(figure=figure, title=name, caption=str(figure.get_label()) or name))
    return tuple(found)


def inline_svg(illustration: Illustration, *, identity: str) -> str:
    """Return the figure as an ``<svg>`` element for an HTML page.

    Parameters
    ----------
    illustration : Illustration
        Its title becomes the accessible name.
    identity : str
        Prefix of every id in the drawing, unique in the page; its description is expected in an
        element with id ``{identity}-caption``.

    Returns
    -------
    str
        Text is drawn as paths, so that the page needs no font. Metadata and namespace declarations
        are left out: the page holds no address of anything outside it.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "kdstats"}):
        illustration.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if child.tag.endswith("}metadata")]:
            parent.remove(child)
    used = {name for element in root.iter() for value in element.attrib.values() for name in REFERENCE.findall(value)}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {
            name.rpartition("}")[2]: _renamed(name, value, identity)
            for name, value in element.attrib.items()
            if name != "id" or value in used
        }
    width = float(root.attrib.pop("width").removesuffix("pt")) * POINTS_TO_PIXELS
    root.attrib.pop("height")
    root.attrib.update(
        {
            "role": "img",
            "aria-label": illustration.title,
            "aria-describedby": f"{identity}-caption",
            "style": f"max-width:{width:.0f}px",
        }
    )
    return ET.tostring(root, encoding="unicode", short_empty_elements=True)


def _renamed(name: str, value: str, identity: str) -> str:
    if name == "id":
        return f"{identity}-{value}"
    if name.endswith("href") or "url(#" in value:
        return REFERENCE.sub(rf"#{identity}-\1", value)
    return value


def _title(figure: Any) -> str:
    titles = [str(legend.get_title().get_text()) for legend in figure.legends]
    return next((title for title in titles if title), str(figure.get_suptitle()))
