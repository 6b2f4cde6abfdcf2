"""Latent diffusion pipelines of random weights, in the folders that diffusers and transformers write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.fakes.random_networks import random_vae, randomised

SHAPE, LENGTH, WIDTH = (4, 8, 8), 16, 16
"""Latents, tokens of a prompt and numbers of a token's embedding, of the Stable Diffusion pipeline."""

_PARTS = {
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_stable_diffusion(folder: Path) -> None:
    """Write a Stable Diffusion pipeline of 32 px images."""
    from diffusers import DDIMScheduler

    write_tokenizer(folder / "tokenizer")
    vocabulary = len(json.loads((folder / "tokenizer/vocab.json").read_text()))
    unet = randomised(_unet(sample_size=SHAPE[1], block_out_channels=(16, 32), cross_attention_dim=WIDTH))
    for name, parameter in unet.named_parameters():
        if "attn2" in name:  # what attends to the prompt, which random weights would hardly hear
            parameter.mul_(4)
    unet.save_pretrained(folder / "unet")
    randomised(_text_encoder(vocabulary), seed=1).save_pretrained(folder / "text_encoder")
    random_vae().save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
    ).save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionPipeline", **_PARTS}
    (folder / "model_index.json").write_text(json.dumps(index))


def write_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer as Stable Diffusion 1.5 has it, for letters and one longer token."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,.-_'"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>"]
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    pads = {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    folder.mkdir(parents=True)
    vocabulary = {token: index for index, token in enumerate([*tokens, *ends.values()])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(ends | pads))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | ends | pads))


def write_ldm(folder: Path) -> None:
    """Write a class-conditional model of ImageNet's 1000 classes and 16 px images."""
    from diffusers import VQModel

    table = torch.randn(1001, WIDTH, generator=torch.Generator().manual_seed(2))
    unet = _unet(
        sample_size=4, in_channels=3, out_channels=3, block_out_channels=(16, 16), cross_attention_dim=WIDTH
    )
    randomised(unet).save_pretrained(folder / "unet")
    vq = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        num_vq_embeddings=64,
        sample_size=16,
    )
    randomised(vq, seed=1).save_pretrained(folder / "vqvae")
    (folder / "class_embedder").mkdir()
    weights = folder / "class_embedder/diffusion_pytorch_model.safetensors"
    save_file({"embedding.weight": table}, weights)


def _unet(**settings: Any) -> Any:
    """A U-Net of two levels, the upper of which attends to its context."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=8,
        **settings,
    )


def _text_encoder(vocabulary: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
    )
