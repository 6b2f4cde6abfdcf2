"""`parquet`: the layout of a Hugging Face dataset repository, with image and class-label features."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from mgd3_fast.config.convert import ConvertConfig
from mgd3_fast.errors import missing, printable
from mgd3_fast.formats.card import write_card
from mgd3_fast.formats.record import CARD, Written
from mgd3_fast.formats.samples import class_list, contents, split_by_size
from mgd3_fast.progress import Bar
from mgd3_fast.writers import sha256_of
from mgd3_fast.writers.labelled import LabelledFolder, LabelledImage

_ROWS_OF_GROUP = 100  # what the hub's viewer reads at once

# Name of each column, its Arrow type and its type on the hub, besides image and label.
_COLUMNS = {
    "class": "string",
    "title": "string",
    "index": "int32",
    "weight": "float64",
    "source_image": "string",
    "seed": "string",
}

_FIELDS = "`label` carries the class names, `class` is the name again, `title` ImageNet's English synonyms."
_SNIPPET = (
    "from datasets import load_dataset",
    "",
    'images = load_dataset("path/of/this/folder", split="train")',
    'images[0]["image"], images.features["label"].int2str(images[0]["label"])',
)


def check() -> None:
    """Raise a `UserError` that says how to install it where pyarrow is missing."""
    try:
        import_module("pyarrow.parquet")
    except ImportError:
        raise missing("format parquet needs the package pyarrow", "data") from None


def write(source: LabelledFolder, config: ConvertConfig, draft: Path, bar: Bar) -> Written:
    """Write `data/train-00000-of-0000N.parquet` and a `README.md` card.

    `image` holds the bytes of the file and its name, `label` the label in the full class list, whose names
    the `ClassLabel` feature carries; one that is not known is `unnamed-00007`. pyarrow writes the rows, since
    `datasets.Dataset.to_parquet` copies all images into a cache first and takes twice the processor time.
    """
    check()
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = class_list(source)
    schema = _schema(names)
    titles = {one.label: one.title for one in source.classes}
    shards = split_by_size(source.images, config.shard_mib)
    files: dict[str, str] = {}
    num_bytes = 0
    (draft / "data").mkdir()
    for number, images in enumerate(shards):
        name = f"data/train-{number:05d}-of-{len(shards):05d}.parquet"
        with pq.ParquetWriter(draft / name, schema, compression="snappy") as writer:
            for start in range(0, len(images), _ROWS_OF_GROUP):
                group = images[start : start + _ROWS_OF_GROUP]
                rows = [_row(image, content, titles[image.label]) for image, content in contents(group, bar)]
                table = pa.Table.from_pylist(rows, schema=schema)
                num_bytes += table.nbytes
                writer.write_table(table)
        files[name] = sha256_of(draft / name)
    size = sum((draft / name).stat().st_size for name in files)
    info = _dataset_info(names, len(source.images), num_bytes, size)
    write_card(
        draft / CARD,
        source,
        data_files="data/train-*.parquet",
        fields=_FIELDS,
        snippet=_SNIPPET,
        dataset_info=info,
    )
    return Written(files, {"rows": len(source.images)})


def _schema(names: list[str]) -> Any:
    import pyarrow as pa

    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "label": {"names": names, "_type": "ClassLabel"},
        **{name: {"dtype": dtype, "_type": "Value"} for name, dtype in _COLUMNS.items()},
    }
    fields = [
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("label", pa.int64()),
        *(pa.field(name, pa.type_for_alias(dtype)) for name, dtype in _COLUMNS.items()),
    ]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _dataset_info(names: list[str], examples: int, num_bytes: int, size: int) -> dict[str, Any]:
    """Features and sizes, as the hub's YAML has them."""
    by_label = {str(label): name for label, name in enumerate(names)}
    return {
        "features": [
            {"name": "image", "dtype": "image"},
            {"name": "label", "dtype": {"class_label": {"names": by_label}}},
            *({"name": name, "dtype": dtype} for name, dtype in _COLUMNS.items()),
        ],
        "splits": [{"name": "train", "num_bytes": num_bytes, "num_examples": examples}],
        "download_size": size,
        "dataset_size": num_bytes,
    }


def _row(image: LabelledImage, content: bytes, title: str | None) -> dict[str, Any]:
    source_image = image.facts.get("source_image", image.facts.get("original"))
    name = printable(image.class_name)
    return {
        "image": {"bytes": content, "path": f"{name}-{image.index}{image.suffix}"},
        "label": image.label,
        "class": name,
        "title": title,
        "index": image.index,
        "weight": image.facts.get("weight"),
        "source_image": None if source_image is None else printable(source_image),
        "seed": image.facts.get("seed"),
    }
