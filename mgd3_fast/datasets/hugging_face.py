"""`hf:`: datasets of the Hugging Face hub, or parquet files of this machine, streamed by `datasets`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from mgd3_fast.datasets.images import sha256_of_lines
from mgd3_fast.datasets.streams import StreamedImage, split_options
from mgd3_fast.errors import UnlabelledError, UserError, listed, missing
from mgd3_fast.storage.cache import expanded

_SOURCE = re.compile(r"(?P<path>[^:@]+)(:(?P<config>[^:@]+))?(@(?P<revision>[^:@]+))?")
_OPTIONS = ("split", "image", "label")
_SPLITS = {
    "train": ("train", "training"),
    "val": ("validation", "val", "valid", "test"),
    "test": ("test", "validation", "val", "valid"),
    "validation": ("validation", "val", "valid"),
}
_LOCAL_PREFIXES = (".", "/", "~")
# Rows that are in memory at a time: a row group of a parquet file may be the whole file.
_ROWS_AT_A_TIME = 64
# What file systems call a version of a file, the surest first.
_VERSIONS = ("blob_id", "ETag", "etag", "mtime", "created")


class _Columns(NamedTuple):
    """Names of the two columns that matter, and the label's class names where it has some."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


class HubStream:
    """One split of a dataset as an `ImageStream`; its shards are called by their numbers, five digits.

    Args:
        spec: The specification, for messages.
        name: What manifests call it.
        rows: The split: `datasets.IterableDataset`, undecoded.
        files: URLs of its files.
        split: Its name.
        columns: Image and label.
        num_images: Its rows, where the dataset's card tells.
    """

    def __init__(
        self,
        spec: str,
        name: str,
        rows: Any,
        files: Sequence[str],
        split: str,
        columns: _Columns,
        num_images: int | None,
    ) -> None:
        self.name, self.location = name, spec
        self.shards: Sequence[str] = [f"{number:05d}" for number in range(rows.num_shards)]
        self.class_names, self.num_images = columns.class_names, num_images
        self._rows, self._files, self.split, self._columns = rows, files, split, columns

    @cached_property
    def identity(self) -> str:
        """Hex sha256 of the files with their sizes and versions, the split and its columns."""
        settings = [self.split, self._columns.image, self._columns.label, *(self.class_names or ())]
        versions = [_version(url) for url in self._files]
        return hashlib.sha256(json.dumps([settings, versions]).encode()).hexdigest()

    def shard_key(self, shard: int) -> str:
        """Of the whole split and the number: which file holds which shard is the library's affair."""
        return sha256_of_lines(self.identity, str(shard))

    def read(self, shard: int, start: int = 0) -> Iterator[StreamedImage]:
        """See `ImageStream.read`."""
        rows = self._rows.shard(num_shards=len(self.shards), index=shard)
        row = start
        try:
            for fields in rows.skip(start) if start else rows:
                image = fields[self._columns.image] or {}
                name = f"{shard:05d}/{row:07d}"
                if image.get("path"):
                    name += "-" + re.split(r"[/\\]", image["path"])[-1]
                yield StreamedImage(row, name, self._label(fields, name), _content(image))
                row += 1
        except UserError:
            raise
        except Exception as error:  # the libraries below raise errors of a dozen families
            raise UserError(f"{self.location} broke off: {_reason(error)}; run again to go on") from error

    def _label(self, fields: Mapping[str, Any], name: str) -> str:
        label = fields[self._columns.label]
        if label is None or label == -1:
            raise UnlabelledError(
                f"{self.location} has no label in column {self._columns.label} of row {name}"
            )
        return str(label)


def open_hub_stream(spec: str, split: str) -> HubStream:
    """Open `hf:PATH[:CONFIG][@REVISION][#split=...,image=...,label=...]`; no image is read yet.

    Args:
        spec: The specification. PATH is owner/name on the hub; a path that starts with `.`, `/` or `~` is a
            folder, or one parquet file, of this machine.
        split: "train", "val" or "test"; `#split=` names another one.

    Raises:
        UserError: Not of this form, no such dataset, configuration, split or column.
    """
    source, options = split_options(spec, _OPTIONS)
    parts = _SOURCE.fullmatch(source)
    if parts is None:
        raise UserError(f"dataset must be hf:PATH[:CONFIG][@REVISION][#KEY=VALUE,...], got {spec!r}")
    builder = _builder(spec, **parts.groupdict())
    available = list(_lookup(spec, lambda: builder.as_streaming_dataset()))
    chosen = options.get("split") or _split_among(available, split)
    if chosen is None or chosen not in available:
        raise UserError(f"split must be one of {listed(available)} for {spec}, got {chosen or split!r}")
    rows = _lookup(spec, lambda: builder.as_streaming_dataset(split=chosen))
    columns = _columns(rows.features, options, spec)
    files = [str(file) for file in (builder.config.data_files or {}).get(chosen, ())]
    path, config = parts["path"], parts["config"]
    if path.startswith(_LOCAL_PREFIXES):
        path = expanded(path).resolve().name
    name = f"hf:{path}" + (f":{config}" if config else "")
    told = (builder.info.splits or {}).get(chosen)
    num_images = told.num_examples if told is not None else None
    return HubStream(spec, name, _undecoded(rows, columns), files, chosen, columns, num_images)


def _builder(spec: str, path: str, config: str | None, revision: str | None) -> Any:
    try:
        from datasets import load_dataset_builder
    except ImportError:
        raise missing("hf datasets need the package datasets", "data") from None
    if not path.startswith(_LOCAL_PREFIXES):
        builder = _lookup(spec, lambda: load_dataset_builder(path, config, revision=revision))
    else:
        place = expanded(path)
        if revision is not None or not place.exists():
            wrong = "a path without @revision" if revision is not None else "an existing path"
            raise UserError(f"dataset must be hf: and owner/name, or {wrong}, got {spec!r}")
        if place.is_dir():
            builder = _lookup(spec, lambda: load_dataset_builder(str(place), config))
        else:
            builder = _lookup(spec, lambda: load_dataset_builder("parquet", data_files=str(place)))
    if hasattr(builder.config, "batch_size"):
        builder.config.batch_size = _ROWS_AT_A_TIME
    return builder


def _lookup(spec: str, look_up: Callable[[], Any]) -> Any:
    """Say in one line what the library could not find, reach or read."""
    try:
        return look_up()
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"dataset {spec} cannot be opened: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _split_among(available: Sequence[str], split: str) -> str | None:
    if split in available:
        return split
    if split == "train" and len(available) == 1:
        return available[0]
    return next((name for name in _SPLITS.get(split, ()) if name in available), None)


def _columns(features: Mapping[str, Any] | None, options: Mapping[str, str], spec: str) -> _Columns:
    from datasets import ClassLabel, Image

    types = dict(features or {})
    image = _column(types, "image", options.get("image"), Image, spec)
    label = _column(types, "label", options.get("label"), ClassLabel, spec)
    if not isinstance(types[image], Image):
        raise UserError(f"column {image} of {spec} must hold images, got {_typed(types)}")
    kind = types[label]
    if isinstance(kind, ClassLabel):
        return _Columns(image, label, tuple(kind.names))
    if re.fullmatch(r"string|large_string|u?int\d+", str(getattr(kind, "dtype", ""))):
        return _Columns(image, label, None)
    raise UserError(f"column {label} of {spec} must hold labels or class names, got {_typed(types)}")


def _column(types: Mapping[str, Any], role: str, given: str | None, feature: type, spec: str) -> str:
    if given is not None:
        if given not in types:
            raise UserError(f"{role} must name a column of {spec}, got {given!r} among {_typed(types)}")
        return given
    found = [name for name, kind in types.items() if isinstance(kind, feature)]
    if len(found) == 1:
        return found[0]
    if role in found:
        return role
    raise UserError(
        f"{spec} must have one {feature.__name__} column, or #{role}=COLUMN must name it, "
        f"got {_typed(types) or 'columns without types'}"
    )


def _typed(types: Mapping[str, Any]) -> str:
    return listed(f"{name} ({getattr(kind, 'dtype', type(kind).__name__)})" for name, kind in types.items())


def _undecoded(rows: Any, columns: _Columns) -> Any:
    """The two columns, images as the bytes of their files, so that one set of rules decodes all images."""
    from datasets import Image

    kept = rows.select_columns([columns.image, columns.label])
    return kept.cast_column(columns.image, Image(decode=False))


def _content(image: Mapping[str, Any]) -> bytes:
    if image.get("bytes") is not None:
        return bytes(image["bytes"])
    if not image.get("path"):
        return b""
    import fsspec

    with fsspec.open(image["path"], "rb") as file:
        return bytes(file.read())


def _version(url: str) -> list[str]:
    """What tells this file from an earlier one of the same name; copies in other places are alike."""
    import fsspec

    files, path = fsspec.core.url_to_fs(url)
    found = files.info(path)
    version = next((str(found[key]) for key in _VERSIONS if found.get(key)), "")
    return [url.rsplit("/", 1)[-1], str(found.get("size")), version]
