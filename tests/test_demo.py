"""The demo: pictures first, then a table without verdicts, nothing half-written."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from diver_lite import demo
from diver_lite.sets.distilled import DistilledSet


@pytest.fixture
def quick(monkeypatch):
    """Let nothing be recovered or trained."""

    def recover(distilled, prior, config, progress):
        return distilled.with_images(distilled.images.clamp(0, 1), "DIVER")

    def judge(sets, test, *, judges, seeds, **rest):
        rows = [
            {"set": s, "judge": j, "unseen": j != "ConvNet", "seed": k, "draw": 0}
            for s in sets
            for j in judges
            for k in seeds
        ]
        return pd.DataFrame(rows).assign(accuracy=0.5)

    monkeypatch.setattr(demo, "recover", recover)
    monkeypatch.setattr(demo, "cross_architecture", judge)
    monkeypatch.setattr(demo, "vae_only", lambda distilled, prior: distilled)


def test_report(quick, tmp_path, capsys):
    out = tmp_path / "demo"
    demo.run_demo(out)
    said = capsys.readouterr().out
    page = (out / "report.html").read_text("utf-8")
    assert said.index("photographs") < said.index("garments")
    for text in (said, page):
        assert "ShuffleNetV2" in text
        assert "seeds" not in text, "no verdict, and none is missed"
    assert page.count("data:image/png") == 2
    assert Image.open(out / "color.png").width > 5 * 96
    assert len(DistilledSet.load(out / "recovered.safetensors")) == 10


def test_help_names_what_is_written(quick, cli):
    """No file more, none less: of the command, and of the function behind it."""
    _, text, _ = cli("demo", "--help")
    demo.run_demo("demo")
    written = sorted(path.name for path in Path("demo").glob("[!.]*"))
    for said in (text.split("Options:")[0], demo.run_demo.__doc__.split("ipc:")[0]):
        names = re.findall(r"\b\w+(?:/|\.(?:png|csv|html|safetensors))", said)
        assert sorted(name.rstrip("/") for name in names) == written


def test_the_photographs_are_of_the_classes_that_are_named(quick):
    pair = demo.recovered_photographs("cpu")
    assert [len(s) for s in pair] == [5, 5]
    names = [pair[0].class_names[label] for label in pair[0].labels]
    assert names == list(demo.COLOR_CLASSES)
    assert torch.equal(pair[1].images, pair[0].images.clamp(0, 1))
