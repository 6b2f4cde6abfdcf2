"""Pictures of a measurement, after the paper's figures 5, 6, 8 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_fast.datasets.spreading import spread
from mgd3_fast.errors import printable
from mgd3_fast.metrics.measuring import FolderMeasures, Measured
from mgd3_fast.pictures.style import (
    COLOURS,
    add_legend,
    check_matplotlib,
    new_figure,
    own_style,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = tuple(zip((*COLOURS, "#000000"), "os^DvPX", strict=True))
MOST_CLASSES = 10
_COLUMNS = 5


def draw(measured: Measured, out: Path) -> list[Path]:
    """Draw the maps and scores of a measurement that has maps into a folder.

    Returns:
        `maps.png` (each class with its real and synthetic images), `classes.png` (a point per class),
        `images.png` (a point per image) and `folders.png` (a point per folder): representativeness against
        diversity. With more than ten classes the first and third show ten, evenly spread.

    Raises:
        UserError: matplotlib is missing.
    """
    check_matplotlib()
    chosen = spread(len(measured.maps), MOST_CLASSES)
    with own_style():
        pictures = {
            "maps.png": _maps(measured, chosen),
            "classes.png": _classes(measured.folders),
            "images.png": _images(measured, chosen),
            "folders.png": _folders(measured.folders),
        }
        return [save_figure(figure, out / name) for name, figure in pictures.items()]


def _maps(measured: Measured, chosen: Sequence[int]) -> Figure:
    figure, panels = _panels(len(chosen))
    for axes, index in zip(panels, chosen, strict=True):
        drawn = measured.maps[index]
        x, y = drawn.real.T
        axes.scatter(x, y, s=6, color="0.75", linewidths=0, label="real")
        for place, (folder, points) in enumerate(zip(measured.folders, drawn.synthetic, strict=True)):
            look = _look(place) | {"edgecolor": "white", "linewidths": 0.6}
            x, y = points.T
            axes.scatter(x, y, s=28, label=printable(folder.name), **look)
        axes.set(
            title=printable(drawn.class_name), xticks=[], yticks=[], aspect="equal", adjustable="datalim"
        )
    add_legend(figure, panels[0], "upper")
    return figure


def _classes(folders: Sequence[FolderMeasures]) -> Figure:
    figure, axes = _single()
    for place, folder in enumerate(folders):
        scores = [one.scores for one in folder.classes.values()]
        points = ([one[name] for one in scores] for name in ("diversity", "representativeness"))
        axes.scatter(*points, label=printable(folder.name), alpha=0.85, **_look(place))
    add_legend(figure, axes, "upper")
    return figure


def _images(measured: Measured, chosen: Sequence[int]) -> Figure:
    figure, panels = _panels(len(chosen))
    for axes, index in zip(panels, chosen, strict=True):
        name = measured.maps[index].class_name
        for place, folder in enumerate(measured.folders):
            one = folder.classes[name]
            points = one.image_diversity, one.image_representativeness
            axes.scatter(*points, s=18, label=printable(folder.name), **_look(place))
        axes.set_title(printable(name))
    figure.supxlabel("diversity")
    figure.supylabel("representativeness")
    add_legend(figure, panels[0], "upper")
    return figure


def _folders(folders: Sequence[FolderMeasures]) -> Figure:
    figure, axes = _single()
    for place, folder in enumerate(folders):
        point = folder.mean["diversity"], folder.mean["representativeness"]
        axes.scatter(*point, s=60, **_look(place))
        axes.annotate(printable(folder.name), point, xytext=(7, 4), textcoords="offset points")
    axes.margins(0.25)
    return figure


def _single() -> tuple[Figure, Axes]:
    figure = new_figure(6.0, 4.5)
    axes = figure.add_subplot()
    axes.set(xlabel="diversity", ylabel="representativeness")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(_COLUMNS, count)
    rows = ceil(count / columns)
    figure = new_figure(2.4 * columns + 0.6, 2.5 * rows + 0.5)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _look(place: int) -> dict[str, Any]:
    """Colour and marker of a folder; the markers differ too, for eyes that see no colours."""
    colour, marker = _LOOKS[place % len(_LOOKS)]
    return {"color": colour, "marker": marker}
