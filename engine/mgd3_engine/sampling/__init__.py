"""Guided sampling: the schedule, a step's coefficients, guidance, noise, batches, and the sampler."""
