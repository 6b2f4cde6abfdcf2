"""Pictures of a measurement, after the paper's figures 5, 6, 8 and 9."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgd3_engine.files.renaming import renamed
from mgd3_fast.errors import UserError, printable
from mgd3_fast.metrics.measuring import FolderMeasures, Measured, Points
from mgd3_fast.pictures.style import own_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito: told apart with any colour vision; shapes differ too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_CLASSES = 10
_COLUMNS = 5


def draw(measured: Measured, out: Path) -> list[Path]:
    """Draw the maps and scores of a measurement.

    Args:
        measured: With maps.
        out: Folder that receives the pictures.

    Returns:
        `maps.png` (each class with its real and synthetic images), `classes.png` (a point per class),
        `images.png` (a point per image) and `folders.png` (a point per folder): representativeness against
        diversity. With more than ten classes the first and third show ten, evenly spread.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401 - the one import that can fail
    except ModuleNotFoundError:
        raise UserError("plot must be off without matplotlib: pip install 'mgd3-fast[plot]'") from None
    chosen = spread(len(measured.maps), MOST_CLASSES)
    with own_style():
        pictures = {
            "maps.png": _maps(measured, chosen),
            "classes.png": _classes(measured.folders),
            "images.png": _images(measured, chosen),
            "folders.png": _folders(measured.folders),
        }
        return [_save(figure, out / name) for name, figure in pictures.items()]


def _maps(measured: Measured, chosen: Sequence[int]) -> Figure:
    figure, panels = _panels(len(chosen))
    for axes, index in zip(panels, chosen, strict=True):
        drawn = measured.maps[index]
        _scatter(axes, drawn.real, s=6, color="0.75", linewidths=0, label="real")
        for place, (folder, points) in enumerate(zip(measured.folders, drawn.synthetic, strict=True)):
            look = _look(place) | {"edgecolor": "white", "linewidths": 0.6}
            _scatter(axes, points, s=28, label=printable(folder.name), **look)
        axes.set(
            title=printable(drawn.class_name), xticks=[], yticks=[], aspect="equal", adjustable="datalim"
        )
    _legend(figure, panels[0])
    return figure


def _classes(folders: Sequence[FolderMeasures]) -> Figure:
    figure, axes = _single()
    for place, folder in enumerate(folders):
        scores = [one.scores for one in folder.classes.values()]
        axes.scatter(
            [one["diversity"] for one in scores],
            [one["representativeness"] for one in scores],
            label=printable(folder.name),
            alpha=0.85,
            **_look(place),
        )
    _legend(figure, axes)
    return figure


def _images(measured: Measured, chosen: Sequence[int]) -> Figure:
    figure, panels = _panels(len(chosen))
    for axes, index in zip(panels, chosen, strict=True):
        name = measured.maps[index].class_name
        for place, folder in enumerate(measured.folders):
            one = folder.classes[name]
            axes.scatter(
                one.image_diversity,
                one.image_representativeness,
                s=18,
                label=printable(folder.name),
                **_look(place),
            )
        axes.set_title(printable(name))
    figure.supxlabel("diversity")
    figure.supylabel("representativeness")
    _legend(figure, panels[0])
    return figure


def _folders(folders: Sequence[FolderMeasures]) -> Figure:
    figure, axes = _single()
    for place, folder in enumerate(folders):
        point = folder.mean["diversity"], folder.mean["representativeness"]
        axes.scatter(*point, s=60, **_look(place))
        axes.annotate(printable(folder.name), point, xytext=(7, 4), textcoords="offset points")
    axes.margins(0.25)
    return figure


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _single() -> tuple[Figure, Axes]:
    figure = _figure(6.0, 4.5)
    axes = figure.add_subplot()
    axes.set(xlabel="diversity", ylabel="representativeness")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(_COLUMNS, count)
    rows = ceil(count / columns)
    figure = _figure(2.4 * columns + 0.6, 2.5 * rows + 0.5)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def _scatter(axes: Axes, points: Points, **look: Any) -> None:
    axes.scatter(points[:, 0], points[:, 1], **look)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)


def _look(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}


def spread(count: int, most: int) -> Sequence[int]:
    """Choose at most `most` of the places 0..count-1, evenly spread."""
    if count <= most:
        return range(count)
    return [round(k * (count - 1) / max(1, most - 1)) for k in range(most)]


def _save(figure: Figure, path: Path) -> Path:
    with renamed(path) as unfinished:
        # No software version in the file: equal measurements give equal bytes.
        figure.savefig(unfinished, dpi=120, format="png", metadata={"Software": None})
    return path
