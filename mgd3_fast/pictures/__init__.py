"""Pictures of the modes of a class: where they lie among its latents, and the images nearest to them."""

from mgd3_fast.pictures.plotting import MOST_CLASSES, check_drawable, plot_modes

__all__ = ["MOST_CLASSES", "check_drawable", "plot_modes"]
