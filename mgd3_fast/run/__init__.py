"""A run: a dataset becomes latents, latents become modes, modes become images.

`distillation` tells it from beginning to end; `sources.encode` and `discovery` are its first two stages,
which are commands of their own. Its images are `generated`, or `real_images`.
"""
