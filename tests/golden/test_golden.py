"""Frozen behaviour: every command writes and says what it did when `tests/golden/records` was written.

Nothing but the command line and the public Python names is used, so that the inside may change. A change of
behaviour that is meant is recorded with `pytest tests/golden --record-golden`, and its difference in
tests/golden/records is read like code.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden.sources import WNIDS, write_generators, write_insects, write_sources
from tests.golden.store import HERE, Golden
from tests.golden.surface import MISTAKES, described, shape_of
from tests.golden.views import (
    Page,
    command,
    done,
    done_json,
    exported,
    files_in,
    images_of,
    manifest,
    picture,
    run_folder,
    said,
    steady,
    tensors,
)

for package in ("datasets", "mlxtend", "onnx", "onnxscript", "pyarrow", "transformers"):
    pytest.importorskip(package)

CPU = ["--device", "cpu"]
SHORT = ["--ipc", "2", "--steps", "4", "--t-stop", "1", *CPU]


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.config.getoption("--record-golden"))


@dataclass
class Place:
    """Where everything lies: sources by kind, generators by name, finished runs by what they are for."""

    root: Path
    sources: dict[str, list[str]]
    generators: dict[str, str]
    runs: dict[str, Path] = field(default_factory=dict)

    def insects(self, *options: str) -> list[str]:
        """Options that name the three classes and the generator made for them."""
        dataset, generator = self.root / "insects/train", self.generators["insects"]
        return ["--dataset", str(dataset), "--generator", generator, *options]

    def run(self, name: str, *options: str) -> Path:
        """Distil the three classes, once for each name."""
        if name not in self.runs:
            self.runs[name] = self.root / "runs" / name
            done("distill", *self.insects(*SHORT), "--out", self.runs[name], *options)
        return self.runs[name]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One thread, no hub, a cache of its own."""
    root, threads = tmp_path_factory.mktemp("golden"), torch.get_num_threads()
    torch.set_num_threads(1)
    write_insects(root / "insects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MGD3_CACHE", str(root / "cache"))
        patch.setenv("COLUMNS", "1000")
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield Place(root, write_sources(root / "sources"), write_generators(root / "generators"))
    torch.set_num_threads(threads)


def test_demo_run(place: Place, golden: Golden) -> None:
    """With whatever `auto` chooses on a CPU; then again, when all is there; then as Python."""
    from mgd3_fast import DistillConfig, distill

    out = place.root / "demo"
    words = ["--dataset", "mnist5k", "--classes", "3", *SHORT, "--out", str(out)]
    status, printed, notes = command("distill", *words)
    found: dict[str, Any] = {"status": status, **run_folder(out)}
    places = {str(place.root): "PLACE"}
    found |= {"printed": said(printed, places), "notes": said(notes, places)}
    found["again"] = done_json("distill", *words)
    config = DistillConfig(dataset="mnist5k", classes="3", ipc=2, steps=4, t_stop=1, device="cpu", out=out)
    distilled = distill(config)
    found["python"] = [[path.relative_to(out).as_posix(), label] for path, label in distilled]
    golden.check("demo", found)


@pytest.mark.parametrize("family", ["dit", "ldm", "stable"])
def test_families_over_sources(place: Place, golden: Golden, family: str) -> None:
    found = {}
    for kind, source in place.sources.items():
        out = place.root / family / kind
        words = [*source, "--generator", place.generators[family], "--classes", "0,7", *SHORT]
        done("distill", *words, "--out", out)
        found[kind] = run_folder(out)
    golden.check(f"sources-{family}", found)


def test_methods(place: Place, golden: Golden) -> None:
    found = {"mgd3": run_folder(place.run("mgd3"))}
    base = [*place.insects("--ipc", "2", *CPU)]
    for method in ("unguided", "d4m", "random", "herding", "kmeans-closest"):
        out = place.root / "methods" / method
        steps = ["--steps", "4"] if method in ("unguided", "d4m") else []
        done("distill", *base, "--method", method, *steps, "--out", out)
        found[method] = run_folder(out)
    golden.check("methods", found)


SAMPLING = {
    "ddim": ["--sampler", "ddim"],
    "ddim eta": ["--sampler", "ddim", "--eta", "0.5", "--spacing", "ddim"],
    "ddim posterior": ["--sampler", "ddim", "--guidance-form", "posterior"],
    "ddim x0": ["--sampler", "ddim", "--guidance-form", "x0"],
    "epsilon": ["--guidance-form", "epsilon"],
    "x0": ["--guidance-form", "x0"],
    "scales": ["--cfg-scale", "1.5", "--mode-scale", "0.5"],
    "seed": ["--seed", "7"],
    "batches of 3": ["--batch-size", "3"],
    "half": ["--precision", "bf16"],
    "mirrored": ["--flip", "both", "--storage", "fp16"],
    "closest modes": ["--discovery", "kmeans-closest"],
    "K-means of all classes": ["--kmeans", "triton"],
    "fit": ["--split", "fit"],
}


def test_sampling_and_encoding_options(place: Place, golden: Golden) -> None:
    found = {}
    for name, options in SAMPLING.items():
        out = place.run(name, *options)
        content = manifest(out / "manifest.json")
        found[name] = {
            # Processors with bfloat16 products round elsewhere.
            "images": HERE + json.dumps(images_of(out)) if name == "half" else images_of(out),
            "guidance": content["guidance"],
            "settings": {key: value for key, value in content["settings"].items() if "digest" not in key},
        }
    golden.check("sampling", found)


def test_shards_prompts_trace_and_numeric_folders(place: Place, golden: Golden) -> None:
    whole, shards, root = place.run("mgd3"), place.root / "shards", place.root / "others"
    places = {str(place.root): "PLACE"}
    printed = [
        said(command("distill", *place.insects(*SHORT), "--out", shards, "--shard", shard)[1], places)
        for shard in ("2/2", "1/2")
    ]
    found: dict[str, Any] = {"shards": manifest(shards / "manifest.json"), "printed": printed}
    for path in (*whole.glob("*/*.png"), whole / "modes.safetensors", whole / "contact_sheet.png"):
        assert path.read_bytes() == (shards / path.relative_to(whole)).read_bytes(), path
    assert files_in(shards) == files_in(whole)
    assert manifest(whole / "manifest.json")["text"] == found["shards"]["text"]
    found["numeric"] = run_folder(place.run("numeric", "--format", "numeric"))
    traced = place.run("traced", "--trace", "bee/1", "--trace-stops", "0,4")
    found["traced"] = {"files": files_in(traced), "trace": picture(traced / "trace.png")}
    (place.root / "prompts.txt").write_text("".join(f"{wnid}\ta cat\n" for wnid in WNIDS))
    prompting = ["--prompts", str(place.root / "prompts.txt"), "--negative-prompt", "cartoon"]
    words = [*place.sources["folder"], "--generator", place.generators["stable"], "--classes", "0,7", *SHORT]
    done("distill", *words, *prompting, "--out", root / "prompted")
    found["prompted"] = run_folder(root / "prompted")
    golden.check("shards-and-more", found)


METHODS = ("kmeans", "kmeans-closest", "kmeans-pooled", "gmm", "gmm-pca", "dbscan", "spectral", "random")


def test_encoding_and_discovery(place: Place, golden: Golden) -> None:
    source = place.insects(*CPU)
    fresh = ["--cache-dir", str(place.root / "other cache")]
    found: dict[str, Any] = {
        "encode": [done_json("encode", *source, *fresh, "--shard", shard) for shard in ("1/2", "2/2", "1/1")]
    }
    found["streams"] = {
        kind: done_json("encode", *place.sources[kind], "--generator", place.generators["dit"], *fresh, *CPU)
        for kind in ("tar", "wds", "wds stream", "hf")
    }
    for method in METHODS:
        out = place.root / "modes" / method
        report = done_json("discover", *source, "--ipc", "3", "--method", method, "--out", out)
        found[method] = report | {"files": files_in(out), "modes": tensors(out / "modes.safetensors")}
    golden.check("modes", found)


def test_exports(place: Place, golden: Golden) -> None:
    """Each format from a run, and from the format before it where that can be read."""
    run, root = place.run("mgd3"), place.root / "exports"
    found: dict[str, Any] = {}
    for format in ("imagefolder", "numeric", "tensor", "parquet", "webdataset"):
        report = done_json("convert", run, root / format, "--format", format)
        found[format] = report | exported(root / format)
    steps = {"small": ["--dtype", "uint8", "--size", "8", "--tensor-file", "safetensors"], "plain": []}
    for name, options in steps.items():
        done("convert", root / "numeric", root / name, "--format", "tensor", *options)
        found[f"numeric to {name}"] = exported(root / name)
    done("convert", root / "imagefolder", root / "chained", "--format", "parquet")
    found["imagefolder to parquet"] = exported(root / "chained")
    at_once = place.run("parquet", "--format", "parquet")
    found["distilled as parquet"] = {"files": files_in(at_once), "export": exported(at_once / "parquet")}
    golden.check("exports", found)


def test_evaluation(place: Place, golden: Golden) -> None:
    folders = [str(place.run("mgd3")), str(place.run("seed", *SAMPLING["seed"]))]
    words = [
        *folders,
        "--dataset",
        str(place.root / "insects"),
        "--epochs",
        "3",
        "--tests",
        "3",
        "--batch-size",
        "4",
    ]
    soft_teacher = place.root / "evaluation/hard/weights"
    kinds: dict[str, list[str]] = {
        "hard": ["--networks", "convnet2w8-bn", "--repeats", "2", "--keep-weights", "on"],
        "cross": ["--networks", "convnet2w8-in", "--repeats", "1", "--cross-recipe", "hard"],
        "soft": ["--networks", "convnet2w8-bn", "--repeats", "1", "--teacher-network", "convnet2w8-bn"],
    }
    found: dict[str, Any] = {}
    for protocol, options in kinds.items():
        out = place.root / "evaluation" / protocol
        if protocol == "soft":
            options += ["--teacher", str(sorted(soft_teacher.glob("*.safetensors"))[0])]
        report = done_json("evaluate", *words, "--protocol", protocol, *options, *CPU, "--out", out)
        trainings = [steady(json.loads(path.read_text())) for path in sorted(out.glob("trainings/*.json"))]
        found[protocol] = {"report": report, "outcomes": [one["outcome"] for one in trainings]}
        found[protocol]["weights"] = [tensors(path) for path in sorted(out.glob("weights/*.safetensors"))]
        assert steady(json.loads((out / "evaluation.json").read_text())) == report
    golden.check("evaluation", found)


def test_metrics_and_report(place: Place, golden: Golden) -> None:
    """Distances on t-SNE maps are compared on the recording machine alone: maps turn on the last bits."""
    run, root = place.run("mgd3"), place.root / "measured"
    words = ["metrics", run, place.run("seed", *SAMPLING["seed"]), *place.insects(*CPU)]
    found: dict[str, Any] = {
        "latents": done_json(*words, "--tsne", "off"),
        "maps": HERE + json.dumps(done_json(*words, "--nearest", "3")["folders"]),
        "pixels": done_json(*words, "--tsne", "off", "--features", "pixels", "--out", root),
    }
    found["files"] = files_in(root)
    written = steady(json.loads((root / "metrics.json").read_text()))
    assert written == {name: value for name, value in found["pixels"].items() if name != "files"}
    target = root / "report.html"
    done("report", run, *place.insects("--classes-shown", "2", "--images-shown", "2"), "--out", target)
    page = Page(target.read_text())
    real, made = page.pictures[::2], page.pictures[1::2]
    found["page"] = {
        "headings": page.headings,
        "elements": page.counts,
        "made": made,
        "real": HERE + str(real),
    }
    golden.check("metrics-and-report", found)


TINY_TRAINING = {
    "preset": "large",
    "resolution": 16,
    "vae-channels": "8,16",
    "vae-layers": 1,
    "vae-attention": "none",
    "vae-steps": 3,
    "vae-batch-size": 5,
    "vae-ema": 0.999,
    "hidden": 16,
    "depth": 1,
    "heads": 2,
    "steps": 5,
    "batch-size": 4,
    "lr": 1e-2,
    "ema": 0.5,
    "checkpoint-every": 3,
    "augment": "shift",
    "judge": "off",
}


def test_training(place: Place, golden: Golden) -> None:
    out = place.root / "trained"
    options = [part for name, value in TINY_TRAINING.items() for part in (f"--{name}", str(value))]
    report = done_json("train", "--dataset", place.root / "insects/train", "--out", out, *options, *CPU)
    found = {"report": report, "files": files_in(out)}
    found |= {path.name: tensors(path) for path in sorted(out.rglob("*.safetensors"))}
    for name in ("training.json", "generator.json"):
        found[name] = steady(json.loads((out / name).read_text()))
    golden.check("training", found)


def test_graph(place: Place, golden: Golden) -> None:
    """The ONNX graph of a tiny network in the cache, and a run that takes it from there."""
    import onnx

    export = ["export", "--generator", place.generators["insects"]]
    found: dict[str, Any] = {"report": done_json(*export)}
    graph = onnx.load(json.loads(done(*export, "--json"))["file"]).graph
    for kind, values in (("inputs", graph.input), ("outputs", graph.output)):
        found[kind] = [
            [one.name, one.type.tensor_type.elem_type, [str(d.dim_param or d.dim_value) for d in sizes(one)]]
            for one in values
        ]
    found["nodes"] = HERE + json.dumps(sorted(Counter(node.op_type for node in graph.node).items()))
    run = place.run("onnxruntime", "--backend", "onnxruntime")
    found["run"] = {"images": images_of(run), "settings": manifest(run / "manifest.json")["settings"]}
    golden.check("graph", found)


def sizes(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


def test_command_line(place: Place, golden: Golden) -> None:
    """Commands, and every option of each with its help and default."""
    status, printed, _ = command("--help")
    commands = [name for name in described(printed) if re.fullmatch("[a-z]+", name)]
    assert status == 0
    found: dict[str, Any] = {"": described(printed)}
    found |= {name: described(command(name, "--help")[1]) for name in commands}
    golden.check("command-line", found)


def test_mistakes(place: Place, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status and message of wrong input; nothing is written."""
    places = {"{run}": str(place.run("mgd3")), "{root}": str(place.root)}
    places |= {f"{{{name}}}": path for name, path in place.generators.items() if name != "insects"}
    folder = place.root / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    found: dict[str, Any] = {}
    for name, words in MISTAKES.items():
        filled = [part for word in words for part in (place.insects() if word == "{insects}" else [word])]
        for key, path in places.items():
            filled = [word.replace(key, path) for word in filled]
        status, printed, complaint = command(*filled)
        found[name] = [status, printed, *said(complaint, {str(place.root): "PLACE"})]
    assert files_in(folder) == []
    golden.check("mistakes", found)


def test_public_names(golden: Golden) -> None:
    found = {}
    for package in ("mgd3_fast", "mgd3_engine", "mgd3_kernels"):
        module = import_module(package)
        found[package] = {name: shape_of(getattr(module, name)) for name in sorted(module.__all__)}
    scheduler = import_module("mgd3_fast.integrations.diffusers").ModeGuidedScheduler
    found["mgd3_fast.integrations.diffusers"] = {"ModeGuidedScheduler": shape_of(scheduler)}
    golden.check("public-names", found)
