"""Each way to break the contract of a prior is told in a line that names it."""

import math

import pytest
import torch

from diver_lite.checks import InputError
from diver_lite.priors.check import check_prior
from diver_lite.priors.contract import Wrapped
from diver_lite.priors.loading import load_prior
from diver_lite.priors.schedule import abar_at


class Good:
    """Pictures of three classes: each a Gaussian around a grey; the best prediction."""

    class_names = ("dark", "grey", "light")
    latent_shape, image_size = (3, 4, 4), 4
    greys = torch.tensor([-0.5, 0.0, 0.5, 0.0])  # the last for "no class"

    @property
    def info(self):
        return vars(self).get("_info", {"name": "good"})

    def encode(self, images):
        return images * 2 - 1

    def decode(self, latents):
        return (latents / 2 + 0.5).clamp(0, 1)

    def timesteps(self, num_inference_steps):
        stride = 1000 // num_inference_steps
        return [k * stride for k in reversed(range(num_inference_steps))]

    def signal_and_noise(self, timestep):
        abar = abar_at(timestep)
        return abar.sqrt(), (1 - abar).sqrt()

    def denoise(self, latents, timestep, class_labels, guidance_scale):
        alpha, sigma = self.signal_and_noise(timestep)
        mean = alpha * self.greys.take(class_labels).view(-1, 1, 1, 1)
        eps = sigma * (latents - mean) / (alpha**2 + sigma**2)
        return (latents - sigma * eps) / alpha, eps


class Straight(Good):
    """The same on straight paths."""

    def signal_and_noise(self, timestep):
        alpha, sigma = super().signal_and_noise(timestep)
        return alpha / (alpha + sigma), sigma / (alpha + sigma)


def broken(**changes):
    """Return a prior with other attributes, or other answers."""
    prior = Good()
    vars(prior).update(changes)
    return prior


def after(method, change):
    """Return a prior with an answer that was changed."""
    return broken(**{method: lambda *args: change(getattr(Good(), method)(*args))})


def before(method, change):
    """Return a prior that changes the first argument of a method, perhaps in place."""

    def changed(first, *rest):
        return getattr(Good(), method)(change(first), *rest)

    return broken(**{method: changed})


def without(name):
    class Lacking:
        """A prior without a part."""

    for other in vars(Good):
        if other[0] != "_" and other != name:
            setattr(Lacking, other, vars(Good)[other])
    return Lacking()


def both(change):
    return lambda pair: tuple(change(each) for each in pair)


def failing(*_):
    raise RuntimeError("no such layer\nmore")


def far(latents, timestep, class_labels, guidance_scale):
    """Give a grey for each class, whatever the latents, with the eps that fits."""
    alpha, sigma = Good().signal_and_noise(timestep)
    x_0 = torch.zeros_like(latents) + 9
    x_0 = x_0 * (1 + Good.greys.take(class_labels).view(-1, 1, 1, 1))
    return x_0, (latents - alpha * x_0) / sigma


# what is broken -> the prior, what its line holds
BROKEN = {
    "a method is missing": (without("decode"), "decode is missing"),
    "an attribute is missing": (without("image_size"), "image_size is missing"),
    "info is no dict": (broken(_info=None), "info is None"),
    "the name is no text": (broken(_info={"name": 3}), "info has the name 3"),
    "an odd image_fit": (broken(_info={"image_fit": "crop"}), "image_fit 'crop'"),
    "a list of names": (broken(class_names=["a", "b"]), "class_names are"),
    "names are numbers": (broken(class_names=(1, 2, 3)), "as those of id2label"),
    "a name twice": (broken(class_names=("a", "a", "b")), "hold a more than once"),
    "no classes": (broken(class_names=()), "class_names are empty"),
    "two sizes": (broken(latent_shape=(3, 4)), "latent_shape is"),
    "a size of zero": (broken(latent_shape=(3, 0, 4)), "a size in latent_shape is 0"),
    "image_size is a pair": (broken(image_size=(4, 4)), "image_size is"),
    "an odd device": (broken(device="gpu"), "device is 'gpu'"),
    "another device": (broken(device="cuda"), "encode gave a tensor on cpu"),
    "rising timesteps": (after("timesteps", lambda t: t[::-1]), "each below the one"),
    "no timesteps": (after("timesteps", lambda t: []), "at least one"),
    "timesteps are no list": (after("timesteps", len), "timesteps of prior"),
    "timesteps beyond": (after("timesteps", lambda t: [1200, *t]), "a timestep of"),
    "alpha alone": (after("signal_and_noise", lambda p: p[0]), "signal_and_noise gave"),
    "alpha for each row": (
        after("signal_and_noise", both(lambda x: x.expand(3))),
        "alpha or sigma is",
    ),
    "a NaN in alpha": (
        after("signal_and_noise", both(lambda x: x * math.nan)),
        "alpha or sigma is",
    ),
    "alpha and sigma exchanged": (
        after("signal_and_noise", lambda p: p[::-1]),
        "at -1, the clean end, gave 0 and 1",
    ),
    "no clean end": (
        broken(signal_and_noise=lambda t: Good().signal_and_noise(max(t, 400))),
        "at -1, the clean end",
    ),
    "squares instead of roots": (
        after("signal_and_noise", both(torch.square)),
        "expected alpha / sigma",
    ),
    "half of both": (
        after("signal_and_noise", both(lambda x: x / 2)),
        "alpha^2 + sigma^2 = 1",
    ),
    "another schedule's timesteps": (
        broken(signal_and_noise=lambda t: Good().signal_and_noise(t * 0.8)),
        "that of DiT's schedule there",
    ),
    "encode: shape": (after("encode", lambda x: x[:, :2]), "what encode gave is"),
    "encode: flat": (after("encode", lambda x: x.flatten(1)), "what encode gave is"),
    "encode: integers": (after("encode", torch.Tensor.long), "torch.int64"),
    "encode: double": (after("encode", torch.Tensor.double), "encode gave torch.float"),
    "encode: NaN": (after("encode", lambda x: x / 0 * 0), "what encode gave hold"),
    "encode: no values": (after("encode", lambda x: x.to("meta")), "only a shape"),
    "encode: in place": (before("encode", lambda x: x.mul_(0.5)), "encode changed"),
    "encode: by the batch": (
        after("encode", lambda x: x - x.mean(0)),
        "encode gives a row alone another",
    ),
    "encode fails": (broken(encode=failing), "encode fails: RuntimeError: no such"),
    "encode: scale": (before("encode", lambda x: x / 2 + 0.5), "for a black picture"),
    "decode: a number": (after("decode", lambda x: 3), "what decode gave is of type"),
    "decode: half": (after("decode", torch.Tensor.half), "decode gave torch.float16"),
    "decode: inf": (after("decode", lambda x: x / 0), "what decode gave hold"),
    "decode: 0 .. 255": (after("decode", lambda x: x * 255), "expected 0 .. 1"),
    "decode: -1 .. 1": (after("decode", lambda x: x * 2 - 1), "expected 0 .. 1"),
    "decode: negative": (after("decode", lambda x: 1 - x), "for a black picture"),
    "decode: in place": (before("decode", lambda x: x.mul_(0.99)), "decode changed"),
    "denoise: x_0 alone": (after("denoise", lambda p: p[0]), "expected a pair"),
    "denoise: shape": (after("denoise", both(lambda x: x[:, :1])), "denoise gave is"),
    "denoise: NaN": (after("denoise", both(lambda x: x / 0 * 0)), "denoise gave hold"),
    "denoise: double": (
        after("denoise", both(torch.Tensor.double)),
        "denoise gave torch.float64",
    ),
    "denoise: in place": (before("denoise", lambda z: z.mul_(0.5)), "denoise changed"),
    "x_0 and eps exchanged": (after("denoise", lambda p: p[::-1]), "gave (eps, x_0)"),
    "another alpha within": (
        after("denoise", lambda p: (p[0] * 1.5, p[1])),
        "that don't make latents",
    ),
    "denoise: by the batch": (
        before("denoise", lambda z: z - z.mean(0) * 0.5),
        "denoise gives a row alone",
    ),
    "labels change nothing": (broken(greys=torch.zeros(4)), "same for all class_la"),
    "labels are clamped": (
        broken(
            denoise=lambda z, t, labels, s: Good().denoise(z, t, labels.clamp(0, 3), s)
        ),
        "answered for the class label 4, of 3",
    ),
    "a class too many": (
        broken(class_names=tuple("abcdefgh")),
        "denoise fails: IndexError",
    ),
    "x_0 is far from clean latents": (broken(denoise=far), "expected it near"),
    "fingerprint: no text": (broken(fingerprint=3), "its fingerprint is 3"),
    "fingerprint: by chance": (
        broken(fingerprint=lambda: str(torch.rand(()).item())),
        "change from call to call",
    ),
    "nobody can tell it": (broken(more=object()), "give it a method `fingerprint`"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_named(name):
    prior, words = BROKEN[name]
    found = check_prior(prior)
    assert any(words in line for line in found), found
    assert all("\n" not in line for line in found)
    assert len({*found}) == len(found)


@pytest.mark.parametrize("prior", [Good(), Straight(), Wrapped(Good())])
def test_a_prior_that_keeps_the_contract(prior):
    assert check_prior(prior) == []


def test_the_priors_that_ship():
    for name in ("fashion-mnist", "cifar10"):
        assert check_prior(load_prior(name, device="cpu")) == []


@pytest.mark.parametrize("other", [None, 3, "fashion-mnist", Good, torch.zeros(2)])
def test_what_is_no_prior_is_told(other):
    assert check_prior(other)


def test_nothing_around_is_changed():
    state = torch.random.get_rng_state()
    check_prior(Good())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()


# --- Code that is named -------------------------------------------------------------

SOURCE = """
from test_check import Good

def make():
    return Good()

def at(device, dtype=None):
    prior = Good()
    prior.device, prior.dtype = device, dtype
    return prior

def needs(path, *more, size=3):
    return Good()

def nothing():
    return None

def fails():
    return {}["lost"]

def slow_to_fail():
    prior = Good()
    prior.class_names = ["a"]
    return prior

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own" / "mine.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def test_an_own_prior_is_loaded(file, monkeypatch):
    """From a file, or from a module in a folder that the user named."""
    assert check_prior(load_prior(f"{file}:make")) == []
    assert type(load_prior(f"{file}:Good")) is Good
    prior = load_prior(f"{file}:at", device="cpu")
    assert prior.device == torch.device("cpu")
    assert prior.dtype == torch.float32
    assert load_prior(f"{file}:at", dtype=torch.float16).dtype == torch.float16
    monkeypatch.chdir(file.parent)
    assert load_prior("mine.py:make").info == Good().info
    monkeypatch.chdir("/")
    monkeypatch.syspath_prepend(file.parent)
    (file.parent / "other_mine.py").write_text(SOURCE)
    assert load_prior("other_mine:make").info == Good().info


ERRORS = {
    "no file": ("{0}/none.py:make", "there is no file"),
    "no module": ("nowhere_at_all.deep:make", "no module nowhere_at_all among what is"),
    "no module inside": ("json.nowhere:make", "no module json.nowhere among"),
    "no name": ("{0}/mine.py:other", "has no function or class 'other'"),
    "no function": ("{0}/mine.py:number", "has no function or class 'number'"),
    "arguments": ("{0}/mine.py:needs", "needs the arguments path; expected a factory"),
    "fails": ("{0}/mine.py:fails", r"KeyError: 'lost' \(mine.py, line 19\)"),
    "no prior": ("{0}/mine.py:nothing", "info is missing .*check --prior"),
    "breaks the contract": ("{0}/mine.py:slow_to_fail", "class_names are .*diver-lite"),
    "broken code": ("{0}/broken.py:make", r"SyntaxError: .*\(broken.py, line 2\)"),
    "code that ends": ("{0}/ends.py:make", r"SystemExit: 5 \(ends.py, line 1\)"),
    "code that imports": ("{0}/imports.py:make", "ModuleNotFoundError.*'mine'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_is_wrong_with_named_code(file, name):
    (file.parent / "broken.py").write_text("x = 1\ndef make(:\n")
    (file.parent / "ends.py").write_text("raise SystemExit(5)\n")
    (file.parent / "imports.py").write_text("import mine\n")
    text, words = ERRORS[name]
    for _ in range(2):  # the same again
        with pytest.raises(InputError, match=words) as error:
            load_prior(text.format(file.parent))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", [{"device": "cpu"}, {"dtype": torch.float32}, {"prompt": "{name}"}]
)
def test_an_option_that_a_factory_lacks(file, options):
    with pytest.raises(InputError, match=next(iter(options))):
        load_prior(f"{file}:make", **options)


@pytest.mark.parametrize("entry", ["", ".", "own", None])
def test_the_working_folder_is_not_searched(file, monkeypatch, entry):
    """Whatever stands in a path: it may hold what a stranger wrote."""
    folder = file.parent
    (folder / "stranger.py").write_text("raise SystemExit('it ran')")
    monkeypatch.chdir(folder.parent if entry == "own" else folder)
    if entry is None:  # as Python itself puts it there
        monkeypatch.syspath_prepend("")
    else:
        monkeypatch.setenv("PYTHONPATH", entry)
        monkeypatch.syspath_prepend(folder)
    with pytest.raises(InputError, match="the working folder isn't searched"):
        load_prior("stranger:make")


def test_the_command_line_tells_all(cli, file):
    code, out, err = cli("check", "--prior", f"{file}:make")
    assert (code, out.partition(":")[0], err) == (0, "ok", "")
    code, out, err = cli("check", "--prior", f"{file}:slow_to_fail")
    assert (code, err) == (2, "")
    assert out.startswith("wrong: class_names are ['a']")
    code, out, err = cli("check", "--prior", f"{file}:other")
    assert (code, out) == (2, "")
    assert "has no function or class 'other'" in err
