"""The report: everything a run has is on the page, nothing on it comes from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mgd3_fast.cli import main
from mgd3_fast.config import DistillConfig
from mgd3_fast.datasets.spreading import spread
from mgd3_fast.errors import UserError
from mgd3_fast.report import ReportConfig, write_report
from mgd3_fast.report.pictures import data_url, place_map
from mgd3_fast.run.distillation import distill

pytestmark = pytest.mark.usefixtures("cache")


class Page(HTMLParser):
    """Pictures, map points, addresses and text of a page; refuses tags that are not closed in order."""

    VOID = ("meta", "img", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.circles: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "img":
            self.images.append(named)
        if tag == "circle":
            self.circles.append(named["class"])
        assert not {"href", "action", "srcset"} & named.keys()
        if tag not in self.VOID or (tag == "circle" and named["class"] == "made-dot"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text.strip())

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture(scope="module")
def finished(tiny_generator: Path, pictures: Path, cache_of_session: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "run <1>"
    settings = {"dataset": str(pictures), "generator": str(tiny_generator), "cache_dir": cache_of_session}
    distill(DistillConfig(out=out, ipc=3, **settings))
    return out


@pytest.fixture
def config(finished: Path, pictures: Path, tiny_generator: Path, tmp_path: Path):
    def make(**changes) -> ReportConfig:
        settings = {"folder": finished, "dataset": str(pictures), "generator": str(tiny_generator)}
        return ReportConfig(**settings | {"out": tmp_path / "r.html"} | changes)

    return make


def decoded(source: str) -> Image.Image:
    kind, _, content = source.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_every_image_stands_beside_the_real_one_of_its_mode(finished, config, pictures):
    page = Page(write_report(config()).read_text())
    manifest = json.loads((finished / "manifest.json").read_text())
    real, made = page.images[::2], page.images[1::2]
    assert [image["title"] for image in made] == [record["file"] for record in manifest["images"]]
    assert [image["title"] for image in real] == [record["source_image"] for record in manifest["images"]]
    for image in made:
        shown, file = decoded(image["src"]), Image.open(finished / image["title"])
        assert np.array_equal(np.asarray(shown), np.asarray(file))
    assert all(decoded(image["src"]).size == (16, 16) for image in real)


def test_page_has_settings_maps_metrics_timings_and_no_address(finished, config):
    path = write_report(config())
    page = Page(path.read_text())
    assert "run <1>" in page.text
    for words in ("posterior", "kmeans", "guided steps", "tiny", "MIT", "coverage", "representativeness"):
        assert words in page.text, words
    assert page.circles.count("real-dot") == 21
    assert page.circles.count("made-dot") == 9
    assert all(stage in page.words for stage in ("encode", "discover", "sample", "decode", "write"))
    assert re.search(r"\d{4}-\d\d-\d\d", page.text)
    assert not re.search(r"https?://(?!www\.w3\.org)|//cdn|<script|<link|@import|url\(", path.read_text())
    again = write_report(config()).read_bytes()
    assert again == path.read_bytes()


def test_only_so_many_classes_and_images_are_shown(config):
    page = Page(write_report(config(classes_shown=2, images_shown=2, map="off")).read_text())
    assert len(page.images) == 2 * 2 * 2
    assert "2 of 3 classes, evenly spread" in page.text
    assert not page.circles
    assert "coverage" not in page.text


@pytest.mark.parametrize(("count", "most", "want"), [(3, 5, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (9, 1, [0])])
def test_spread(count, most, want):
    assert list(spread(count, most)) == want


def test_accuracies_of_evaluations(config, tmp_path):
    score = {"values": [50.0, 60.0], "mean": 55.0, "std": 5.0, "ci95": [-8.5, 118.5]}
    one = score | {"mean": 41.25, "ci95": None}
    row = {
        "network": "ConvNet-6",
        "folder": "mgd3 & co",
        "ipc": 3,
        "seeds": [0, 1],
        "best": score,
        "last": one,
    }
    (tmp_path / "scores").mkdir()
    result = {"format": "mgd3-fast evaluation", "complete": True, "rows": [row, row | {"best": one}]}
    (tmp_path / "scores" / "evaluation.json").write_text(json.dumps(result))
    (tmp_path / "stopped.json").write_text(json.dumps(result | {"complete": False}))
    evaluations = (tmp_path / "scores", tmp_path / "stopped.json")
    page = Page(write_report(config(evaluation=evaluations, map="off")).read_text())
    assert "scores, unfinished" not in page.text
    assert "stopped.json, unfinished" in page.text
    assert "mgd3 & co" in page.text
    assert "55.0 ± 5.0" in page.text
    assert "-8.5 to 118.5" in page.text
    row = dict(row)
    del row["folder"]
    for damaged in (
        "{}",
        "[1]",
        "nonsense",
        json.dumps(result | {"rows": 3}),
        json.dumps(result | {"rows": [row]}),
    ):
        (tmp_path / "scores" / "evaluation.json").write_text(damaged)
        with pytest.raises(
            UserError, match=r"evaluation must be an evaluation\.json of evaluate, a compare\.json of compare"
        ):
            write_report(config(evaluation=(tmp_path / "scores",)))


def test_a_run_of_a_comparison_shows_its_tables_and_verdict(finished, config, tmp_path):
    score = {"values": [24.0, 25.0], "mean": 24.5, "std": 0.5, "ci95": [18.1, 30.9]}
    row = {"folder": "mgd3-ipc3", "seeds": [0, 1], "accuracy": score, "made_s": 3.0, "training_s": 4.5}
    rows = [
        row | {"method": "mgd3", "balanced": score | {"mean": 31.25}, "difference": score | {"mean": 2.0}},
        row | {"method": "all-real", "balanced": None, "difference": None, "made_s": None},
    ]
    table = {
        "ipc": 3,
        "baseline": "herding",
        "verdict": "MGD3 does not beat <real>: ship those",
        "rows": rows,
    }
    dataset = {"images_by_class": {"ant": 1, "bee": 3}, "majority": {"class": "bee", "accuracy": 75.0}}
    result = {"format": "mgd3-fast comparison", "complete": False, "dataset": dataset, "tables": [table]}
    (tmp_path / "compare.json").write_text(json.dumps(result))
    run = Path(shutil.copytree(finished, tmp_path / "mgd3-ipc3"))
    page = Page(write_report(config(folder=run, map="off")).read_text())
    assert "MGD3 does not beat <real>: ship those" in page.text
    assert "3 images a class, unfinished; always answering bee scores 75.0%" in page.text
    assert "mgd3 2 24.5 (18.1 to 30.9) 31.2 +2.0 (+18.1 to +30.9) 3 4.5" in " ".join(page.text.split())
    assert "minus herding (95%)" in page.text
    named = Page(write_report(config(evaluation=(tmp_path,), map="off")).read_text())
    assert table["verdict"] in named.text
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    assert "does not beat" not in write_report(config(folder=other, map="off")).read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": "{tmp}"}, "out must be a file, got the folder {tmp}"),
        ({"out": "{tmp}/file/r.html"}, "out must be a folder that can be written, got {tmp}/file"),
        ({"evaluation": ("{tmp}/none",)}, "got {tmp}/none: No such file or directory"),
        ({"evaluation": ("{tmp}",)}, "got {tmp}: a folder that holds neither"),
    ],
    ids=["folder", "below a file", "no evaluation", "empty folder"],
)
def test_mistakes_are_found_before_anything_is_measured(config, tmp_path, monkeypatch, changes, message):
    (tmp_path / "file").write_text("")

    def placed(value):
        return tuple(map(placed, value)) if isinstance(value, tuple) else Path(value.format(tmp=tmp_path))

    monkeypatch.setattr("mgd3_fast.report.page.open_dataset", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(UserError, match=re.escape(message.format(tmp=tmp_path))):
        write_report(config(**{name: placed(value) for name, value in changes.items()}))


def test_without_its_dataset_a_run_is_still_shown(finished, tmp_path, capsys):
    target = tmp_path / "alone.html"
    assert main(["report", str(finished), "--out", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == target.stat().st_size
    page = Page(target.read_text())
    assert len(page.images) == 9
    assert "real images, maps and metrics are left out: dataset must be one of" in page.text


@pytest.mark.parametrize("split", ["train", "fit"])
def test_real_images_chosen_without_a_generator(config, pictures, cache_of_session, tmp_path, split):
    out = tmp_path / "chosen"
    distill(DistillConfig(dataset=str(pictures), out=out, ipc=2, method="random", split=split))
    page = Page(write_report(config(folder=out, generator=None, map="off")).read_text())
    assert len(page.images) == 12
    assert "chosen from" in page.text
    assert "the real image it is" in page.text
    assert "choose" in page.words


def test_without_its_generator_there_are_no_maps(config):
    page = Page(write_report(config(generator=None)).read_text())
    assert len(page.images) == 18
    assert not page.circles
    assert "maps and metrics are left out" in page.text


def test_mistakes_are_one_line(finished, config, pictures, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    (other / "ant" / "0.png").unlink()
    with pytest.raises(UserError, match=r"dataset must be the one that .* was made from"):
        write_report(config(dataset=str(other)))
    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    (damaged / "bee" / "1.png").unlink()
    with pytest.raises(UserError, match=r"bee/1\.png is missing"):
        write_report(config(folder=damaged, map="off"))
    assert main(["report", str(tmp_path)]) == 2
    assert "folder must hold a finished run of distill" in capsys.readouterr().err
    assert main(["report", str(finished), "--images-shown", "0"]) == 2
    assert "--images-shown must be" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "edited",
    [{"settings": {}}, {"guidance": 5}, {"sessions": [{}]}, {"sessions": [{"timings_s": 5}]}],
    ids=["settings", "guidance", "session", "timings"],
)
def test_an_edited_manifest_is_one_line(finished, config, tmp_path, edited):
    run = tmp_path / "edited"
    shutil.copytree(finished, run)
    path = run / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edited}))
    with pytest.raises(UserError, match=r"the manifest in .* is damaged") as caught:
        write_report(config(folder=run, map="off"))
    assert "\n" not in str(caught.value)


def test_large_pictures_become_small_ones():
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8))
    assert decoded(data_url(wide)).size == (112, 56)
    assert decoded(data_url(wide.resize((112, 20)))).format == "PNG"


def test_a_map_keeps_its_proportions():
    drawn = place_map(np.array([[0.0, 0.0], [2.0, 1.0]]), np.array([[1.0, 0.5]]))
    assert (drawn["width"], drawn["height"]) == (260, 142)
    assert drawn["real"] == [[12, 12], [248, 130]]
    assert drawn["synthetic"] == [[130, 71]]
    same = place_map(np.zeros((2, 2)), np.zeros((1, 2)))
    assert (same["width"], same["height"]) == (24, 24)
