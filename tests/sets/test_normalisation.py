"""Pixels that were normalised, whitened, both, or neither: read right, or said."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from published_files import (
    CIFAR10,
    class_major,
    close,
    kornia_whitening,
    normalise,
    save_dc,
    save_run,
    write_mnist,
)

from diver_lite.checks import InputError
from diver_lite.sets.distilled import DistilledSet
from diver_lite.sets.load import load_distilled
from diver_lite.sets.normalisation import (
    better_neighbour,
    looks_whitened,
    measure,
    same_detail,
    slow_shares,
)
from diver_lite.sets.real import load_dataset

FASHION = ([0.2861], [0.3530])
FILES = Path(__file__).parents[3] / "shared/data/released"
SHIPPED = [
    f"{dataset}-{method}-ipc{ipc}"
    for dataset in ("cifar10", "fashion-mnist")
    for method in ("dm-real", "dsa", "mtt")
    for ipc in (1, 10)
] + ["fashion-mnist-dm-ipc1", "fashion-mnist-dm-ipc10"]  # values -1.8 .. 5.5


@pytest.fixture(scope="module")
def garments():
    """Return 500 real images (N, 1, 32, 32), and 20 more, class-major."""
    images, labels, _ = load_dataset("fashion-mnist", "test")
    chosen = torch.cat([(labels == c).nonzero()[:2, 0] for c in range(10)])
    return images[-500:, :1].contiguous(), images[chosen, :1]


@pytest.fixture(scope="module")
def whitened(garments):
    """Return the 20 images, whitened as MTT would have."""
    return kornia_whitening(*garments)


def shipped(name):
    """Return a shipped set, its mean and std, and how its file would be called."""
    found = load_distilled(name)
    if "cifar10" in name:
        return found, CIFAR10, "res_DC_CIFAR10_ConvNet_1ipc.pt"
    found.images = found.images[:, :1].contiguous()
    return found, FASHION, "res_DC_FashionMNIST_ConvNet_1ipc.pt"


def test_a_neighbour_must_be_clearly_better():
    """Grey or glaring, and an offset that falls below .8 of what it is."""

    def better(contrast, offset, neighbour, count=10):
        here = {"contrast": contrast, "offset": offset}
        before, after = ({"offset": n} for n in neighbour)
        return better_neighbour(count, before, here, after)

    assert better(0.79, 0.5, (0.39, 9)) == "before"
    assert better(0.79, 0.5, (0.41, 0)) is None
    assert better(2.01, 0.5, (9, 0.39)) == "after"
    assert better(2.01, 0.5, (0, 0.41)) is None
    assert better(0.81, 0.5, (0, 0)) is None  # neither grey nor glaring
    assert better(1.99, 0.5, (0, 0)) is None
    assert better(0.79, 0.15, (0, 0)) is None  # fits as it is
    assert better(0.79, 0.5, (0, 0), count=9) is None  # too few to tell


# --- Mean and std ------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", SHIPPED)
def test_normalised_saved_and_loaded_gives_the_images_back(tmp_path, name):
    """Without a warning, however wild the set is; and so through our own file."""
    stored, statistics, file = shipped(name)
    path = save_dc(
        tmp_path / file, [[normalise(stored.images, statistics), stored.labels]]
    )
    loaded = load_distilled(path)
    close(loaded, stored.images.expand(-1, 3, -1, -1))
    record = loaded.provenance
    assert record["assumed"] == "mean and std" and "doubts" not in record
    assert record["fit"] == measure(loaded.images, statistics)
    again = DistilledSet.load(loaded.save(tmp_path / "own.safetensors"))
    assert again.provenance == record and torch.equal(again.images, loaded.images)


@pytest.mark.parametrize("name", [n for n in SHIPPED if "fashion-mnist-dm" not in n])
@pytest.mark.parametrize("times", [0, 2])
def test_normalised_not_at_all_or_twice(tmp_path, name, times):
    """Fashion-MNIST's DM sets are too wild for it: any mean fits them."""
    stored, statistics, file = shipped(name)
    images = stored.images
    for _ in range(times):
        images = normalise(images, statistics)
    path = save_dc(tmp_path / file, [[images, stored.labels]])
    expected = "normalised still" if times else "never been applied"
    with pytest.warns(UserWarning, match=f"{file}: .*{expected}"):
        loaded = load_distilled(path)
    (doubt,) = loaded.provenance["doubts"]
    assert expected in doubt
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if times == 0:  # the warning says how
            told = load_distilled(path, normalisation="none")
            close(told, stored.images.expand(-1, 3, -1, -1))
            assert told.provenance["undone"].keys() <= {"grey"}


def test_pixels_in_the_unit_range_are_not_denormalised(tmp_path, garments):
    """0.1.0 returned dark grey without a word."""
    _, images = garments
    overshoot = images * 1.06 - 0.03
    path = save_dc(
        tmp_path / "res_DM_FashionMNIST_ConvNet_2ipc.pt", [[overshoot, class_major()]]
    )
    with pytest.warns(UserWarning, match=r"lie in \[0, 1\].*read as stored"):
        loaded = load_distilled(path)
    close(loaded, overshoot.expand(-1, 3, -1, -1))
    record = loaded.provenance
    assert record["undone"] == {"grey": "one channel repeated to three"}
    assert record["assumed"] == "stored in [0, 1]" and len(record["doubts"]) == 1
    assert record["fit"]["contrast"] == pytest.approx(1, abs=0.2)
    with warnings.catch_warnings(action="error"):  # whoever says so is obeyed
        grey = load_distilled(path, normalisation=FASHION)
    close(grey, (overshoot * 0.353 + 0.2861).expand(-1, 3, -1, -1))
    assert grey.provenance["fit"]["contrast"] < 0.5


@pytest.mark.parametrize("format", ["mtt", "datm", "dd-ranking", "glad"])
def test_the_unit_range_answers_whether_pixels_are_whitened(tmp_path, format):
    images = load_distilled("cifar10-mtt-ipc10").images.clamp(0, 1)
    labels = class_major(10, 10)
    labels = 3 * torch.eye(10)[labels] if format == "datm" else labels
    name = None if format == "dd-ranking" else "best"
    path = save_run(tmp_path, images, labels, name)
    with pytest.warns(UserWarning, match="read as stored"):
        loaded = load_distilled(path, format=format, dataset="cifar10")
    close(loaded, images)
    assert loaded.provenance["undone"] == {}


def test_decoder_output_in_the_unit_range(tmp_path):
    images = load_distilled("cifar10-mtt-ipc1").images.clamp(0, 1)
    torch.save(
        {"data": [[images, class_major(10, 1)]], "res": 32},
        tmp_path / "imagenet_distill_32_32.pt",
    )
    with pytest.warns(UserWarning, match=r"instead of \[-1, 1\]"):
        close(load_distilled(tmp_path / "imagenet_distill_32_32.pt"), images)


def test_bytes_are_neither(tmp_path):
    images = load_distilled("cifar10-mtt-ipc1").images.clamp(0, 1) * 255
    path = save_dc(
        tmp_path / "res_DC_CIFAR10_ConvNet_1ipc.pt", [[images, class_major(10, 1)]]
    )
    with pytest.raises(InputError, match=r"0\.00\.\.255\.00.*divided by 255"):
        load_distilled(path)
    told = load_distilled(path, normalisation=([0, 0, 0], [1 / 255] * 3))
    close(told, images / 255)


def test_normalised_pixels_are_not_what_is_stored(tmp_path):
    stored = load_distilled("cifar10-mtt-ipc10")
    images = normalise(stored.images, CIFAR10)
    path = save_dc(
        tmp_path / "res_DC_CIFAR10_ConvNet_10ipc.pt", [[images, stored.labels]]
    )
    loaded = load_distilled(path, normalisation="none")  # obeyed, and measured
    close(loaded, images)
    assert loaded.provenance["fit"]["contrast"] > 2


@pytest.mark.parametrize(
    "normalisation",
    [
        "None", ([0.1], ["x"]), ([0.1], [0.0]), ([0.1], [-1.0]), ([np.nan], [1.0]),
        ([0.1], [np.inf]), (0.1, 0.2), 3, ([0.1], [0.1], [0.1]),
    ],
)  # fmt: skip
def test_bad_statistics(tmp_path, normalisation):
    path = save_dc(tmp_path / "set.pt", [[torch.randn(10, 1, 8, 8), torch.arange(10)]])
    with pytest.raises(InputError, match=r"normalisation: found.*\(mean, std\)"):
        load_distilled(path, normalisation=normalisation)


# --- Whitening ---------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_whitened_images_are_read_with_their_reference(tmp_path, garments, whitened):
    reference, images = garments
    path = save_run(tmp_path, whitened, class_major(), "500")
    loaded = load_distilled(path, dataset="fashion-mnist", zca_reference=reference)
    assert (loaded.images - images).abs().max() < 1e-4
    record = loaded.provenance
    assert record["assumed"] == "ZCA whitening" and 0.8 < record["fit"]["growth"] < 1.2


def test_whitened_images_taken_for_normalised(tmp_path, whitened):
    """Asked about, unless somebody has said what they are."""
    path = save_run(tmp_path, whitened, class_major(), "500")
    words = (
        r"the pixels look whitened; .*zca_reference= \(--read zca_reference=fashion-"
    )
    with pytest.raises(InputError, match=words):
        load_distilled(path, dataset="fashion-mnist")
    with warnings.catch_warnings(action="error"):
        loaded = load_distilled(path, dataset="fashion-mnist", normalisation=FASHION)
    assert loaded.provenance["fit"]["waves"] < 0.1
    assert "doubts" not in loaded.provenance


def test_normalised_images_taken_for_whitened(tmp_path, garments):
    """The inverse explodes, so it is refused, with the reading that fits."""
    reference, images = garments
    path = save_run(tmp_path, normalise(images, FASHION), class_major(), "500")
    with pytest.raises(InputError, match=r"2\.\d times as large, and 9\d%.*zca=False"):
        load_distilled(path, zca_reference=reference)
    path = save_run(tmp_path, images, class_major(), "600")
    with pytest.raises(InputError, match=r"stored all lie in it.*normalisation='none'"):
        load_distilled(path, zca_reference=reference)


def test_where_the_inverse_does_not_explode_it_is_kept(tmp_path, garments):
    """Pale pixels grow too much as well, but the result may be what is wanted."""
    reference, images = garments
    pale = 0.2 * normalise(images, FASHION)
    path = save_run(tmp_path, pale, class_major(), "500")
    with pytest.warns(UserWarning, match="if the colours are wrong.*zca=False"):
        loaded = load_distilled(path, dataset="fashion-mnist", zca_reference=reference)
    assert len(loaded.provenance["doubts"]) == 1


def test_who_must_choose_is_told_what_it_looks_like(tmp_path, whitened):
    stored = load_distilled("cifar10-mtt-ipc10")
    path = save_run(tmp_path, normalise(stored.images, CIFAR10), stored.labels)
    with pytest.warns(UserWarning, match="these don't look so and are read as"):
        loaded = load_distilled(path, format="mtt", dataset="cifar10")
    assert (loaded.images - stored.images).abs().max() < 1e-5
    assert loaded.provenance["zca_assumed"] is False
    path = save_run(tmp_path, whitened.expand(-1, 3, -1, -1).clone(), class_major())
    with pytest.raises(InputError, match="these look whitened; pass the real"):
        load_distilled(path, format="mtt", dataset="cifar10")
    few = save_run(
        tmp_path, whitened[:9].expand(-1, 3, -1, -1).clone(), torch.arange(9)
    )
    with pytest.raises(InputError, match="pass zca=True or zca=False"):
        load_distilled(few, format="mtt", dataset="cifar10")


def test_the_writers_inverse_must_be_of_the_same_run(tmp_path, garments, whitened):
    reference, images = garments
    path = save_run(tmp_path, whitened, class_major(), "500")
    copy = tmp_path / "images_zca_500.pt"
    arguments = {"dataset": "fashion-mnist"}
    torch.save(images, copy)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_distilled(path, zca=True, **arguments)
        assert torch.equal(load_distilled(copy, **arguments).images, loaded.images)
    close(loaded, images.expand(-1, 3, -1, -1))
    assert loaded.provenance["zca_detail"] > 0.95
    for other in (reference[:20], images.flip(0), images[:10], images[..., :16, :16]):
        torch.save(other, copy)
        with pytest.raises(InputError, match=r"images_zca_500\.pt is of another run"):
            load_distilled(path, zca=True, **arguments)
    torch.save(reference[:20], copy)
    with pytest.warns(UserWarning, match=r"images_500\.pt is of another run.*labels"):
        load_distilled(copy, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"zca": True, "normalisation": "none"}, "pass one of them"),
        ({"zca_reference": 0, "normalisation": "none"}, "pass one of them"),
        ({"zca": "yes"}, "zca is 'yes'; expected True or False"),
        ({"zca_reference": np.zeros((9, 1, 32, 32))}, "ndarray; expected a float"),
        (
            {"zca_reference": torch.full((9, 1, 32, 32), 9.0)},
            r"values in \[0, 1\]",
        ),
    ],
)
def test_bad_arguments_of_whitening(tmp_path, whitened, arguments, message):
    path = save_run(tmp_path, whitened, class_major(), "500")
    with pytest.raises(InputError, match=message):
        load_distilled(path, dataset="imagefruit", **arguments)


def loud(images):
    """Return pictures as a diverged run leaves them: whitened they don't look so."""
    mean = torch.tensor(CIFAR10[0]).view(3, 1, 1)
    return 12 * (images - images.mean((0, 2, 3), keepdim=True)) + mean


@pytest.fixture(scope="module")
def photographs():
    """Return 100 pictures to fit whitening to, and a set, class-major."""
    reference = load_distilled("cifar10-dm-real-ipc10").images.clamp(0, 1)
    return reference, load_distilled("cifar10-mtt-ipc10").images


@pytest.mark.filterwarnings("error")
def test_the_writers_copy_decides(tmp_path, photographs):
    """It is the proof that pixels were whitened, whatever they look like."""
    reference, images = photographs
    white = kornia_whitening(reference, loud(images))
    assert not looks_whitened(white)
    path = save_run(tmp_path, white, class_major(10, 10), "1000")
    torch.save(loud(images), tmp_path / "images_zca_1000.pt")
    loaded = load_distilled(path, dataset="cifar10")
    close(loaded, loud(images))
    assert loaded.provenance["assumed"] == "ZCA whitening, undone by the writer"
    as_told = load_distilled(path, dataset="cifar10", zca=False)
    assert "normalisation" in as_told.provenance["undone"]


@pytest.mark.parametrize("kind", ["another run", "another scale"])
def test_a_copy_that_proves_nothing(tmp_path, photographs, kind):
    reference, images = photographs
    stored = normalise(images, CIFAR10)
    path = save_run(tmp_path, stored, class_major(10, 10), "1000")
    copy = reference if kind == "another run" else images
    torch.save(copy, tmp_path / "images_zca_1000.pt")
    with pytest.warns(UserWarning, match="these don't look so and are read as"):
        loaded = load_distilled(path, dataset="cifar10")
    assert (loaded.images - images).abs().max() < 1e-5


@pytest.mark.filterwarnings("error")
def test_a_copy_that_was_normalised_before(tmp_path, photographs):
    """It is of the same run, and still normalised."""
    reference, images = (normalise(each, CIFAR10) for each in photographs)
    path = save_run(
        tmp_path, kornia_whitening(reference, images), class_major(10, 10), "500"
    )
    torch.save(images, tmp_path / "images_zca_500.pt")
    how = {"dataset": "cifar10", "zca": True, "normalisation": CIFAR10}
    loaded = load_distilled(path, **how)
    assert (loaded.images - photographs[1]).abs().max() < 1e-5
    assert {"zca", "normalisation"} <= {*loaded.provenance["undone"]}
    copy = load_distilled(tmp_path / "images_zca_500.pt", **how)
    assert torch.equal(copy.images, loaded.images)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("told", [FASHION, "fashion-mnist"])
def test_normalised_and_then_whitened(tmp_path, garments, told):
    """The order of two forks; one channel, 28 pixels, and ours has three and 32."""
    reference, images = (each[..., 2:30, 2:30] for each in garments)
    white = kornia_whitening(normalise(reference, FASHION), normalise(images, FASHION))
    path = save_run(tmp_path, white, class_major(), "500")
    loaded = load_distilled(
        path,
        dataset="fashion-mnist",
        zca_reference=garments[0].expand(-1, 3, -1, -1),
        normalisation=told,
    )
    assert (loaded.images - images).abs().max() < 1e-3
    assert loaded.provenance["assumed"] == "ZCA whitening of normalised pixels"


def test_the_wrong_order_is_doubted(tmp_path, garments):
    reference, images = garments
    white = kornia_whitening(normalise(reference, FASHION), normalise(images, FASHION))
    path = save_run(tmp_path, white, class_major(), "500")
    how = {"dataset": "fashion-mnist", "zca_reference": reference}
    words = "normalised before; if they look coarse.*normalisation=fashion-mnist"
    with pytest.warns(UserWarning, match=words):
        load_distilled(path, **how)
    with warnings.catch_warnings(action="error"):  # whoever says so is obeyed
        load_distilled(path, zca=True, **how)


def test_whitened_digits_from_the_command_line(tmp_path, garments, cli):
    """DATM's sets of MNIST; garments stand for digits here."""
    reference, images = (each[..., 2:30, 2:30] for each in garments)
    labels = 3 * torch.eye(10)[class_major()]
    white = kornia_whitening(reference, images)
    path = save_run(tmp_path / "MNIST", white, labels, lr=0.01)
    with pytest.raises(
        InputError, match=r"look whitened; .*--read zca_reference=mnist"
    ):
        load_distilled(path)
    data = tmp_path / "data"
    write_mnist(data / "MNIST/raw", reference, torch.arange(500) % 10)
    out = tmp_path / "mine.safetensors"
    command = ("convert", path, out, "--to", "diver-lite")
    code, _, err = cli(*command, "--read", "zca_reference=mnist", "--data-root", data)
    assert code == 0, err
    loaded = DistilledSet.load(out)
    assert (loaded.images - images).abs().max() < 0.02  # the reference has 8 bits
    assert loaded.provenance["lr"] == pytest.approx(0.01)


# --- Several entries in one file ---------------------------------------------------


def entries(count, step):
    """Return sets that drift away from one start, or (None) new ones."""
    generator = torch.Generator().manual_seed(0)
    images = load_distilled("cifar10-dm-real-ipc1").images
    found = []
    for _ in range(count):
        noise = torch.randn(images.shape, generator=generator)
        images = 0.5 + 0.5 * noise if step is None else images + step * noise
        found.append(images)
    return found


@pytest.mark.parametrize("scores", [{}, {"ConvNet": [0.3]}])
def test_the_last_of_several_snapshots(tmp_path, scores):
    """A file's accuracies belong to it, if it has any; 0.1.0 took the earliest."""
    sets = entries(5, 0.05)
    stored = [[normalise(images, CIFAR10), class_major(10, 1)] for images in sets]
    path = tmp_path / "res_DM_CIFAR10_ConvNet_1ipc_5000.pt"
    torch.save({"data": stored, "accs_all_exps": scores}, path)
    belong = ", to which the stored accuracies belong" if scores else ""
    words = rf"5 snapshots.*the last, 4, was taken{belong}; experiment= \(--read exp"
    with pytest.warns(UserWarning, match=words):
        loaded = load_distilled(path)
    close(loaded, sets[4])
    record = loaded.provenance
    assert (record["experiment"], record["experiments"]) == (4, 5)
    assert record["entries_are"] == "snapshots" and len(record["doubts"]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(load_distilled(path, experiment=0), sets[0])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["new noise", "methods", "sizes"])
def test_the_first_of_several_repetitions(tmp_path, kind):
    sets = entries(3, None)
    if kind == "methods":  # of the same classes: like colours and shapes
        sets = [load_distilled(f"cifar10-{m}-ipc1").images for m in ("dsa", "mtt")]
    if kind == "sizes":
        sets[1] = sets[1][:, :, :16, :16]
    stored = [[normalise(images, CIFAR10), class_major(10, 1)] for images in sets]
    loaded = load_distilled(
        save_dc(tmp_path / "res_DM_CIFAR10_ConvNet_1ipc.pt", stored)
    )
    close(loaded, sets[0])
    assert loaded.provenance["entries_are"] == "repetitions"
    assert loaded.provenance["experiment"] == 0


@pytest.mark.parametrize(
    ("file", "kind"), [("a_500.pt", "snapshots"), ("a_5ipc.pt", "repetitions")]
)
def test_the_name_counts_where_entries_are_a_little_alike(tmp_path, file, kind):
    """Detail in common .3: far apart in one run, or from the same initial images."""
    first, other = entries(2, None)
    sets = [first, 0.3 * first + 0.7 * other]
    stored = [[normalise(images, CIFAR10), class_major(10, 1)] for images in sets]
    path = save_dc(tmp_path / file, stored)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_distilled(path, dataset="cifar10")
    assert 0.2 < same_detail(*sets) < 0.45
    assert loaded.provenance["entries_are"] == kind


@pytest.mark.parametrize("experiment", [-1, 1, 0.0, "0", [0]])
def test_bad_experiments(tmp_path, experiment):
    path = save_dc(
        tmp_path / "res_DM_CIFAR10_ConvNet_1ipc.pt",
        [[entries(1, None)[0], class_major(10, 1)]],
    )
    with pytest.raises(InputError, match=r"experiment is .* in 0 \.\. 0"):
        load_distilled(path, experiment=experiment)


# --- The evidence ------------------------------------------------------------------


def test_what_is_measured():
    """By hand: two values, one black and one at 3, in half of the pixels each."""
    images = torch.zeros(1, 1, 4, 4)
    images[..., ::2] = 3
    found = measure(images, ([0.5], [0.5]))
    assert found == {
        "outside": 0.5, "far_outside": 0.5, "contrast": 3.0, "offset": 0.667
    }  # fmt: skip
    assert measure(images, None) == {"outside": 0.5, "far_outside": 0.5}


def test_slow_changes_by_hand():
    """One wave of 32 pixels, one of 4 with the same power, and levels +-1."""
    angle = 2 * torch.pi * torch.arange(32) / 32
    slow, fast = angle.sin().expand(1, 1, 32, 32), (8 * angle).sin()
    level = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    assert slow_shares(slow + fast + level) == {"waves": 0.5, "brightness": 0.5}
    assert slow_shares(fast.expand(2, 1, 32, 32)) == {"waves": 0, "brightness": 0}
    assert looks_whitened(fast.expand(10, 1, 32, 32)) is True
    assert looks_whitened((slow + fast).expand(10, 1, 32, 32)) is False
    for few in (slow.expand(9, 1, 32, 32), slow.expand(10, 1, 32, 32)[..., :15]):
        assert looks_whitened(few) is None


def test_detail_ignores_smooth_changes():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 10, 3, 16, 16, generator=generator)
    ramp = torch.arange(16.0) + torch.arange(16.0)[:, None]
    assert same_detail(first, 0.3 * first + ramp) == pytest.approx(1, abs=1e-4)
    assert abs(same_detail(first, second)) < 0.05
    assert same_detail(first, -first) == pytest.approx(-1, abs=1e-4)


# --- Files that others released ----------------------------------------------------

ZCA = "dcbench/TrajectoryMatching/CIFAR10/IPC10/ZCA/images_5000.pt"
DATM = "ddranking/DATM/distilled/CIFAR10_ZCA/IPC10"
released = pytest.mark.skipif(not FILES.is_dir(), reason="the files aren't here")


@released
@pytest.mark.parametrize("file", [ZCA, DATM])
def test_released_whitened_files_taken_for_normalised(file):
    with warnings.catch_warnings(action="error"):  # whoever says so is obeyed
        loaded = load_distilled(FILES / file, dataset="cifar10", zca=False)
    assert loaded.provenance["fit"]["waves"] < 0.16
    with pytest.raises(InputError, match="path calls the pixels ZCA-whitened; pass"):
        load_distilled(FILES / file, dataset="cifar10")
