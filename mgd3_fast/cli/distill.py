"""`mgd3-fast distill`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config import DistillConfig
from mgd3_fast.progress import Progress

if TYPE_CHECKING:
    from mgd3_fast.run.distillation import DistilledDataset

CONFIG = DistillConfig
EXAMPLES = {
    "mgd3-fast distill --dataset mnist5k --ipc 10 --out distilled": "the demo: no GPU and no download",
    "mgd3-fast distill --dataset imagenet1k --data-dir ILSVRC2012 --ipc 50 --out in1k-50": "the main job",
    "mgd3-fast distill --dataset photos/train --generator my-generator --ipc 10 --out small": (
        "your own images, with a generator that `mgd3-fast train` made of them"
    ),
    "mgd3-fast distill --dataset mnist5k --ipc 10 --method random --out real": "real images, to compare with",
}
LOW_RECOVERY = 0.5  # of what is not chance


def run(config: DistillConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Distil a dataset."""
    with loading():
        from mgd3_fast.run.distillation import distill

    if config.method == "kmeans-closest":
        progress.note(
            "--method kmeans-closest takes real images; to generate some at the real latents nearest to the"
            " means, give --discovery kmeans-closest instead"
        )
    distilled = distill(config, progress)
    result = {
        "folder": str(distilled.folder),
        "images": len(distilled),
        "classes": len(distilled.class_names),
        "made": distilled.made,
        "missing": distilled.missing,
        "contact_sheet": str(distilled.contact_sheet) if distilled.contact_sheet else None,
        "export": str(distilled.export) if distilled.export else None,
        "mode_recovery": distilled.mode_recovery,
        "timings_s": distilled.timings_s,
    }
    return result, _closing(distilled) + _recovery(distilled, config.ipc)


def _recovery(distilled: DistilledDataset, ipc: int) -> str:
    """Say where guidance is too weak to decide where images end."""
    share = distilled.mode_recovery
    if not distilled.guided or share is None:
        return ""
    chance = 1 / ipc
    said = f"\nmode recovery {share:.0%} ({chance:.0%} by chance)"
    if share - chance >= LOW_RECOVERY * (1 - chance):
        return said
    return f"{said}: guidance hardly decides what is drawn; `mgd3-fast tune` finds a stronger one"


def _closing(distilled: DistilledDataset) -> str:
    timings = dict(distilled.timings_s)
    total = timings.pop("total")
    spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in timings.items())
    rate = f", {distilled.made / total:.1f} images/s" if distilled.made else ""
    times = f"{total:.1f} s" + (f" ({spent})" if spent else "") + rate
    if distilled.missing:
        return (
            f"{distilled.made:,} images made in {distilled.folder}; {distilled.missing:,} of other shards are"
            f" still missing, and the shard that finishes last writes the manifest\n{times}"
        )
    done = f"{distilled.made:,} made now" if distilled.made else "nothing was left to do"
    found = f"{len(distilled):,} images of {len(distilled.class_names):,} classes in {distilled.folder}"
    export = f"export: {distilled.export}\n" if distilled.export else ""
    return f"{found} ({done})\ncontact sheet: {distilled.contact_sheet}\n{export}{times}"
