"""Images become latents on disk, once: every later run over the same files finds them."""

from mgd3_fast.cache_dir import default_cache_dir
from mgd3_fast.latents.encoder import Encoder, latent_shape
from mgd3_fast.latents.encoding import EncodeReport, encode_dataset
from mgd3_fast.latents.store import ClassLatents, LatentStore

__all__ = [
    "ClassLatents",
    "EncodeReport",
    "Encoder",
    "LatentStore",
    "default_cache_dir",
    "encode_dataset",
    "latent_shape",
]
