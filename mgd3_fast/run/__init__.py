"""A run: a dataset becomes latents, latents become modes, modes become images.

`distillation` tells it from beginning to end, as a list of `units`, which a `worker` does; it does not matter
which one. `sources.encode` and `discovery` are its first two stages, which are commands of their own. Its
images are `generated`, or `real_images`.
"""
