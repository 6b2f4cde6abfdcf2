"""`webdataset`: POSIX tar files of images, each with its label and what is known of it, and a class list."""

from __future__ import annotations

from pathlib import Path

from mgd3_fast.config.convert import ConvertConfig
from mgd3_fast.formats.card import write_card
from mgd3_fast.formats.record import CARD, Written
from mgd3_fast.formats.samples import class_list, contents, described, split_by_size
from mgd3_fast.progress import Bar
from mgd3_fast.writers import sha256_of
from mgd3_fast.writers.labelled import LabelledFolder
from mgd3_fast.writers.tars import add_sample, new_tar

_CLASS_LIST = "classnames.txt"  # which `--dataset wds:` reads beside shards
_FIELDS = (
    "A sample is `png` (the image), `cls` (its label) and `json` (class, title and what else is known)."
    f" `{_CLASS_LIST}` names the classes, one a line in label order."
)


def write(source: LabelledFolder, config: ConvertConfig, draft: Path, bar: Bar) -> Written:
    """Write `mgd3-000000.tar` onwards, `classnames.txt` and a `README.md`.

    Samples are those of `add_sample`, and equal images give equal bytes. `webdataset.ShardWriter` would start
    a new file only after the limit is passed.
    """
    titles = {one.label: one.title for one in source.classes}
    files: dict[str, str] = {}
    samples: list[int] = []
    for number, images in enumerate(split_by_size(source.images, config.shard_mib)):
        name = f"mgd3-{number:06d}.tar"
        with (draft / name).open("wb") as file, new_tar(file) as archive:
            for image, content in contents(images, bar):
                about = described(image, title=titles[image.label])
                add_sample(archive, image.label, image.index, about, image.suffix, content)
        files[name] = sha256_of(draft / name)
        samples.append(len(images))
    lines = ["_".join(name.splitlines()) + "\n" for name in class_list(source)]
    (draft / _CLASS_LIST).write_text("".join(lines), encoding="utf-8")
    files[_CLASS_LIST] = sha256_of(draft / _CLASS_LIST)
    snippet = _snippet(len(samples))
    write_card(draft / CARD, source, data_files="mgd3-*.tar", fields=_FIELDS, snippet=snippet)
    return Written(files, {"samples": samples})


def _snippet(shards: int) -> list[str]:
    files = "mgd3-000000.tar" if shards == 1 else f"mgd3-{{000000..{shards - 1:06d}}}.tar"
    return [
        "import webdataset",
        "",
        f'samples = webdataset.WebDataset("path/of/this/folder/{files}", shardshuffle=False)',
        'for image, label in samples.shuffle(10_000).decode("pil").to_tuple("png", "cls"):',
        "    ...",
    ]
