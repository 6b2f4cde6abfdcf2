"""The map of a class: latents and modes together in a plane, each latent tied to its mode.

Shape letters: n images of a class, K modes, D = C*h*w.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mgd3_fast.modes.clusters import one_thread
from mgd3_fast.pictures import style
from mgd3_fast.pictures.members import ModeMembers
from mgd3_fast.pictures.style import add_legend, new_figure, own_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = NDArray[np.float64]

COLOURS = (*style.COLOURS, "#999999")  # lines say which latent is whose where modes share one
MOST_WEIGHTS = 20  # modes up to which the weights are written out
FEWEST_FOR_TSNE = 6


def project(members: ModeMembers, projection: str, seed: int) -> tuple[Points, Points, str]:
    """Place latents `[n, 2]` and modes `[K, 2]` in a plane, and say how.

    "tsne" places latents and modes together, "pca" is fitted to the latents alone; fewer than 6 latents are
    too few for t-SNE, and get PCA.
    """
    latents, modes = members.latents.numpy(), members.modes.numpy()
    with one_thread():
        if projection == "tsne" and len(latents) >= FEWEST_FOR_TSNE:
            from mgd3_fast.pictures.embedding import joint_map

            points, (placed,) = joint_map(latents, [modes], seed)
            return points, placed, "t-SNE of latents and modes"
        from sklearn.decomposition import PCA

        components = min(2, *latents.shape)
        with np.errstate(invalid="ignore"):  # one latent, or copies of one, have no variance to share
            fitted = PCA(components, svd_solver="full").fit(latents.astype(np.float64))
        points, placed = (
            np.pad(fitted.transform(rows.astype(np.float64)), ((0, 0), (0, 2 - components)))
            for rows in (latents, modes)
        )
    explained = np.nan_to_num(fitted.explained_variance_ratio_).sum()
    return points, placed, f"two principal components, {explained:.0%} of the variance"


def draw_mode_map(path: Path, members: ModeMembers, projection: str, seed: int) -> None:
    """Write the map as PNG, by "tsne" of a seed or "pca"; equal arguments give equal bytes."""
    points, placed, what = project(members, projection, seed)
    with own_style():
        figure = new_figure(7.5, 7.5)
        axes = figure.add_subplot()
        colours = mode_colours(placed)
        _draw_latents(axes, points, placed, members, colours)
        _draw_modes(axes, placed, members, colours)
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axes.set_title(members.title, fontsize=12)
        axes.set_xlabel(f"{what}; lines tie each latent to the mode nearest to it", fontsize=10)
        add_legend(figure, axes, "lower")
        save_figure(figure, path)


def mode_colours(placed: Points) -> list[str]:
    """A colour for each mode; modes of one colour are as far apart as taking the best in turn gets them."""
    chosen: list[int] = []
    for mode in placed:
        apart = np.full(len(COLOURS), np.inf)
        for other, colour in zip(placed, chosen, strict=False):
            apart[colour] = min(apart[colour], float(np.linalg.norm(mode - other)))
        chosen.append(int(apart.argmax()))
    return [COLOURS[colour] for colour in chosen]


def _draw_latents(
    axes: Axes, points: Points, placed: Points, members: ModeMembers, of_modes: Sequence[str]
) -> None:
    from matplotlib.collections import LineCollection

    labels = members.labels.numpy()
    colours = [of_modes[label] for label in labels]
    ties = np.stack([points, placed[labels]], axis=1)  # [n, 2 ends, 2]
    axes.add_collection(LineCollection(list(ties), colors=colours, linewidths=0.5, alpha=0.45))
    x, y = points.T
    axes.scatter(x, y, s=9, c=colours, linewidths=0)
    look: dict[str, Any] = {"facecolors": "none", "edgecolors": "black", "linewidths": 1.0}
    axes.scatter([], [], s=16, color="0.5", linewidths=0, label="latent of a real image")
    x, y = points[members.source_rows.numpy()].T
    axes.scatter(x, y, s=34, label="image nearest to a mode", **look)


def _draw_modes(axes: Axes, placed: Points, members: ModeMembers, colours: Sequence[str]) -> None:
    import matplotlib.patheffects

    weights = members.weights.numpy()
    area = 30 + 900 * weights
    look: dict[str, Any] = {"marker": "D", "edgecolors": "black"}
    x, y = placed.T
    axes.scatter(x, y, s=area, c=colours, linewidths=1.2, zorder=3, **look)
    axes.scatter([], [], s=60, color="white", label="mode; its area: share of the class", **look)
    halo = [matplotlib.patheffects.withStroke(linewidth=3.5, foreground="white")]
    spelled = len(placed) <= MOST_WEIGHTS
    for mode, (x, y) in enumerate(placed):
        axes.annotate(
            f"{mode}: {weights[mode]:.1%}" if spelled else str(mode),
            (x, y),
            xytext=(0, 3 + area[mode] ** 0.5 / 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10 if spelled else 8,
            fontweight="bold",
            path_effects=halo,
            zorder=4,
        )
