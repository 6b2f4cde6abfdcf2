"""Which of a network's class ids a dataset's class is."""

from __future__ import annotations

from collections.abc import Sequence

from mgd3_fast.datasets.imagenet import imagenet_classes
from mgd3_fast.datasets.selector import matched
from mgd3_fast.errors import UserError, listed


def map_classes(
    class_names: Sequence[str], known_names: Sequence[str] | None, num_classes: int, generator: str
) -> list[int]:
    """Find the id of each class, by name, by wnid or by position; see `Generator.class_ids`.

    Args:
        class_names: Names of the dataset's classes, in label order.
        known_names: Names the network was trained under, in the order of its ids, or None.
        num_classes: Classes of the network.
        generator: The generator's name, for messages.

    Returns:
        One id per name.

    Raises:
        UserError: A name is unknown, or no rule applies.
    """
    wnids = imagenet_classes("imagenet1k")
    if known_names is not None:
        return _ids_by_name(class_names, known_names, f"one that generator {generator} was trained on")
    if num_classes == len(wnids) and not set(wnids).isdisjoint(class_names):
        return _ids_by_name(class_names, wnids, "an ImageNet wnid, as the dataset's other classes are,")
    if len(class_names) == num_classes:
        return list(range(num_classes))
    raise UserError(
        f"dataset must have as many classes as generator {generator}, whose class names are unknown,"
        f" {num_classes}, got {len(class_names)} ({listed(class_names)})"
    )


def _ids_by_name(class_names: Sequence[str], known_names: Sequence[str], rule: str) -> list[int]:
    ids, known = {name: index for index, name in enumerate(known_names)}, matched(class_names, known_names)
    for name in class_names:
        if name not in known:
            raise UserError(f"class must be {rule} ({listed(known_names)}), got {name!r}")
    return [ids[known[name]] for name in class_names]
