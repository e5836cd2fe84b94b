"""What version 0.1.0 wrote is read, or refused in one sentence; nothing is touched.

Its code made the files in `files_of_0_1_0`, of pictures as small as they can be: two
sets and a recovery, a table of trainings, a recovery that was interrupted after the
first of two images, and what a distillation and the training of a prior go on from.
"""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from diver_lite import (
    DistilledSet,
    InputError,
    RecoveryConfig,
    cross_architecture,
    distill,
    load_distilled,
    load_prior,
)
from diver_lite.assets import asset_path, list_assets
from diver_lite.judge.compare import summarise
from diver_lite.make.distill import METHODS
from diver_lite.make.train_prior import train_prior
from diver_lite.run.to_file import recover_to

NAMES = ("Bag", "Ankle boot")
IMAGES = torch.linspace(-0.5, 1.5, 96).view(2, 3, 4, 4)
LABELS = torch.tensor([0, 1])
ANOTHER = (
    "another version of diver_lite wrote it; expected a checkpoint of this run; delete "
    "it to start anew"
)


@pytest.fixture
def old(tmp_path):
    """Copy the files to where a run may write."""
    there = Path(__file__).parent / "files_of_0_1_0"
    return Path(shutil.copytree(there, tmp_path / "old"))


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def refused(old, call):
    """Return in which words something is refused, and find all files as they were."""
    before = contents(old)
    with pytest.raises(InputError) as error:
        call()
    assert contents(old) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("read", [DistilledSet.load, load_distilled])
def test_sets_are_read(old, read):
    for name in ("set", "set_float16"):
        found = read(old / f"{name}.safetensors")
        assert torch.allclose(found.images, IMAGES, atol=1e-3)
        assert found.labels.tolist() == [0, 1]
        assert found.class_names == NAMES
        assert found.soft_labels.tolist() == [[2, -1], [0, 3]]
        assert found.provenance["soft_labels"] == "logits"
    assert torch.equal(read(old / "set.safetensors").images, IMAGES)


def test_a_recovery_is_read(old):
    found = load_distilled(old / "recovered.safetensors")
    assert found.images.shape == IMAGES.shape
    assert found.provenance["method"] == "DIVER"
    assert found.provenance["config"]["solver"] == "ddim"


def test_a_table_of_trainings_is_read_as_a_table(old):
    table = pd.read_csv(old / "trainings.csv", keep_default_na=False)
    assert list(summarise(table, "stage1").index) == ["stage1"]


def test_a_table_of_trainings_is_not_added_to(old):
    train = DistilledSet(torch.linspace(0, 1, 6144).view(2, 3, 32, 32), LABELS, NAMES)
    pixels = torch.linspace(0, 1, 12288).view(4, 3, 32, 32)
    test = (pixels, torch.tensor([0, 1, 0, 1]), NAMES)
    panel = {"judges": ["ConvNet"], "seeds": 2, "steps": 1, "n_jobs": 1}
    out = old / "trainings.csv"
    said = refused(
        old, lambda: cross_architecture({"stage1": train}, test, out=out, **panel)
    )
    assert f"{out} was made with another protocol or other code; choose another" in said


def test_an_interrupted_recovery_begins_anew(old):
    prior = load_prior("fashion-mnist", device="cpu")
    config = RecoveryConfig(num_inference_steps=2)
    images = DistilledSet(IMAGES, LABELS, NAMES)
    out = old / "run.safetensors"
    said = refused(old, lambda: recover_to(out, images, prior, config, batch_size=1))
    assert f"working folder {old / 'run.parts'} belongs to another run" in said
    assert "another version of the code" in said
    assert "delete the folder" in said


REAL = (
    torch.linspace(0, 1, 256).view(4, 1, 8, 8).expand(4, 3, 8, 8),
    torch.tensor([0, 1, 0, 1]),
    NAMES,
)


def test_a_distillation_begins_anew(old):
    options = {"ipc": 1, "steps": 2, "real_batch": 2}
    file = old / "distilled.checkpoint"
    said = refused(old, lambda: distill(REAL, "dm", checkpoint=file, **options))
    assert f"{file}: {ANOTHER}" in said


def test_experts_are_read(old, monkeypatch):
    """The stored one is of a few zeros, in place of 300,000 weights."""
    tasks = []

    def look(task, synthetic):
        tasks.append(task)
        yield synthetic.sum()

    monkeypatch.setitem(METHODS, "mtt", look)
    options = {"ipc": 1, "steps": 1, "num_experts": 1, "expert_epochs": 3}
    before = contents(old)
    distill(REAL, "mtt", experts=old / "experts", **options)
    assert contents(old) == before
    (trajectory,) = tasks[0].experts
    assert torch.equal(trajectory.cpu(), torch.zeros(4, 3))


def test_a_training_of_a_prior_begins_anew(old, monkeypatch):
    data = (torch.rand(4, 3, 32, 32), *REAL[1:])
    monkeypatch.setattr(
        "diver_lite.make.train_prior.load_dataset", lambda *a, **k: data
    )
    said = refused(old, lambda: train_prior("fashion-mnist", old / "prior"))
    assert f"{old / 'prior/vae.pt'}: {ANOTHER}" in said


def test_a_prior_is_read(old):
    """Its weights and other files are as they ship; what is ours told less."""
    for name in list_assets("priors/fashion-mnist/"):
        file = old / "prior" / name.split("/", 2)[2]
        file.parent.mkdir(exist_ok=True)
        if file.name != "diver_lite.json":
            shutil.copy(asset_path(name), file)
    prior = load_prior(old / "prior", device="cpu")
    assert prior.info["image_fit"] == "pad"
    assert RecoveryConfig.recommended(prior) == RecoveryConfig()
