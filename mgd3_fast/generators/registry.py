"""From what a user names to a generator."""

from __future__ import annotations

from pathlib import Path

from mgd3_fast.errors import UserError
from mgd3_fast.generators.base import Generator
from mgd3_fast.generators.dit import DIT_PRESETS, dit_from_hub, dit_from_path, dit_preset
from mgd3_fast.generators.folder import DESCRIPTION, load_generator_folder
from mgd3_fast.generators.hub import is_hub_id

DEMO_NAME = "demo-mnist5k"
DEMO_DATASET = "mnist5k"
GENERATOR_NAMES: tuple[str, ...] = (DEMO_NAME, *DIT_PRESETS)

_DEMO_FOLDER = Path(__file__).parent / "demo_mnist5k"


def load_generator(spec: str, *, dataset_name: str | None = None, vae: str | None = None) -> Generator:
    """Find the generator that `spec` names.

    Args:
        spec: "auto" (the shipped demo for mnist5k, DiT-XL/2 at 256 px for everything else), one of
            `GENERATOR_NAMES`, a generator folder, a diffusers folder, a `.pt` or `.safetensors` file, or the
            hub id of a repository in diffusers' layout.
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
    path = Path(spec)
    try:
        if (path / DESCRIPTION).is_file():
            return load_generator_folder(path, vae)
        if path.exists():
            return dit_from_path(path, vae)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    if is_hub_id(spec):
        return dit_from_hub(spec, vae)
    raise UserError(
        f"generator must be auto, {', '.join(GENERATOR_NAMES)}, a folder, a .pt or .safetensors file,"
        f" or a hub id owner/name, got {spec!r}"
    )
