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
from mgd3_fast.pictures.members import ModeMembers
from mgd3_fast.pictures.style import own_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = NDArray[np.float64]

# Okabe & Ito, told apart with any colour vision; lines say which latent is whose where modes share one.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
MOST_WEIGHTS = 20  # modes up to which the weights are written out
FEWEST_FOR_TSNE = 6


def project(members: ModeMembers, projection: str, seed: int) -> tuple[Points, Points, str]:
    """Place latents and modes in a plane.

    Args:
        members: Latents and modes.
        projection: "tsne" (latents and modes together) or "pca" (fitted to the latents alone).
        seed: Of t-SNE.

    Returns:
        `[n, 2]`, `[K, 2]`, and what was done: fewer than 6 latents are too few for t-SNE, and get PCA.
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
    """Write the map as PNG; equal arguments give equal bytes.

    Args:
        path: Target.
        members: Latents and modes.
        projection: "tsne" or "pca".
        seed: Of t-SNE.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points, placed, what = project(members, projection, seed)
    with own_style():
        figure = Figure(figsize=(7.5, 7.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        colours = mode_colours(placed)
        _draw_latents(axes, points, placed, members, colours)
        _draw_modes(axes, placed, members, colours)
        axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axes.set_title(members.title, fontsize=12)
        axes.set_xlabel(f"{what}; lines tie each latent to the mode nearest to it", fontsize=10)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
        # No software version in the file: equal maps have equal bytes.
        figure.savefig(path, dpi=120, format="png", metadata={"Software": None})


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
    axes.scatter(points[:, 0], points[:, 1], s=9, c=colours, linewidths=0)
    nearest = points[members.source_rows.numpy()]
    look: dict[str, Any] = {"facecolors": "none", "edgecolors": "black", "linewidths": 1.0}
    axes.scatter([], [], s=16, color="0.5", linewidths=0, label="latent of a real image")
    axes.scatter(nearest[:, 0], nearest[:, 1], s=34, label="image nearest to a mode", **look)


def _draw_modes(axes: Axes, placed: Points, members: ModeMembers, colours: Sequence[str]) -> None:
    import matplotlib.patheffects

    weights = members.weights.numpy()
    area = 30 + 900 * weights
    axes.scatter(
        placed[:, 0],
        placed[:, 1],
        s=area,
        c=colours,
        marker="D",
        edgecolors="black",
        linewidths=1.2,
        zorder=3,
    )
    axes.scatter(
        [],
        [],
        s=60,
        color="white",
        marker="D",
        edgecolors="black",
        label="mode; its area: share of the class",
    )
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
