"""Judges of one's own: found, tried, grouped, gone on with, sent to processes."""

import os
import py_compile
import random
import sys
import threading
from dataclasses import replace
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from toy_sets import toy, toy_set

from diver_lite.checks import InputError
from diver_lite.judge.compare import groups_of, summarise
from diver_lite.judge.networks import ConvNet, known_judge
from diver_lite.judge.own import find_judge, norm_of
from diver_lite.judge.protocols import Protocol
from diver_lite.judge.table import cross_architecture
from diver_lite.judge.training import train_judge

FILE = """
import torch
from torch import nn

WIDTH = 4

def activation(x):
    return x.relu()

class Net(nn.Module):
    def __init__(self, num_classes, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, WIDTH, 3)
        self.norm = nn.BatchNorm2d(WIDTH)
        self.last = nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        return self.last(activation(self.norm(self.first(x))).mean((2, 3)))

def small(num_classes, image_size, channels):
    return Net(num_classes, channels)
"""


class Pooled(nn.Module):
    """A small network with parts to choose; its class can be a judge itself."""

    def __init__(self, num_classes, image_size, channels, *, norm=None, drop=0.0):
        super().__init__()
        self.first = nn.Conv2d(channels, 8, 3)
        self.norm = norm() if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.last = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.last(self.drop(self.norm(self.first(x)).relu().mean((2, 3))))


def pooled(num_classes, image_size, channels):
    return Pooled(num_classes, image_size, channels)


def called(factory, name, **attributes):
    """Return a factory with attributes, as a new object."""
    found = partial(factory)
    vars(found).update(attributes, name=name)
    return found


def table_of(judges, **options):
    options = {"seeds": 1, "steps": 2, "progress": False, "n_jobs": 1} | options
    sets = {"a": toy_set(count=1), "b": toy_set(count=1, seed=3)}
    return cross_architecture(sets, toy(seed=9, count=2), judges=judges, **options)


def without_time(table):
    return table.drop(columns="seconds")


def tried(factory, classes=3, size=32):
    return known_judge(factory, classes, size)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a package of one's own, on the path: nets_of_mine.small_nets."""
    folder = tmp_path / "packages" / "nets_of_mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "small_nets.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield "nets_of_mine.small_nets"
    for name in [name for name in sys.modules if name.startswith("nets_of_mine")]:
        del sys.modules[name]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    return path


# --- Found, named, grouped ------------------------------------------------------------


def test_names(module, file):
    """Readable, and without folders; the factory has the last word."""
    names = {
        f"{module}:small": f"{module}:small",
        f"{file}:small": "nets.py:small",
        pooled: "pooled",
        Pooled: "Pooled",
        partial(pooled): "pooled",
        (lambda **_: None): "lambda",
        called(pooled, "wide (8)"): "wide (8)",
    }
    assert {judge: find_judge(judge).name for judge in names} == names


def test_a_judge_trains_wherever_it_comes_from(module, file):
    """Function, class, module and file train the same network to the same score."""
    table = table_of(["ConvNet", f"{module}:small", f"{file}:small", Pooled])
    assert table["judge"].unique().tolist() == [
        "ConvNet",
        f"{module}:small",
        "nets.py:small",
        "Pooled",
    ]
    assert table["norm"].tolist() == 2 * ["IN"] + 4 * ["BN"] + 2 * ["none"]
    assert table["unseen"].tolist() == 2 * [False] + 6 * [True]
    assert table["accuracy"].between(0, 1).all()
    scores = table.set_index(["judge", "set"])["right"].unstack("judge")
    assert scores[f"{module}:small"].equals(scores["nets.py:small"])


def test_our_convnet_as_one_s_own_is_the_same(file):
    """What is called, and which weights and batches it gets, is as for ours."""
    again = called(ConvNet, "again", unseen=False)
    table = table_of(["ConvNet", again])
    ours, own = (
        without_time(table)[table["judge"] == judge].drop(columns="judge").to_numpy()
        for judge in ("ConvNet", "again")
    )
    assert (ours == own).all()
    options = {"num_classes": 3, "protocol": Protocol(steps=2)}
    networks = [train_judge(j, *toy()[:2], **options) for j in ("ConvNet", again)]
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[key], second[key]) for key in first)


NORMS = {
    "BN": nn.BatchNorm2d(8),
    "GN": nn.GroupNorm(2, 8),
    "IN": nn.InstanceNorm2d(8),
    "IN as ours": nn.GroupNorm(8, 8),
    "LN": nn.LayerNorm(8),
    "LN, RMS": nn.RMSNorm(8),
    "BN and LN": nn.Sequential(nn.LayerNorm(8), nn.BatchNorm1d(8)),
    "none": nn.ReLU(),
}


def test_norms_are_told_from_modules():
    found = {name: norm_of(nn.Sequential(norm)) for name, norm in NORMS.items()}
    expected = {name: name.replace(",", " ").split()[0] for name in NORMS}
    assert found == expected


def test_groups_are_those_of_norms():
    """A stranger with or without batch norm; a relative of the proxy if it says so."""
    judges = [
        called(partial(Pooled, norm=lambda: nn.BatchNorm2d(8)), "x-bn"),
        called(partial(Pooled, norm=lambda: nn.GroupNorm(2, 8)), "x-gn"),
        called(pooled, "kin", unseen=False),
    ]
    table = table_of(["ConvNet", *judges], seeds=2)
    assert groups_of(table) == {
        "ConvNet": "proxy's kind",
        "x-bn": "unseen, BN",
        "x-gn": "unseen, no BN",
        "kin": "proxy's kind",
    }
    summary = summarise(table, "a")
    assert {"x-bn", "x-gn", "kin", "proxy's kind", "unseen, BN: vs a"} <= {*summary}
    with pytest.raises(InputError, match="judge is 'x-bn'; expected one of"):
        summarise(table.drop(columns="norm"), "a")


def test_rates_go_by_name():
    protocol = Protocol(judge_lr={"pooled": 0.5})
    assert protocol.peak_lr(tried(pooled)) == 0.5
    assert protocol.peak_lr(tried(called(pooled, "other"))) == protocol.lr


def test_the_page_s_judge_trains(tmp_path):
    """The command line's page shows it."""
    page = (Path(__file__).parents[2] / "book/command_line.md").read_text("utf-8")
    section = page.partition("\n## A judge of your own\n")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "nets.py").write_text(code)
    table = table_of([f"{tmp_path / 'nets.py'}:small"])
    assert set(table["judge"] + " " + table["norm"]) == {"nets.py:small BN"}


# --- Random numbers, processes --------------------------------------------------------


class Lazy(nn.Module):
    def __init__(self, num_classes, image_size, channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(num_classes)
        )

    def forward(self, x):
        return self.layers(x)


def reseeding(**sizes):
    torch.manual_seed(3)
    return Pooled(**sizes)


def rolling(num_classes, image_size, channels):
    network = Pooled(num_classes, image_size, channels)
    network.last.weight.data += torch.randint(2, 9, network.last.weight.shape)
    return network


DRAWING = {
    "plain": pooled,
    "dropout": called(partial(Pooled, drop=0.5), "dropout"),
    "lazy": Lazy,
    "reseeding": reseeding,
    "whole numbers": rolling,
}


@pytest.mark.parametrize("name", DRAWING)
def test_a_seed_fixes_a_training(name):
    """Twice the same, another with another seed; torch's generator doesn't move."""
    factory = DRAWING[name]
    options = {"num_classes": 3, "protocol": Protocol(steps=3, augment=())}

    def train(seed):
        network = train_judge(factory, *toy(count=2)[:2], seed=seed, **options)
        return torch.cat([p.detach().flatten() for p in network.parameters()])

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = train(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert torch.equal(train(0), first)
    assert not torch.equal(train(1), first)


def test_dropout_drops_in_training():
    """The flag that seeds it is set where it draws, and only there."""
    assert tried(DRAWING["dropout"]).draws
    assert not tried(pooled).draws
    options = {"num_classes": 3, "protocol": Protocol(steps=3, augment=())}
    one, other = (
        train_judge(factory, *toy(count=2)[:2], **options).last.weight
        for factory in (pooled, DRAWING["dropout"])
    )
    assert not torch.equal(one, other)


def test_processes_change_nothing(module, file):
    """Also of lambdas, closures, and modules that no other process finds."""
    drop = 0.3
    judges = [
        f"{module}:small",
        f"{file}:small",
        called(lambda **sizes: Pooled(**sizes, drop=drop), "closure"),
        pooled,
    ]
    options = {"seeds": 2}
    alone = table_of(judges, **options)
    beside = table_of(judges, n_jobs=2, **options)
    pd.testing.assert_frame_equal(without_time(alone), without_time(beside))


def test_what_can_t_be_sent_is_named():
    """Before anything trains; in this process it works."""
    lock = threading.Lock()

    def held(**sizes):
        with lock:
            return Pooled(**sizes)

    assert len(table_of([held])) == 2
    with pytest.raises(InputError, match=r"judge held: it can't be sent .*n_jobs=1"):
        table_of([held], n_jobs=2)


# --- Gone on with ---------------------------------------------------------------------

CHANGES = {
    "a constant": ("WIDTH = 4", "WIDTH = 5"),
    "a function that forward calls": ("x.relu()", "x.relu() * 2"),
    "a layer": ("nn.BatchNorm2d(WIDTH)", "nn.BatchNorm2d(WIDTH, eps=1e-3)"),
    "forward": (".mean((2, 3))", ".amax((2, 3))"),
}


@pytest.mark.parametrize("kind", ["file", "module"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_judge_is_refused(module, file, tmp_path, name, kind):
    """Its rows would stand beside those of another network."""
    path = Path(sys.path[0], *module.split(".")).with_suffix(".py")
    judge = f"{module}:small"
    if kind == "file":
        path, judge = file, f"{file}:small"
    out = tmp_path / "cells.csv"
    table = table_of([judge], out=out)
    assert without_time(table_of([judge], out=out)).equals(without_time(table))
    content = out.read_bytes()
    path.write_text(FILE.replace(*CHANGES[name]))
    for loaded in [each for each in sys.modules if each.startswith("nets_of_mine")]:
        del sys.modules[loaded]
    with pytest.raises(InputError, match="are of another one, or of other code"):
        table_of([judge], out=out)
    assert out.read_bytes() == content


def test_the_same_judge_goes_on_and_others_stay(file, tmp_path, monkeypatch):
    """From another folder, with more seeds; rows of ours need no further columns."""
    out = tmp_path / "cells.csv"
    table_of(["ConvNet"], out=out)
    assert "judge_sha" not in out.read_text()
    table_of([f"{file}:small"], out=out)
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "nets.py").write_text(FILE)
    before = pd.read_csv(out, dtype=str)
    found = table_of([f"{moved / 'nets.py'}:small", "ConvNet"], out=out, seeds=2)
    assert found["norm"].isin(["BN", "IN"]).all()
    after = pd.read_csv(out, dtype=str)
    key = ["set", "judge", "seed"]
    kept = after.merge(before[[*key, "seconds"]], on=[*key, "seconds"])
    assert (len(before), len(kept), len(after)) == (4, 4, 8)
    assert after["judge_sha"].notna().equals(after["judge"] == "nets.py:small")
    after["seed"] = after["seed"].astype(int)
    after["accuracy"] = after["accuracy"].astype(float)
    after["unseen"] = after["unseen"] == "True"
    assert groups_of(after)["nets.py:small"] == "unseen, BN"  # the file says it


def test_a_file_names_nothing_that_runs(file, tmp_path):
    """A row's judge is a word, whatever it looks like."""
    out = tmp_path / "cells.csv"
    table_of([f"{file}:small"], out=out)
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    out.write_text(out.read_text().replace("nets.py:small", f"{trap}:small"))
    table_of(["ConvNet"], out=out)
    groups_of(pd.read_csv(out))
    assert not (tmp_path / "ran").exists()


def test_identities():
    """Whatever computes counts; what the seed draws doesn't."""
    factories = [
        partial(Pooled, drop=0.1),
        partial(Pooled, drop=0.2),
        partial(Pooled, norm=lambda: nn.BatchNorm2d(8)),
        partial(Pooled, norm=lambda: nn.GroupNorm(2, 8)),
        called(pooled, "a", fingerprint="one"),
        called(pooled, "a", fingerprint="two"),
        pooled,
        Pooled,
    ]
    found = [tried(factory).identity for factory in factories]
    assert "" not in found
    assert len({*found}) == len(found)
    assert found == [tried(factory).identity for factory in factories]
    told = called(Pooled, "a", fingerprint="one", more=object())
    assert tried(told).identity == found[4]


def test_another_machine_s_rounding_is_no_other_judge(monkeypatch):
    """Weights that the seed draws count by their code alone."""
    real = nn.init.kaiming_uniform_
    here = tried(pooled).identity

    def rounded(tensor, *arguments, **options):
        with torch.no_grad():
            return real(tensor, *arguments, **options).mul_(1 + 1e-6)

    monkeypatch.setattr(nn.init, "kaiming_uniform_", rounded)
    assert tried(pooled).identity == here


def test_weights_from_a_file_count_to_the_last_bit(tmp_path):
    stored = tmp_path / "weight.pt"

    def loaded(**sizes):
        network = Pooled(**sizes)
        network.register_buffer("fixed", torch.load(stored))
        return network

    found = []
    for value in (torch.ones(2), torch.ones(2).nextafter(torch.zeros(2))):
        torch.save(value, stored)
        found.append(tried(loaded).identity)
    assert "" not in found
    assert found[0] != found[1]


def test_a_judge_that_can_t_be_told_needs_a_fingerprint(tmp_path):
    """Without a file it trains."""
    strange = called(pooled, "strange", held=object())
    assert len(table_of([strange])) == 2
    with pytest.raises(InputError, match=r"strange: .* can't be kept in out .*fingerp"):
        table_of([strange], out=tmp_path / "cells.csv")
    vars(strange)["fingerprint"] = "v1"
    table_of([strange], out=tmp_path / "cells.csv")


# --- Failures in the middle -----------------------------------------------------------


class Tired(Pooled):
    """A network that fails in its third step of a training."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.steps = 0

    def forward(self, x):
        if self.training and len(x) > 2:  # not where it is tried on black images
            self.steps += 1
            if self.steps == 3:
                raise RuntimeError("no rest for\nthe network")
        return super().forward(x)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_network_that_fails_in_training_is_a_row_of_its_own(tmp_path, n_jobs):
    """The others are trained and kept; the failed one isn't tried again."""
    out = tmp_path / "cells.csv"
    judges = ["ConvNet", called(Tired, "tired")]
    table = table_of(judges, out=out, steps=4, n_jobs=n_jobs)
    failed = table[table["judge"] == "tired"]
    for _, row in failed.iterrows():
        assert row["error"] == (
            f"judge tired, seed {row['seed']}: its code failed (RuntimeError: no rest "
            "for)"
        )
        assert np.isnan(row["accuracy"])
        assert np.isnan(row["loss"])
    assert len(failed) == len(table) / 2
    assert (table.loc[table["judge"] == "ConvNet", "error"] == "").all()
    before = out.read_bytes()
    again = table_of(judges, out=out, steps=4)
    assert again["error"].tolist() == table["error"].tolist()
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()]
)
def test_want_of_memory_is_no_result(error):
    """It may be there next time, so no row says that the network failed."""

    class Large(Pooled):
        def forward(self, x):
            if self.training and len(x) > 2:
                raise error
            return super().forward(x)

    with pytest.raises(type(error)):
        table_of([called(Large, "large")])


# --- Bad input ------------------------------------------------------------------------


class Odd(Pooled):
    """A network whose answers are changed."""

    def __init__(self, change, **sizes):
        super().__init__(**sizes)
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x), self.training)


def odd(change):
    return called(partial(Odd, change), "odd")


def frozen(**sizes):
    return Pooled(**sizes).requires_grad_(False)


def numpy_s(**sizes):
    network = Pooled(**sizes)
    weight = network.last.weight
    weight.data.copy_(torch.from_numpy(np.random.rand(*weight.shape)))  # noqa: NPY002
    return network


def failing(**sizes):
    raise RuntimeError("no such layer")


BAD = {
    "a module that isn't there": (
        "nets_of_nobody:small",
        "judge 'nets_of_nobody:small': there is no module nets_of_nobody among",
    ),
    "a module in none": ("torch.nowhere:f", "there is no module torch.nowhere among"),
    "a function that isn't there": (
        "torch.nn:Convv",
        "torch.nn has no function or class 'Convv'",
    ),
    "no module": ("a b:small", "expected package.module:name or path/to/file.py"),
    "no file": ("nowhere.py:small", "there is no file nowhere.py"),
    "no function": ("torch:pi", "torch has no function or class 'pi'"),
    "a network": (nn.Linear(2, 2), "judge Linear is a network, Linear; expected a fac"),
    "neither": (3, "judge is 3; expected one of"),
    "other arguments": (lambda width: None, r"the factory takes \(width\).*image_size"),
    "no arguments": (lambda: None, r"the factory takes \(\).*factory\(num_classes="),
    "a failing factory": (
        failing,
        r"call factory\(num_classes=3, image_size=32, channels=3\) failed \(Runt",
    ),
    "no network": (lambda **_: "net", "of type str; expected an nn.Module"),
    "another size": (
        called(lambda **_: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "flat"),
        r"judge flat: in evaluation mode it can't take images \(2, 3, 32, 32\) \(Runti",
    ),
    "other channels": (
        called(lambda num_classes, **_: Pooled(num_classes, 32, 1), "grey"),
        r"judge grey: in evaluation mode it can't take images \(2, 3, 32, 32\)",
    ),
    "another number of classes": (
        called(lambda **_: Pooled(7, 32, 3), "seven"),
        r"evaluation mode is torch.float32 \(2, 7\); expected a float tensor \(2, 3\)",
    ),
    "NaN": (odd(lambda x, _: x * torch.nan), "holds NaN or infinite values"),
    "integers": (odd(lambda x, _: x.long()), r"is torch.int64 \(2, 3\); expected a fl"),
    "a tuple": (odd(lambda x, train: (x, x)), "is of type tuple; expected a float"),
    "a tuple in training": (
        odd(lambda x, train: (x, x) if train else x),
        "in training mode is of type tuple",
    ),
    "random answers": (
        odd(lambda x, _: x + torch.randn_like(x)),
        "in evaluation mode it draws at random",
    ),
    "Python's random answers": (
        odd(lambda x, _: x + random.random()),
        "in evaluation mode it draws at random",
    ),
    "NumPy's weights": (numpy_s, "two networks of one seed differ in last.weight"),
    "nothing to learn": (frozen, "judge frozen: nothing in it learns"),
    "a name of ours": (called(pooled, "ConvNet-GN"), "a judge of diver_lite has this"),
    "a name of two columns": (called(pooled, "a,b"), "judge 'a,b': expected a name of"),
    "an odd word": (called(pooled, "x", unseen="no"), "its unseen is 'no'; expected"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, tmp_path, monkeypatch):
    """One sentence names it before a set is drawn or a file is made."""
    judge, message = BAD[name]
    monkeypatch.chdir(tmp_path)

    def never(seed):
        raise AssertionError("drawn")

    options = {"judges": [judge], "out": tmp_path / "cells.csv", "progress": False}
    with pytest.raises(InputError, match=message) as found:
        cross_architecture({"a": never}, toy(), **options)
    assert "\n" not in str(found.value)
    assert not [*tmp_path.iterdir()]
    if judge != 3:
        with pytest.raises(InputError, match=message):
            train_judge(judge, *toy()[:2], num_classes=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def small(:\n", r"nets.py:small' fails: SyntaxError.*\(nets.py, line 1\)"),
        (
            "import nets_of_nobody\n",
            "fails: ModuleNotFoundError: No module named 'nets_of_nobody'",
        ),
        ("raise SystemExit('bye')\n", "fails: SystemExit: bye"),
        (
            "def large(**_): ...\n",
            r"has no function or class 'small'; expected one of \['large'\]",
        ),
    ],
)
def test_files_that_fail(file, text, message):
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        table_of([f"{file}:small"])


def test_two_judges_of_one_name():
    with pytest.raises(InputError, match=r"found \['lambda'\] more .*attribute `name`"):
        table_of([lambda **s: Pooled(**s), lambda **s: Pooled(**s, drop=0.1)])


def test_a_module_beside_a_file_is_not_looked_for(file, tmp_path):
    (tmp_path / "neighbour.py").write_text("raise AssertionError('ran')\n")
    file.write_text("import neighbour\n" + FILE)
    with pytest.raises(InputError, match="No module named 'neighbour'"):
        find_judge(f"{file}:small")


def test_compiled_code_beside_a_file_does_not_run(file):
    """Python would take it for the file's, by its time and size."""
    wanted, other = "small = dict  # \n", "small = list  # \n"
    file.write_text(other)
    os.utime(file, (1e9, 1e9))
    py_compile.compile(str(file))
    file.write_text(wanted)
    os.utime(file, (1e9, 1e9))
    loader = SourceFileLoader("nets", str(file))
    module = ModuleType("nets")
    loader.exec_module(module)
    assert module.small is list  # so the trap works
    assert find_judge(f"{file}:small").factory is dict


def test_a_judge_that_was_tried_is_not_tried_again():
    """`train_judge` takes what `known_judge` returns, also packed for a process."""
    judge = tried(pooled)
    for each in (judge, judge.packed(), replace(judge, name="other")):
        assert tried(each) is each
        train_judge(each, *toy(count=1)[:2], num_classes=3, protocol=Protocol(steps=1))
