"""From what a user names to a generator."""

from __future__ import annotations

from pathlib import Path

from mgd3_fast.errors import UserError
from mgd3_fast.generators.base import Generator
from mgd3_fast.generators.dit import DIT_PRESETS, dit_from_hub, dit_from_path, dit_preset
from mgd3_fast.generators.folder import DESCRIPTION, load_generator_folder
from mgd3_fast.generators.hub import is_hub_id
from mgd3_fast.generators.ldm import is_ldm, ldm_from_path
from mgd3_fast.generators.pipeline_files import pipeline_class
from mgd3_fast.generators.stable_diffusion import (
    PIPELINE_CLASS,
    STABLE_DIFFUSION_PRESETS,
    stable_diffusion,
    stable_diffusion_preset,
)

DEMO_NAME = "demo-mnist5k"
DEMO_DATASET = "mnist5k"
GENERATOR_NAMES: tuple[str, ...] = (DEMO_NAME, *DIT_PRESETS, *STABLE_DIFFUSION_PRESETS)
DIT_PIPELINE = "DiTPipeline"

_DEMO_FOLDER = Path(__file__).parent / "demo_mnist5k"


def load_generator(spec: str, *, dataset_name: str | None = None, vae: str | None = None) -> Generator:
    """Find the generator that `spec` names.

    Args:
        spec: "auto" (the shipped demo for mnist5k, DiT-XL/2 at 256 px for everything else), one of
            `GENERATOR_NAMES`, a generator folder, a diffusers folder, a `.pt`, `.ckpt` or `.safetensors`
            file, or the hub id of a repository in diffusers' layout.
        dataset_name: What "auto" goes by.
        vae: Another autoencoder than the generator's own: a path or hub id.

    Returns:
        The generator; a preset fetches its weights when they are first used.

    Raises:
        UserError: `spec` names nothing, or what it names is damaged or cannot be fetched.
    """
    if spec == "auto":
        spec = DEMO_NAME if dataset_name == DEMO_DATASET else "dit-xl-2-256"
    if spec == DEMO_NAME:
        return load_generator_folder(_DEMO_FOLDER, vae)
    if spec in DIT_PRESETS:
        return dit_preset(spec, vae)
    if spec in STABLE_DIFFUSION_PRESETS:
        return stable_diffusion_preset(spec, vae)
    path = Path(spec)
    if path.exists():
        try:
            return _from_path(path, vae)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(str(error)) from None
    if is_hub_id(spec):
        return _from_hub(spec, vae)
    raise UserError(
        f"generator must be auto, {', '.join(GENERATOR_NAMES)}, a folder, a .pt, .ckpt or .safetensors file,"
        f" or a hub id owner/name, got {spec!r}"
    )


def _from_path(path: Path, vae: str | None) -> Generator:
    if (path / DESCRIPTION).is_file():
        return load_generator_folder(path, vae)
    if is_ldm(path):
        return ldm_from_path(path, vae)
    if _is_text_pipeline(str(path), "not stated"):
        return stable_diffusion(str(path), "not stated", vae)
    return dit_from_path(path, vae)


def _from_hub(repo_id: str, vae: str | None) -> Generator:
    for presets, make in ((DIT_PRESETS, dit_preset), (STABLE_DIFFUSION_PRESETS, stable_diffusion_preset)):
        for name, preset in presets.items():
            if preset.repo_id == repo_id:
                return make(name, vae)
    licence = f"see huggingface.co/{repo_id}"
    if _is_text_pipeline(repo_id, licence):
        return stable_diffusion(repo_id, licence, vae)
    return dit_from_hub(repo_id, vae)


def _is_text_pipeline(source: str, licence: str) -> bool:
    """Tell a text-to-image pipeline from a DiT, with or without its pipeline."""
    found = pipeline_class(source, licence)
    if found not in (None, DIT_PIPELINE, PIPELINE_CLASS):
        raise UserError(
            f"generator must be a pipeline of class {PIPELINE_CLASS} or {DIT_PIPELINE},"
            f" got {source}, a {found}"
        )
    return found == PIPELINE_CLASS
