"""The command line: its options, its exit statuses, what it prints where."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mgd3_fast.cli import COMMANDS, main
from mgd3_fast.cli.options import GROUPS, add_options, config_from
from mgd3_fast.generators.autoencoder import KLAutoencoder
from mgd3_fast.run import sources
from mgd3_fast.run.generated import GeneratedImages

pytestmark = pytest.mark.usefixtures("cache")

REPORTING = ["--quiet", "--json"]
PLOTTING = ["--plot", "--projection", "--plot-classes"]
FRAMING = ["--background", "--fit"]
ENCODE = [
    "--dataset",
    "--data-dir",
    "--classes",
    "--split",
    "--generator",
    "--vae",
    "--on-bad-image",
    "--precision",
    "--device",
    "--cache-dir",
    "--flip",
    "--posterior",
    "--storage",
    *FRAMING,
]
OPTIONS = {
    "encode": [*ENCODE, "--shard", *REPORTING],
    "discover": [
        *ENCODE,
        "--ipc",
        "--out",
        "--discovery",
        "--method",
        "--kmeans",
        "--seed",
        "--discovery-seed",
        *PLOTTING,
        *REPORTING,
    ],
    "distill": [
        *ENCODE,
        "--ipc",
        "--out",
        "--discovery",
        "--kmeans",
        "--seed",
        "--discovery-seed",
        "--method",
        "--preset",
        "--generator-classes",
        "--generator-heads",
        "--start-strength",
        "--modes",
        "--sampler",
        "--steps",
        "--spacing",
        "--steps-offset",
        "--eta",
        "--cfg-scale",
        "--cfg-interval",
        "--mode-scale",
        "--t-stop",
        "--t-stop-of",
        "--guidance-form",
        "--prompts",
        "--prompt-template",
        "--synonyms",
        "--negative-prompt",
        "--image-size",
        "--backend",
        "--batch-size",
        "--workers",
        "--cache-steps",
        "--cache-order",
        "--cache-from",
        "--ray-address",
        "--shard",
        "--format",
        "--trace",
        "--trace-stops",
        *REPORTING,
    ],
    "train": [
        *FRAMING,
        "--preset",
        "--dataset",
        "--data-dir",
        "--classes",
        "--split",
        "--out",
        "--part",
        "--init",
        "--generator-classes",
        "--generator-heads",
        "--vae",
        "--resolution",
        "--augment",
        "--augment-copies",
        "--model",
        "--hidden",
        "--depth",
        "--heads",
        "--patch",
        "--variance",
        "--epochs",
        "--steps",
        "--batch-size",
        "--lr",
        "--weight-decay",
        "--schedule",
        "--warmup",
        "--ema",
        "--clip-grad",
        "--label-dropout",
        "--vae-channels",
        "--vae-layers",
        "--vae-attention",
        "--latent-channels",
        "--vae-loss",
        "--kl-weight",
        "--vae-steps",
        "--vae-batch-size",
        "--vae-lr",
        "--vae-ema",
        "--seed",
        "--device",
        "--precision",
        "--checkpoint-every",
        "--cache-dir",
        "--on-bad-image",
        "--sample-sheets",
        "--judge",
        "--stored-precision",
        "--name",
        "--licence",
        "--cfg-scale",
        "--mode-scale",
        "--t-stop",
        *REPORTING,
    ],
    "judge": [*ENCODE, "--samples", "--seed", "--out", *REPORTING],
    "metrics": [
        *ENCODE,
        "--features",
        "--input-range",
        "--resolution",
        "--ipc",
        "--real-images",
        "--nearest",
        "--neighbours",
        "--tsne",
        "--tsne-pca",
        "--seed",
        "--out",
        "--plot",
        *REPORTING,
    ],
    "report": [
        *FRAMING,
        "--dataset",
        "--data-dir",
        "--generator",
        "--evaluation",
        "--classes-shown",
        "--images-shown",
        "--map",
        "--cache-dir",
        "--out",
        *REPORTING,
    ],
    "export": [
        "--generator",
        "--generator-heads",
        "--format",
        "--precision",
        "--rows",
        "--compute-capability",
        "--out",
        "--cache-dir",
        *REPORTING,
    ],
    "evaluate": [
        *FRAMING,
        "--on-bad-image",
        "--dataset",
        "--data-dir",
        "--classes",
        "--protocol",
        "--preset",
        "--networks",
        "--all-real",
        "--repeats",
        "--seed",
        "--ipc",
        "--eval-split",
        "--out",
        "--size",
        "--stored-size",
        "--epochs",
        "--batch-size",
        "--lr",
        "--tests",
        "--augment",
        "--flip",
        "--crop-area",
        "--mix",
        "--mix-probability",
        "--large-rule",
        "--cross-recipe",
        "--teacher",
        "--teacher-network",
        "--temperature",
        "--patches",
        "--bn-updates",
        "--device",
        "--precision",
        "--compile",
        "--keep-weights",
        *REPORTING,
    ],
    "compare": [
        "--ipc",
        "--budget",
        "--out",
        "--data-dir",
        "--classes",
        "--generator",
        "--methods",
        "--repeats",
        "--seed",
        "--eval-split",
        "--preset",
        "--networks",
        "--size",
        "--epochs",
        "--background",
        "--fit",
        "--on-bad-image",
        "--device",
        "--cache-dir",
        *REPORTING,
    ],
    "publish": [
        "--out",
        "--dry-run",
        "--private",
        "--source-licence",
        "--results",
        "--shard-mib",
        *REPORTING,
    ],
    "convert": [
        *FRAMING,
        "--format",
        "--dataset",
        "--size",
        "--dtype",
        "--normalisation",
        "--tensor-file",
        "--shard-mib",
        *REPORTING,
    ],
    "check": [
        "--data-dir",
        "--classes",
        "--ipc",
        "--size",
        "--background",
        "--fit",
        "--out",
        "--cache-dir",
        *REPORTING,
    ],
    "doctor": ["--online", "--accuracy", "--generator", *REPORTING],
}


@pytest.fixture
def words(tiny_generator: Path, pictures: Path) -> Callable[..., list[str]]:
    """Arguments of a small run; options named in `changes` are added or replaced."""

    def build(command: str, **changes: Any) -> list[str]:
        options: dict[str, Any] = {"dataset": pictures, "generator": tiny_generator}
        if command != "encode":
            options["ipc"] = 2
        options.update(changes)
        return [command, *(part for name, value in options.items() for part in (f"--{name}", str(value)))]

    return build


@pytest.mark.parametrize("command", sorted(OPTIONS))
def test_options_are_frozen(command: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser, import_module(f"mgd3_fast.cli.{command}"))
    declared = [option for action in parser._actions for option in action.option_strings]
    assert sorted(declared) == sorted([*OPTIONS[command], "-h", "--help"])


@pytest.mark.parametrize("words", [["mine"], ["--generator", "mine"]], ids=["place", "option"])
def test_judge_takes_its_generator_by_place_or_option(words: list[str], monkeypatch: Any) -> None:
    judged = []

    def run(config: Any, progress: Any) -> tuple[dict[str, Any], str]:
        judged.append(config.generator)
        return {}, ""

    monkeypatch.setattr("mgd3_fast.cli.judge.run", run)
    assert main(["judge", *words, "--dataset", "mnist5k"]) == 0
    assert judged == ["mine"]


def test_judge_takes_one_generator(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "mine", "--generator", "yours", "--dataset", "mnist5k"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_commands_are_frozen() -> None:
    assert " ".join(COMMANDS) == (
        "distill check encode discover evaluate compare train judge tune export metrics convert publish"
        " report doctor"
    )


def test_help_shows_each_default_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for default in ("(default: 1/1)", "(default: imagefolder)", "(default: kmeans)", "half of the steps"):
        assert default in shown
    assert shown.startswith("usage: mgd3-fast distill --dataset NAME|PATH|hf:...|wds:... --ipc N --out PATH")
    headings = ["required:", "data:", "generator:", "modes:", "sampling:", "machine:", "output:", "examples:"]
    assert all(heading in shown for heading in headings)
    assert " options: " not in shown, "an option has no heading"


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_right(command: str) -> None:
    module = import_module(f"mgd3_fast.cli.{command}")
    for typed in module.EXAMPLES:
        program, name, *words = shlex.split(typed)
        assert (program, name) == ("mgd3-fast", command)
        parser = argparse.ArgumentParser(add_help=False)
        add_options(parser, module)
        config_from(parser.parse_args(words), module.CONFIG)


def test_headings_name_options_once_and_only_such_as_there_are() -> None:
    modules = [import_module(f"mgd3_fast.cli.{command}") for command in COMMANDS]
    declared = {one.name for module in modules for one in fields(module.CONFIG)}
    for groups in (GROUPS, *(getattr(module, "GROUPS", {}) for module in modules)):
        named = " ".join(groups.values()).split()
        assert len(named) == len(set(named))
        assert set(named) <= declared


def test_without_words_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: mgd3-fast")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("distil", "unknown command 'distil', did you mean distill?"),
        ("--dataset x", "unknown command '--dataset' (see"),
        ("distill --t-stopp=4", "unknown option --t-stopp, did you mean --t-stop?"),
        ("distill --dataset mnist5k -ipc 1 --out x", "unknown option -ipc, did you mean --ipc?"),
        ("distill --wandb-project x", "unknown option --wandb-project (see mgd3-fast distill --help)"),
        ("discover --dataset mnist5k --ipc 2 --out x --method kmean", "--discovery must be one of kmeans"),
        ("distill --dataset mnist5k --ipc 1 --out x --trace-stops 4", "--trace-stops must come with trace"),
        ("distill --dataset cache_dir --ipc 1 --out x", "got 'cache_dir'"),
        ("distill --dataset mnist5k --ipc 1 --out x y", "arguments: y (see mgd3-fast distill --help)"),
        ("encode --dataset wds:0.tar wds:1.tar", "arguments: wds:1.tar; a wds: pattern goes in quotes (see"),
        ("train --dataset mnist5k --out x --init dit-xl", "--init must be auto, demo-mnist5k"),
        ("convert run copy --format webdataset --out x", "unknown option --out (see"),
    ],
)
def test_mistyped_words(words: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert complaint in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"mgd3-fast \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_distill_prints_the_plan_first_and_the_result_last(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("distill", out=tmp_path / "out")) == 0
    printed = capsys.readouterr()
    assert "3 classes, 21 images" in printed.err
    assert "licence MIT" in printed.err
    assert "mode guidance posterior, scale 0.1, on 1 of 4 steps (t_stop 2)" in printed.err
    assert "6 images, 2 for each of 3 classes, in batches of 8, backend eager" in printed.err
    assert "sample: 6/6 img" in printed.err
    assert printed.out.startswith(f"6 images of 3 classes in {tmp_path / 'out'} (6 made now)\n")
    assert str(tmp_path / "out" / "contact_sheet.png") in printed.out
    assert re.search(r"sample \d+\.\d s, decode \d+\.\d s, write \d+\.\d s\), \d+\.\d images/s", printed.out)


def test_distill_again_says_that_nothing_was_left(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words("distill", out=tmp_path / "out"))
    capsys.readouterr()
    assert main(words("distill", out=tmp_path / "out")) == 0
    assert "(nothing was left to do)" in capsys.readouterr().out


def test_distill_of_a_shard_tells_what_is_missing(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("distill", out=tmp_path / "out", shard="1/2")) == 0
    assert "3 images made" in (shown := capsys.readouterr().out)
    assert "3 of other shards are still missing" in shown


def test_quiet_prints_nothing(
    words: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words("distill", out=tmp_path / "out"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_json_is_one_object_on_standard_output(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words("distill", out=tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["images"], result["classes"], result["made"], result["missing"]) == (6, 3, 6, 0)
    assert Path(result["contact_sheet"]).is_file()
    assert main([*words("encode"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"ant": 7, "bee": 7, "cow": 7}
    assert main([*words("discover", out=tmp_path / "modes"), "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["file"]).is_file()


def test_encode_and_discover_say_what_they_did(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert main(words("encode", **{"cache-dir": cache})) == 0
    assert "21 images encoded, 0 were there" in capsys.readouterr().out
    assert main(words("encode", **{"cache-dir": cache})) == 0
    assert "0 images encoded, 21 were there" in capsys.readouterr().out
    assert main(words("discover", out=tmp_path / "out", method="kmeans")) == 0
    assert "2 modes for each of 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_interruption_exits_130_and_says_what_is_kept(
    words: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    signal_number: signal.Signals,
) -> None:
    original, calls = KLAutoencoder.decode_batches, []

    def decode_batches(self: KLAutoencoder, latents: Any) -> Any:
        calls.append(len(latents))
        if len(calls) == 2:
            os.kill(os.getpid(), signal_number)
            time.sleep(5)
        return original(self, latents)

    monkeypatch.setattr(KLAutoencoder, "decode_batches", decode_batches)
    arguments = [*words("distill", out=tmp_path / "out", ipc=4), "--batch-size", "8", "--quiet"]
    assert main(arguments) == 130
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("mgd3-fast: interrupted: 8 of 12 images are kept in")
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 8
    monkeypatch.undo()
    assert main(arguments) == 0
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 12


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(KeyError("weights"), id="KeyError"),
        pytest.param(TypeError("unsupported operand"), id="TypeError"),
        pytest.param(AssertionError(), id="AssertionError"),
    ],
)
def test_a_bug_keeps_its_traceback(
    words: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(GeneratedImages, "making", fail)
    assert main(words("distill", out=tmp_path / "out")) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_value_error_of_a_library_is_a_bug(
    words: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "encode_dataset", lambda *given, **options: json.loads("{"))
    assert main(words("encode")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MGD3_DEBUG", "1")
    assert main(["distill", "--dataset", "mnist5k", "--ipc", "0", "--out", str(tmp_path)]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "ipc must be" in printed.splitlines()[-1]


@pytest.mark.parametrize("library", ["tqdm", "torch"], ids=["command line", "command"])
def test_interruption_of_imports_is_one_line(library: str, tmp_path: Path) -> None:
    """Where it ends a text run by exec(), as those by which dataclasses are made, Python remembers it."""
    (tmp_path / f"{library}.py").write_text("exec('raise KeyboardInterrupt')")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "mgd3_fast", "doctor", "--quiet"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "mgd3-fast: interrupted\n")


def test_module_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mgd3_fast", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("mgd3-fast ")
