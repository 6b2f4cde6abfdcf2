"""From what a user names to a generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote

from mgd3_fast.errors import UserError
from mgd3_fast.generators.base import Generator
from mgd3_fast.generators.classes import names_beside, read_class_names
from mgd3_fast.generators.dit import DIT_PRESETS, dit_of, dit_preset
from mgd3_fast.generators.folder import DESCRIPTION, TRAINING, load_generator_folder
from mgd3_fast.generators.hub import MODEL_INDEX, ModelFiles, is_hub_id
from mgd3_fast.generators.ldm import is_ldm, ldm_from_path
from mgd3_fast.generators.stable_diffusion import (
    PIPELINE_CLASS,
    STABLE_DIFFUSION_PRESETS,
    TextGenerator,
    stable_diffusion,
    stable_diffusion_preset,
)

DEMO_NAME = "demo-mnist5k"
DEMO_DATASET = "mnist5k"
GENERATOR_NAMES: tuple[str, ...] = (DEMO_NAME, *DIT_PRESETS, *STABLE_DIFFUSION_PRESETS)
DIT_PIPELINE = "DiTPipeline"
_OF_DIFFUSERS = (MODEL_INDEX, "config.json", "transformer/config.json")

_DEMO_FOLDER = Path(__file__).parent / "demo_mnist5k"


def load_generator(
    spec: str,
    *,
    dataset_name: str | None = None,
    vae: str | None = None,
    heads: int | None = None,
    classes: Path | str | None = None,
) -> Generator:
    """Find the generator that `spec` names.

    Args:
        spec: "auto" (the shipped demo for mnist5k, DiT-XL/2 at 256 px for everything else), one of
            `GENERATOR_NAMES`, a generator folder, a diffusers folder, a `.pt`, `.ckpt` or `.safetensors`
            file, or the hub id of a repository in diffusers' layout.
        dataset_name: What "auto" goes by.
        vae: Another autoencoder than the generator's own: a path or hub id.
        heads: Attention heads of a DiT's file that does not tell them.
        classes: File of the names of its classes, see `read_class_names`; None takes those that it states
            itself, else a list that lies beside it.

    Returns:
        The generator; a preset fetches its weights when they are first used.

    Raises:
        UserError: `spec` names nothing, what it names is damaged or cannot be fetched, or an option does not
            fit it.
    """
    if spec == "auto":
        spec = DEMO_NAME if dataset_name == DEMO_DATASET else "dit-xl-2-256"
    try:
        known = _found(spec, vae)
        generator = known or dit_of(spec, vae, heads)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    if known is not None and heads is not None:
        raise UserError(f"generator_heads must be left out with {known.name}, got {heads}")
    if isinstance(generator, TextGenerator):
        if classes is not None:
            raise UserError(f"generator_classes must be left out with {generator.name}, which takes prompts")
        return generator
    if classes is not None:
        return replace(generator, class_names=read_class_names(Path(classes), generator.num_classes))
    if generator.class_names is None and Path(spec).exists():
        names, note = names_beside(Path(spec), generator.num_classes)
        return replace(generator, class_names=names, notes=(*generator.notes, *filter(None, [note])))
    return generator


def _found(spec: str, vae: str | None) -> Generator | None:
    """Find a generator whose files say all of it; None for a DiT's weights."""
    if spec == DEMO_NAME:
        return load_generator_folder(_DEMO_FOLDER, vae)
    for presets, make in ((DIT_PRESETS, dit_preset), (STABLE_DIFFUSION_PRESETS, stable_diffusion_preset)):
        for name, preset in presets.items():
            if spec == name or (spec == preset.repo_id and not Path(spec).exists()):
                return make(name, vae)
    path = Path(spec)
    if not path.exists() and not is_hub_id(spec):
        raise UserError(
            f"generator must be auto, {', '.join(GENERATOR_NAMES)}, a folder, a .pt, .ckpt or .safetensors"
            f" file, or a hub id owner/name, got {spec!r}"
        )
    if (path / DESCRIPTION).is_file():
        return load_generator_folder(path, vae)
    if (path / TRAINING).is_file():
        raise UserError(
            f"generator must be finished, and {spec} has no network yet: `mgd3-fast train --dataset"
            f" ... --part dit --out {quote(spec)}` trains it"
        )
    if path.exists() and is_ldm(path):
        return ldm_from_path(path, vae)
    if path.is_dir() and not any((path / name).is_file() for name in _OF_DIFFUSERS):
        raise UserError(
            f"generator must be a folder of `train` ({DESCRIPTION}) or of diffusers"
            f" ({', '.join(_OF_DIFFUSERS)}), got {spec}, which has none of these files"
        )
    licence = "not stated" if path.exists() else f"see huggingface.co/{spec}"
    return stable_diffusion(spec, licence, vae) if _is_text_pipeline(spec, licence) else None


def _is_text_pipeline(source: str, licence: str) -> bool:
    """Tell a text-to-image pipeline from a DiT, with or without its pipeline."""
    found = (ModelFiles(source, licence).find_settings(MODEL_INDEX) or {}).get("_class_name")
    if found not in (None, DIT_PIPELINE, PIPELINE_CLASS):
        raise UserError(
            f"generator must be a pipeline of class {PIPELINE_CLASS} or {DIT_PIPELINE},"
            f" got {source}, a {found}"
        )
    return found == PIPELINE_CLASS
