"""`mgd3-fast train`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config.train import TrainConfig
from mgd3_fast.progress import Progress

CONFIG = TrainConfig
GROUPS = {
    "training": "part preset split resolution epochs steps batch_size lr weight_decay schedule warmup ema"
    " clip_grad seed augment augment_copies checkpoint_every sample_sheets judge",
    "start": "init vae generator_classes generator_heads",
    "the DiT": "model hidden depth heads patch variance label_dropout",
    "the autoencoder": "vae_channels vae_layers vae_attention latent_channels vae_loss kl_weight vae_steps"
    " vae_batch_size vae_lr vae_ema",
    "what the generator states": "name licence stored_precision cfg_scale mode_scale t_stop",
}
EXAMPLES = {
    "mgd3-fast train --dataset photos/train --out my-generator": "autoencoder and DiT, sizes by the images",
    "mgd3-fast train --dataset photos/train --init dit-xl-2-256 --out tuned": "fine-tune a published one",
    "mgd3-fast train --dataset photos/train --out my-generator --part dit --steps 20000": "go on for longer",
}
_OF_IMAGES = ("dataset", "data_dir", "classes", "split", "on_bad_image")


def run(config: TrainConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Fit a generator."""
    with loading():
        from mgd3_fast.generators.folder import DESCRIPTION
        from mgd3_fast.train import train_generator

    folder = train_generator(config, progress)
    return {"folder": str(folder)}, _closing(config, folder, whole=(folder / DESCRIPTION).is_file())


def _closing(config: TrainConfig, folder: Path, *, whole: bool) -> str:
    """What there is now, and the command that comes next."""
    named = {name: getattr(config, name) for name in _OF_IMAGES}
    options = " ".join(
        f"--{name.replace('_', '-')} {quote(str(value))}"
        for name, value in named.items()
        if value != getattr(TrainConfig, name, None)
    )
    out = quote(str(folder))
    if whole:
        return f"generator folder: {folder}\nuse it with: mgd3-fast distill {options} --generator {out} ..."
    return (
        f"autoencoder: {folder / 'vae'}\n"
        f"next, the DiT on its latents: mgd3-fast train {options} --part dit --out {out}"
    )
