"""How strongly to guide: settings of a generator, compared by what classifiers learn from their images.

`candidates` are the settings, `halving` who goes on for how long, `trials` makes and scores their images,
`tuning` tells it from beginning to end.
"""
