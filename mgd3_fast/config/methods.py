"""The methods of `distill`, and the options that each does not have."""

GENERATED_METHODS = ("mgd3", "unguided", "d4m")
REAL_METHODS = ("random", "herding", "kmeans-closest")

_GUIDANCE = ("mode_scale", "t_stop")
SAMPLING = ("sampler", "steps", "cfg_scale", *_GUIDANCE)
_OF_GUIDANCE = (*_GUIDANCE, "t_stop_of")
_OF_GENERATION = (
    *("modes", "discovery_seed", "vae", "generator_classes", "generator_heads", "preset"),
    *("prompts", "prompt_template", "negative_prompt", "synonyms"),
    *("steps_offset", "cfg_interval", "t_stop_of", "cache_steps", "cache_order", "cache_from"),
    *SAMPLING,
)
# Options that a method does not have; real images are made without any of generation.
FOREIGN = {
    "mgd3": ("start_strength",),
    "unguided": (*_OF_GUIDANCE, "start_strength"),
    "d4m": _OF_GUIDANCE,
    **dict.fromkeys(REAL_METHODS, (*_OF_GENERATION, "start_strength", "trace")),
}
