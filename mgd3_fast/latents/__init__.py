"""Images become latents on disk, once: every later run over the same files finds them."""

from mgd3_fast.latents.class_latents import ClassLatents
from mgd3_fast.latents.encoder import Encoder, latent_shape
from mgd3_fast.latents.encoding import EncodeReport, Share, encode_dataset, encode_stream
from mgd3_fast.latents.shard_encoder import Encoded, EncodeJob, make_job
from mgd3_fast.latents.store import LatentStore, note_old_latents

__all__ = [
    "ClassLatents",
    "EncodeJob",
    "EncodeReport",
    "Encoded",
    "Encoder",
    "LatentStore",
    "Share",
    "encode_dataset",
    "encode_stream",
    "latent_shape",
    "make_job",
    "note_old_latents",
]
