"""The configuration that DD-Ranking 0.2.0 reads beside tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgd3_fast.writers.labelled import LabelledFolder

CONFIG_FILE = "ddranking.json"

# DD-Ranking's names of the datasets whose class order is that of the class list here.
DATASETS = {"imagenet1k": "ImageNet1K", "imagenette": "ImageNette", "imagewoof": "ImageWoof"}

# Its `Config` gives None for what is missing, which its constructors then calculate with: every key is named.
# The recipe is RDED's, as far as DD-Ranking can say it: AdamW, half a cosine, CutMix, temperature 20.
_DEFAULTS: dict[str, Any] = {
    "real_data_path": "./dataset",
    "model_name": "ResNet-18-BN",
    "data_aug_func": "cutmix",
    "aug_params": {"beta": 1.0},
    "optimizer": "adamw",
    "lr_scheduler": "cosine",
    "step_size": None,
    "weight_decay": 0.01,
    "momentum": 0.9,
    "num_eval": 5,
    "num_epochs": 300,
    "real_batch_size": 256,
    "syn_batch_size": 256,
    "num_workers": 4,
    "use_zca": False,
    "use_torchvision": False,
    "stu_use_torchvision": False,
    "tea_use_torchvision": False,
    "use_aug_for_hard": False,
    "teacher_dir": "./teacher_models",
    "teacher_model_names": ["ResNet-18-BN"],
    "soft_label_mode": "M",
    "soft_label_criterion": "kl",
    "loss_fn_kwargs": {"temperature": 20.0, "scale_loss": False},
    "random_data_format": "tensor",
    "random_data_path": "./random_data",
    "eval_full_data": False,
    "save_path": None,
    "custom_val_trans": None,
    "device": "cuda",
    "dist": False,
}


def write_ddranking_config(folder: Path, source: LabelledFolder, facts: Mapping[str, Any]) -> str:
    """Write `ddranking.json` for `ddranking.config.Config.from_file`, where DD-Ranking can score the images.

    It takes images for normalised, class-major, equally many per class, labelled 0, 1, ... in its own order.

    Args:
        folder: Receives the file.
        source: The images.
        facts: "shape", "dtype" and "normalisation" of the tensors.

    Returns:
        The file's name, or why there is none.
    """
    used = facts["normalisation"]
    if source.dataset not in DATASETS:
        return f"none: DD-Ranking 0.2.0 has {', '.join(DATASETS)} in the class order used here"
    if not (source.complete and source.even):
        return "none: DD-Ranking takes all classes, equally many images of each"
    if facts["dtype"] != "float32" or used["name"] != "imagenet":
        return "none: DD-Ranking takes float32 images normalised by ImageNet's figures"
    size = facts["shape"][2:]
    resize = {"name": "Resize", "args": [size]}
    normalise = {"name": "Normalize", "args": [used["mean"], used["std"]]}
    config = {
        "dataset": DATASETS[source.dataset],
        "ipc": source.ipc,
        "im_size": size,
        "custom_train_trans": [{"name": "ToTensor"}, normalise, resize],
        **_DEFAULTS,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return CONFIG_FILE
