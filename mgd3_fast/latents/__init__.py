"""Images become latents on disk, once: every later run over the same files finds them."""

from mgd3_engine.cache import default_cache_dir
from mgd3_fast.latents.encoder import Encoder, latent_shape
from mgd3_fast.latents.encoding import EncodeReport, encode_dataset
from mgd3_fast.latents.job import Encoded, EncodeJob, make_job
from mgd3_fast.latents.store import ClassLatents, LatentStore
from mgd3_fast.latents.stream_encoding import StreamShare, encode_stream

__all__ = [
    "ClassLatents",
    "EncodeJob",
    "EncodeReport",
    "Encoded",
    "Encoder",
    "LatentStore",
    "StreamShare",
    "default_cache_dir",
    "encode_dataset",
    "encode_stream",
    "latent_shape",
    "make_job",
]
