"""The scripts of the live pages compute what the package computes; what they load."""

import base64
import gzip
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import draw_plane
import live_files
import live_page
import numpy as np
import pytest
import torch
from docutils import nodes
from PIL import Image

from diver_lite.priors.dit import DiTPrior
from diver_lite.priors.loading import load_prior
from diver_lite.recovery import WINDOWS, RecoveryConfig
from diver_lite.sets.load import load_distilled

PLANE = """
  const {recoverPoints} = require(`${folder}/plane.js`);
  const data = require(`${folder}/plane.json`);
  const config = {...Diver.DEFAULTS, ...given.config};
  recoverPoints(data, data.points, config, given.seed).then((steps) => answer(
    steps.slice(1).map((s) => ({...s, latents: [...s.latents], predOriginal: null}))));
"""


def in_node(script, **given):
    """Run a script with the loop and the noise at hand; return what it answers."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node found")
    preamble = f"""
      const folder = {json.dumps(str(live_page.SOURCES))};
      const given = {json.dumps(given)};
      const answer = (value) => console.log(JSON.stringify(value));
      globalThis.Diver = require(`${{folder}}/diver.js`);
      globalThis.Noise = require(`${{folder}}/noise.js`);
    """
    command = [node, "--eval", preamble + script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("seed", "index"), [(0, 0), (0, 99), (7, 1), (2**31 - 1, 12345)]
)
def test_noise_is_numpys(seed, index):
    script = "answer([...Noise.standardNormal(given.seed, given.index, 100000)])"
    found = np.array(in_node(script, seed=seed, index=index), dtype=np.float32)
    numpy = np.random.default_rng([seed, index])
    expected = numpy.standard_normal(100_000, dtype=np.float32)
    assert np.abs(expected).max() > 3.7  # the tail is among them
    # the tail needs logarithms, which may round otherwise
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("steps", [1, 7, 36, 50, 250, 1000])
@pytest.mark.parametrize("start", ["matched", "published"])
def test_timesteps_and_phases_are_the_packages(steps, start, tiny_prior):
    config = RecoveryConfig(num_inference_steps=steps, noise_timestep=613, start=start)
    script = """
      const config = {...Diver.DEFAULTS, ...given.config};
      const visited = Diver.timesteps(config);
      answer([visited, visited.map((t) => Diver.phase(config, t))]);
    """
    ours = {"numInferenceSteps": steps, "noiseTimestep": 613, "start": start}
    visited, phases = in_node(script, config=ours)
    assert visited == config.timesteps(tiny_prior)
    assert phases == [config.phase(t) for t in visited]


def test_defaults_and_windows_are_the_packages():
    defaults, published, windows = in_node(
        "answer([Diver.DEFAULTS, Diver.PUBLISHED, Diver.WINDOWS])"
    )
    assert {name: tuple(pair) for name, pair in windows.items()} == WINDOWS
    for config, names in [
        (RecoveryConfig(), defaults),
        (RecoveryConfig.published(), defaults | published),
    ]:
        assert names.pop("window") == list(WINDOWS[config.window])
        for name, value in names.items():
            snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
            assert getattr(config, snake) == value, name


@pytest.mark.parametrize(
    ("config", "seed", "ours"),
    [
        (RecoveryConfig(), 0, {}),
        (RecoveryConfig.published(), 1, "Diver.PUBLISHED"),
        (
            RecoveryConfig(
                noise_timestep=300,
                window="full",
                guidance_factor=0.5,
                guidance_scale=1.0,
                num_inference_steps=10,
            ),
            2,
            {
                "noiseTimestep": 300,
                "window": [1000, -1],
                "guidanceFactor": 0.5,
                "guidanceScale": 1,
                "numInferenceSteps": 10,
            },
        ),
    ],
    ids=["default", "published", "other"],
)
def test_the_plane_ends_where_its_twin_in_python_ends(config, seed, ours):
    script = PLANE
    if isinstance(ours, str):
        script = f"given.config = {ours};" + script
    steps = in_node(script, config=ours, seed=seed)
    expected = draw_plane.recover_points(config, seed)
    found = torch.tensor(steps[-1]["latents"]).view_as(expected)
    assert (found - expected).abs().max() < 1e-3
    assert (expected - expected.mean((0, 1))).abs().max() > 1  # not all at one place


def test_the_stored_ends_are_the_browsers():
    """The page "Add a prior" asserts that its own prior ends there."""
    stored = torch.tensor(json.loads(draw_plane.COVER.read_text())["ends"])
    steps = in_node(PLANE, config={}, seed=0)
    found = torch.tensor(steps[-1]["latents"]).view_as(stored)
    assert (found - stored).abs().max() < 1e-3


def test_recovered_points_lie_on_their_curves():
    data = json.loads(draw_plane.COVER.read_text())
    ends = draw_plane.recover_points(RecoveryConfig(guidance_factor=0.0))
    for label, points in zip(data["classes"], ends, strict=True):
        distances = torch.cdist(points, torch.tensor(data["curves"][label]))
        assert distances.min(1).values.max() < 4 * data["std"]


COVER = [  # what the cover says of its six draws, and the settings that it names
    (r"on average (\S+) from the distilled point", {"noise_timestep": 100}),
    (
        r"from level 900 they land all along it, (\S+) away",
        {"noise_timestep": 900, "guidance_factor": 0.0},
    ),
    (
        r"factor of 0\.2, they end (\S+) away",
        {"noise_timestep": 900, "guidance_factor": 0.2},
    ),
]


def distances(**settings):
    """How far the cover's six draws end from their distilled point: (6,)."""
    point = torch.tensor(json.loads(draw_plane.COVER.read_text())["points"][2])
    ends = draw_plane.recover_points(RecoveryConfig(**settings))[2]
    return (ends - point).norm(dim=1)


@pytest.mark.parametrize(("sentence", "settings"), COVER)
def test_numbers_of_the_cover_are_those_that_are_seen(sentence, settings):
    text = " ".join((live_page.HERE.parent / "intro.md").read_text().split())
    for value in settings.values():
        assert value == 0 or f"{value:g}" in text
    (said,) = re.findall(sentence, text)
    assert said == f"{distances(**settings).mean():.2f}"


def test_sentences_of_the_cover_are_so():
    text = " ".join((live_page.HERE.parent / "intro.md").read_text().split())
    found = distances()
    assert "four then end near the distilled point, two at the other end" in text
    assert (found < 1).sum() == 4
    assert (found > 3).sum() == 2  # the curve's ends are 4 apart
    near = distances(noise_timestep=100)
    assert near.max() < 0.9  # the curve's nearest point is 0.72 away
    steps = in_node(PLANE, config={"noiseTimestep": 100}, seed=0)
    ends = torch.tensor(steps[-1]["latents"]).view(5, 6, 2)[2]
    point = torch.tensor(json.loads(draw_plane.COVER.read_text())["points"][2])
    assert ((ends - point).norm(dim=1) - near).abs().max() < 1e-3


# ---------------------------------------------------------------- what is loaded


def test_a_bundle_is_its_files(tmp_path):
    files = {"a": bytes(range(256)), "b": np.random.default_rng(0).bytes(2_000_000)}
    bundles = {}
    live_files._add_bundle(tmp_path, bundles, "both", files)
    parts, text = bundles["both"]["parts"], ""
    assert parts == 3  # of 2.67 MB in base64
    for number in range(parts):
        script = (tmp_path / f"both-{number}.js").read_text()
        call, _, part = script.partition(', "')
        assert call == f'Live.part("both", {number}'
        assert len(part.removesuffix('");\n')) % 4 == 0  # decodes by itself
        text += part.removesuffix('");\n')
    assert len(text) == bundles["both"]["bytes"]
    content = gzip.decompress(base64.b64decode(text))
    for name, (start, end) in bundles["both"]["files"].items():
        assert content[start:end] == files[name]


@pytest.fixture(scope="module")
def networks(tiny_prior):
    """The three networks of a prior, as ONNX."""
    pytest.importorskip("onnxscript")
    return live_files.export_prior(tiny_prior)


def test_only_weights_that_fit_16_bits_are_halved():
    onnx, reference = map(pytest.importorskip, ["onnx", "onnx.reference"])
    helper, values = onnx.helper, {"fits": 1.5, "small": 0.1, "large": 1e6}
    weights = [
        onnx.numpy_helper.from_array(np.array([value], np.float32), name)
        for name, value in values.items()
    ]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    total = helper.make_node("Sum", list(values), ["y"])
    model = helper.make_model(helper.make_graph([total], "g", [], [output], weights))
    live_files._halve(model)
    found = {w.name: w.data_type for w in model.graph.initializer}
    kept = onnx.TensorProto.FLOAT
    half = onnx.TensorProto.FLOAT16
    assert found == {"fits.half": half, "small": kept, "large": kept}
    (result,) = reference.ReferenceEvaluator(model).run(None, {})
    assert result == np.float32(1.5) + np.float32(0.1) + np.float32(1e6)


def test_weights_of_a_prior_are_halved(networks):
    onnx = pytest.importorskip("onnx")
    assert set(networks) == {"denoise", "encode", "decode"}
    model = onnx.load_from_string(networks["denoise"])
    onnx.checker.check_model(model)
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in model.graph.initializer}
    halves = {name for name, w in weights.items() if w.dtype == np.float16}
    assert all(name.endswith(".half") for name in halves)
    assert sum(weights[name].size for name in halves) > 10_000
    casts = [node.input[0] for node in model.graph.node if node.op_type == "Cast"]
    assert halves <= set(casts)


def test_exported_networks_answer_as_the_prior(networks, tiny_prior):
    onnx, reference = map(pytest.importorskip, ["onnx", "onnx.reference"])
    networks = {
        name: reference.ReferenceEvaluator(onnx.load_from_string(network))
        for name, network in networks.items()
    }
    latents = torch.randn(3, *tiny_prior.latent_shape, generator=torch.manual_seed(0))
    labels = torch.tensor([0, 3, 9])
    asked = {
        "latents": latents.numpy(),
        "timestep": np.array([412] * 3),
        "class_labels": labels.numpy(),
    }
    (noise,) = networks["denoise"].run(None, asked)
    expected = tiny_prior.predict_noise(latents, 412, labels, 1.0)
    assert np.allclose(noise, expected.numpy(), atol=1e-4)
    (images,) = networks["decode"].run(None, {"latents": latents[:1].numpy()})
    assert np.allclose(images, tiny_prior.decode(latents[:1]).numpy(), atol=1e-4)
    (again,) = networks["encode"].run(None, {"images": images})
    expected = tiny_prior.encode(torch.from_numpy(images))
    assert np.allclose(again, expected.numpy(), atol=1e-4)


def test_without_npm_the_reason_is_given_and_nothing_left(tmp_path, monkeypatch):
    monkeypatch.setattr(live_files.platformdirs, "user_cache_dir", lambda _: tmp_path)
    monkeypatch.setattr(live_files.shutil, "which", lambda _: None)
    with pytest.raises(live_files.Unavailable, match="npm is not installed"):
        live_files.live_files()
    kept = [path.suffix for path in (tmp_path / "live").iterdir()]
    assert kept == [".lock"]


def test_a_cache_that_cannot_be_written_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "live").write_text("in the way")
    monkeypatch.setattr(live_files.platformdirs, "user_cache_dir", lambda _: tmp_path)
    with pytest.raises(live_files.Unavailable, match="can't be written"):
        live_files.live_files()


def test_a_registry_out_of_reach_is_a_reason(monkeypatch):
    monkeypatch.setattr(live_files, "RUNTIME", "./no-such-folder")
    if shutil.which("npm") is None:
        pytest.skip("no npm found")
    with pytest.raises(live_files.Unavailable, match="could not be fetched"):
        live_files._runtimes()


def test_the_priors_that_ship_suit_the_page():
    for name in live_files.TITLES:
        prior: DiTPrior = load_prior(name)
        described = live_files._describe(prior)
        assert described["imageSize"] == 32
        assert len(described["check"]) == 16


def test_what_is_stored_is_small_and_whole():
    folder = live_page.SOURCES / "stored"
    listed = json.loads((folder / "stored.json").read_text())
    assert {sheet["prior"] for sheet in listed} == set(live_files.TITLES)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 300_000
    for sheet in listed:
        count, levels = len(load_distilled(sheet["set"])), len(sheet["levels"])
        assert 700 in sheet["levels"]  # the recommended one, with which the page opens
        with Image.open(folder / f"{sheet['sheet']}.webp") as picture:
            assert picture.size == (32 * (levels + 1), 32 * count)
        with Image.open(folder / f"{sheet['set']}-noised.webp") as picture:
            assert picture.size == (32 * levels, 32 * count)


def test_the_page_gets_what_a_prior_recommends():
    """Out of the prior's own folder, under the names of JavaScript."""
    advice = {"guidance_scale": 4.0, "guidance_factor": 0.0}
    assert load_prior("cifar10").info["recommended"] == advice
    found = live_files._describe(load_prior("cifar10"))["recommended"]
    assert found == {"guidanceScale": 4.0, "guidanceFactor": 0.0}
    assert live_files._describe(load_prior("fashion-mnist"))["recommended"] == {}


# ---------------------------------------------------------------- links

HASH = """
  globalThis.LIVE = {manifest: null, missing: ""};  // so that it only defines
  globalThis.window = globalThis;
  globalThis.document = {getElementById: () => ({querySelector: () => ({})})};
  const text = require("fs").readFileSync(`${folder}/play.js`, "utf8");
  require("vm").runInThisContext(text);
  LIVE.manifest = given.manifest;
  globalThis.location = {hash: given.hash};
  const refused = playPage.readHash();
  answer([refused, playPage.state, playPage.settings]);
"""
SET = {"prior": "fashion-mnist", "labels": [3, 0]}
PRIOR = {"classNames": ["a", "b", "c", "d"], "recommended": {}}
MANIFEST = {
    "priors": {
        "fashion-mnist": PRIOR,
        "cifar10": PRIOR | {"recommended": {"guidanceScale": 4}},
    },
    "sets": {
        "fashion-mnist-dm-ipc1": SET,
        "cifar10-mtt-ipc1": {"prior": "cifar10", "labels": [0, 1]},
    },
}


@pytest.mark.parametrize("value", ["constructor", "__proto__", "toString", "%20", ""])
@pytest.mark.parametrize(
    "name", ["prior", "set", "kind", "image", "class", "t", "b.seed", "start", "else"]
)
def test_what_every_object_has_is_nothing_to_ask_for(name, value):
    """Links name priors, sets and settings of the page, not members of JavaScript."""
    default = in_node(HASH, manifest=MANIFEST, hash="#b.t=700")
    link = f"#b.t=700&{name}={value}"
    refused, *found = in_node(HASH, manifest=MANIFEST, hash=link)
    shown = f"{name}={value.replace('%20', ' ')}"
    assert f"doesn't have: {shown}. There it took what is recommended." in refused
    assert found == default[1:]


def test_a_link_of_the_page_is_taken():
    link = "#prior=fashion-mnist&set=fashion-mnist-dm-ipc1&image=1&t=20&seed=4"
    refused, state, (settings,) = in_node(HASH, manifest=MANIFEST, hash=link)
    assert refused == ""
    assert (state["image"], state["class"], state["seed"]) == (1, 0, 4)
    assert settings["noiseTimestep"] == 20


# ---------------------------------------------------------------- in the book


def linked(*cells):
    document = nodes.container("")
    for code in cells:
        block = nodes.literal_block(code, code)
        document += nodes.container("", nodes.container("", block))
    env = SimpleNamespace(found_docs={live_page.PAGE})
    builder = SimpleNamespace(
        format="html", get_relative_uri=lambda *_: "../book/play.html"
    )
    live_page.link_explorers(
        SimpleNamespace(env=env, builder=builder), document, "notebooks/x"
    )
    return document


def explorer_links(*cells):
    return [link["refuri"] for link in linked(*cells).findall(nodes.reference)]


GARMENTS = """
prior = load_prior("fashion-mnist", device="cpu")
distilled = load_distilled("fashion-mnist-dm-ipc1")
"""
PHOTOGRAPHS = """
five = [1, 5, 7, 8, 9]
few = load_distilled("cifar10-dsa-ipc1")[five]
prior = load_prior("cifar10", device="cpu")
grey_prior = load_prior("fashion-mnist", device="cpu")
"""


@pytest.mark.parametrize(
    ("before", "code", "settings"),
    [
        (
            GARMENTS,
            "explore_recovery(distilled[[4, 5]], prior)",
            "fashion-mnist&set=fashion-mnist-dm-ipc1&image=4",
        ),
        (
            GARMENTS,
            "explore_noise_level(distilled[[0, 6, 8]], prior)",
            "fashion-mnist&set=fashion-mnist-dm-ipc1&image=0&t=500&factor=0",
        ),
        (
            GARMENTS,
            "explore_guidance_factor(\n    distilled[pick(test=[5], demo=[8])], prior)",
            "fashion-mnist&set=fashion-mnist-dm-ipc1&image=8&high=1000&low=-1",
        ),
        (
            PHOTOGRAPHS,
            "explore_recovery(few[[1, 2, 3]], prior)",
            "cifar10&set=cifar10-dsa-ipc1&image=5",
        ),
    ],
)
def test_an_explorer_gets_a_link_with_its_prior_set_and_settings(
    before, code, settings
):
    (link,) = explorer_links(before, code)
    assert link == f"../book/play.html#prior={settings}"


OWN = 'prior = load_prior(folder / "prior", device="cpu")'


@pytest.mark.parametrize(
    ("before", "code"),
    [
        (OWN, "explore_recovery(distilled, prior)"),
        ("", "explore_cost(seconds)"),
        ("", "from bookkit.explore import explore_cost\n\nexplore_cost(seconds)"),
    ],
)
def test_an_explorer_of_what_the_page_has_not_says_what_it_needs(before, code):
    document = linked(GARMENTS, before, code)
    assert not [*document.findall(nodes.reference)]
    (sentence,) = document.findall(nodes.paragraph)
    assert sentence.astext() == live_page.NEEDS_KERNEL
    assert sentence.parent is document[-1]


@pytest.mark.parametrize(
    "code",
    [
        "from bookkit.explore import explore_recovery",
        "# explore_recovery(distilled, prior) is live",
    ],
)
def test_other_code_gets_none(code):
    assert not [*linked(GARMENTS, code).findall(nodes.paragraph)]


def test_settings_of_links_are_the_pages():
    names = set().union(*live_page.EXPLORERS.values())
    text = (live_page.SOURCES / "play.js").read_text()
    controls = text.partition("const CONTROLS")[2].partition("};")[0]
    assert all(f"\n  {name}: {{" in controls for name in names)
