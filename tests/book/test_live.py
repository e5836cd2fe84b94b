"""DIVER in the reader's browser gives what the package gives, and keeps its temper."""

import functools
import http.server
import shutil
import threading
import time

import check_book
import live_page
import pytest
import torch

from diver_lite.priors.loading import load_prior
from diver_lite.priors.schedule import draw_noise
from diver_lite.recovery import RecoveryConfig, recover
from diver_lite.sets.load import load_distilled

DEFAULT = "scale=1.5&factor=0.1"
PUBLISHED = "t=510&steps=20&start=published&target=latent&scale=4&factor=0.1&clip=false"
SHORT = "t=400&steps=10&high=1000&low=-1&factor=0.3&scale=1&target=latent"
SETTINGS = {  # of a link -> the same of RecoveryConfig
    DEFAULT: RecoveryConfig(),
    PUBLISHED: RecoveryConfig.published(num_inference_steps=20),
    SHORT: RecoveryConfig(
        num_inference_steps=10,
        noise_timestep=400,
        window="full",
        guidance_factor=0.3,
        guidance_scale=1.0,
        guidance_target="latent",
    ),
}
PICTURES = {  # one of a set with pixels far outside [0, 1], one of a large set
    "fashion-mnist": ("fashion-mnist-dm-ipc1", 5),
    "cifar10": ("cifar10-mtt-ipc10", 37),
}
COMPLAINT = "playPage.find('.live-message').textContent"
DONE = "!playPage.job && playPage.slots.every((s, i) => s.done === playPage.key(i))"


def write_page(folder, static="_static/live"):
    """Write the page by itself, as the book holds it."""
    (folder / "book").mkdir()
    html = live_page.page_html("play", f"../{static}")
    start = "<!doctype html><meta charset='utf-8'><link rel='icon' href='data:,'>"
    start += "<meta name='viewport' content='width=device-width'>"
    # the width of a page of the book, below its bar
    start += "<body class='bd-content' style='max-width: 720px; margin-top: 3rem'>"
    (folder / "book" / "play.html").write_text(start + html)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = write_page(tmp_path_factory.mktemp("site"))
    live = folder / "_static" / "live"
    shutil.copytree(live_page.SOURCES, live)
    if missing := live_page.write_live_files(live):
        pytest.skip(f"the live page's files could not be made: {missing}")
    return folder


@pytest.fixture
def server(site):
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def visit(tab, address, settings=""):
    tab.goto("about:blank")  # a new hash alone opens nothing
    tab.goto(f"{address}/book/play.html#{settings}")
    wait_until_open(tab)


def wait_until_open(tab):
    ready = "!!window.playPage && document.readyState === 'complete'"
    tab.wait_for_function(ready, timeout=60_000)


def wait(tab, seconds=300):
    """Wait for the end of a run, or for a complaint, and return it."""
    ended = f"({DONE}) || {COMPLAINT}"
    tab.wait_for_function(ended, timeout=1000 * seconds, polling=100)
    return tab.evaluate(COMPLAINT)


def becomes(tab, script, seconds=10):
    """Wait until a script in the page gives what is true; fail if it never does."""
    tab.wait_for_function(script, timeout=1000 * seconds)


def run(tab):
    tab.evaluate("playPage.form.requestSubmit()")
    return wait(tab)


def recovered(tab, slot=0):
    pixels = tab.evaluate(f"[...playPage.slots[{slot}].recovered]")
    return torch.tensor(pixels).view(3, 32, 32)


def expected(prior_name, config, seed=0, picture=None):
    """What the package makes of the same picture, from the noise of its index."""
    prior = load_prior(prior_name)
    name, index = picture or PICTURES[prior_name]
    noise = draw_noise(prior.latent_shape, [index], seed)
    one = load_distilled(name)[[index]]
    return recover(one, prior, config, noise=noise, progress=False).images[0]


def complaints(heard, address):
    """What was heard, but that a page asks its own server."""
    return [c for c in heard if not c.startswith(f"network request: {address}/")]


@pytest.mark.parametrize(
    ("transport", "prior"), [("file", "cifar10"), ("server", "fashion-mnist")]
)
def test_the_page_recovers_what_the_package_recovers(
    site, server, tab, heard, prior, transport
):
    address = server if transport == "server" else site.as_uri()
    name, index = PICTURES[prior]
    link = f"prior={prior}&set={name}&image={index}"
    visit(tab, address, link)
    for settings, config in SETTINGS.items():
        # in the same page: the networks are loaded once
        tab.evaluate(f"location.hash = {f'{link}&{settings}'!r}")
        assert run(tab) == ""
        error = (recovered(tab) - expected(prior, config)).abs().max()
        assert error < 2e-3, settings
    assert complaints(heard, address) == []


@pytest.fixture
def garments(site, tab):
    """A page that has loaded the garments, and run two steps."""
    visit(tab, site.as_uri(), "prior=fashion-mnist&steps=2")
    assert run(tab) == ""
    return tab


def test_a_change_while_it_runs_starts_again_at_once(garments):
    garments.evaluate("""
      const receive = playPage.receive.bind(playPage);
      window.last = {};
      playPage.receive = (data) => {
        if (data.type === "step") last[data.id] = data.k;
        receive(data);
      };
      location.hash = 'steps=200&t=999&seed=1';
    """)
    garments.wait_for_function("Object.keys(last).length")
    assert garments.evaluate("playPage.job !== null")
    # what is written into the address meanwhile takes no change back
    garments.evaluate("""
      const before = location.hash;
      location.hash = 'steps=10&t=400&seed=7';
      history.replaceState(null, '', before);
    """)
    assert wait(garments) == ""
    abandoned, finished = garments.evaluate("Object.values(last)")
    assert abandoned < 199  # the worker left it, too
    assert finished == 4  # 400, and the four of 0, 100, ..., 900 below it
    config = RecoveryConfig(num_inference_steps=10, noise_timestep=400)
    picture = ("fashion-mnist-dm-ipc1", 0)
    found = expected("fashion-mnist", config, seed=7, picture=picture)
    assert (recovered(garments) - found).abs().max() < 2e-3


def test_stop_stops(garments):
    garments.evaluate("location.hash = 'steps=250&t=999'")
    garments.evaluate("playPage.get('stop').click()")
    assert garments.evaluate("playPage.job") is None
    assert (
        garments.evaluate("playPage.find('.live-announce').textContent") == "Stopped."
    )
    time.sleep(0.5)
    assert garments.evaluate("playPage.slots[0].done") is None
    garments.evaluate("location.hash = 'steps=2'")
    assert run(garments) == ""  # and it can go on


def test_two_settings_have_the_same_noise_and_a_link(garments):
    garments.evaluate("location.hash = 'steps=4&seed=3&b.steps=4&b.factor=0.5'")
    assert wait(garments) == ""
    first, second = recovered(garments, 0), recovered(garments, 1)
    link = garments.evaluate("playPage.get('link').value")
    garments.evaluate(f"location.href = {link!r}")
    assert wait(garments) == ""
    assert torch.equal(recovered(garments, 1), second)
    assert not torch.equal(first, second)
    config = RecoveryConfig(num_inference_steps=4, guidance_factor=0.5)
    picture = ("fashion-mnist-dm-ipc1", 0)
    found = expected("fashion-mnist", config, seed=3, picture=picture)
    assert (second - found).abs().max() < 2e-3


def test_every_step_can_be_looked_at_afterwards(garments):
    garments.evaluate("location.hash = 'steps=20'")
    assert wait(garments) == ""
    script = """(async () => {
      const slot = playPage.slots[0], alts = [];
      for (let k = 0; k < slot.visited.length; k++) {
        slot.range.value = k;
        slot.range.dispatchEvent(new Event("input", {bubbles: true}));
        for (let i = 0; i < 200 && !slot.pictures[k]; i++)
          await new Promise((done) => setTimeout(done, 20));
        alts.push(slot.predicted.canvas.getAttribute("aria-label"));
      }
      return {alts, visited: slot.visited};
    })()"""
    seen = garments.evaluate(script)
    assert len(seen["alts"]) == 15  # 700 and the fourteen of 0, 50, ..., 950 below it
    for alt, timestep in zip(seen["alts"][:-1], seen["visited"], strict=False):
        assert f"t = {timestep}," in alt
    assert seen["alts"][-1] == "Recovered picture: T-shirt"


def test_a_drawing_by_keyboard_is_recovered(garments):
    garments.evaluate("location.hash = 'kind=drawing&class=9&steps=4'")
    assert wait(garments) == ""  # of the boot that is there
    garments.evaluate("playPage.get('clear').click()")
    assert wait(garments) == "The drawing is empty: draw something first."
    garments.evaluate("""
      for (const key of [" ", "ArrowLeft", "ArrowLeft", "ArrowDown", " "])
        playPage.find(".live-pad").dispatchEvent(
          new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}))
    """)
    assert run(garments) == ""
    label = garments.evaluate("playPage.distilled.canvas.getAttribute('aria-label')")
    assert label == "Drawn picture: Ankle boot"
    pixels = garments.evaluate("(async () => [...await playPage.pixels()])()")
    image = torch.tensor(pixels).view(3, 32, 32)
    assert image[:, 17, 14].min() > 0.5  # left of the middle, where the brush went
    assert image[:, 17, 18].max() < 0.1
    assert image[:, :2].max() == 0  # the border of a padded garment


REFUSED = {  # link -> what of it isn't there
    "t=2000": "t=2000",
    "seed=1.5&factor=much": "factor=much, seed=1.5",
    "prior=faces&class=77&colour=red": "prior=faces, class=77, colour=red",
    "set=fashion-mnist-dm-ipc1": "set=fashion-mnist-dm-ipc1",
    "prior=constructor": "prior=constructor",
    "image=10&b.scale=0": "image=10, b.scale=0",
}


def test_a_link_that_asks_for_what_is_not_there(site, tab):
    for link, refused in REFUSED.items():
        visit(tab, site.as_uri(), link)
        message = tab.evaluate("playPage.find('.live-message').textContent")
        assert f"doesn't have: {refused}. There it took what is recommended." in message
        assert tab.evaluate("playPage.valueOf('t')") == 700, link


def test_ends_of_a_window_that_cross(site, tab):
    visit(tab, site.as_uri(), "high=300&low=600")
    assert "must begin at the larger one" in run(tab)
    assert tab.evaluate("playPage.worker") is None  # nothing was loaded for it


@pytest.mark.parametrize("name", ["seed", "t"])
def test_a_number_out_of_range(site, tab, name):
    visit(tab, site.as_uri())
    tab.evaluate(f"playPage.inputSetting({name!r}, '-1')")
    message = tab.evaluate("playPage.find('.live-message').textContent")
    assert "is “-1”; it must be a whole number from 0 to" in message


def test_a_file_that_is_no_picture(site, tab):
    visit(tab, site.as_uri(), "kind=file")
    assert run(tab) == "There is no picture yet: choose a file first."
    tab.evaluate("playPage.readFile(new File(['no'], 'notes.txt'))")
    message = tab.evaluate("playPage.find('.live-message').textContent")
    assert message.startswith("“notes.txt” is no picture that this browser can read")


def test_a_picture_file_is_cut_to_its_middle_square(site, tab):
    visit(tab, site.as_uri(), "kind=file&prior=cifar10")
    tab.evaluate("""(async () => {
      const canvas = new OffscreenCanvas(90, 30), context = canvas.getContext("2d");
      context.fillStyle = "#f00";
      context.fillRect(0, 0, 90, 30);
      context.fillStyle = "#00f";
      context.fillRect(30, 0, 30, 30);
      await playPage.readFile(await canvas.convertToBlob());
    })()""")
    pixels = tab.evaluate("(async () => [...await playPage.pixels()])()")
    image = torch.tensor(pixels).view(3, 32, 32)
    assert image[2].min() > 0.9
    assert image[:2, :, 2:-2].max() < 0.1


def test_an_interrupted_load_goes_on_where_it_stopped(site, tab, tmp_path):
    copy = shutil.copytree(site, tmp_path / "copy")
    lost = copy / "_static" / "live" / "prior-fashion-mnist-1.js"
    content = lost.read_bytes()
    lost.unlink()
    visit(tab, copy.as_uri(), "prior=fashion-mnist&steps=2")
    assert run(tab) == (
        "The load was interrupted: part 2 of prior-fashion-mnist did not arrive. Press "
        "run to go on from there."
    )
    lost.write_bytes(content)
    assert run(tab) == ""


@pytest.mark.parametrize(
    ("browser", "sentence"),
    [
        ("WebAssembly.validate = () => false", "no WebAssembly with SIMD"),
        ("delete window.DecompressionStream", "can't unpack compressed data"),
    ],
)
def test_a_browser_that_lacks_something(site, tab, browser, sentence):
    tab.add_init_script(browser)
    visit(tab, site.as_uri())
    note = tab.evaluate("playPage.find('.live-missing').textContent")
    assert sentence in note
    assert tab.evaluate("playPage.form.hidden")


def test_too_little_memory(garments):
    garments.evaluate("playPage.failed('RangeError: Array buffer allocation failed')")
    message = garments.evaluate("playPage.find('.live-message').textContent")
    assert message.startswith("This browser has too little memory for the networks")
    assert run(garments) == ""  # it loads anew


def test_a_graphics_card_that_fails_is_not_asked_again(site, tab):
    """Headless Chromium here has none: what comes next is what a broken one causes."""
    visit(tab, site.as_uri(), "prior=fashion-mnist&steps=2")
    tab.evaluate("playPage.runtime = 'webgpu'")
    assert run(tab) == ""
    assert tab.evaluate("playPage.runtime") == "wasm"


def test_a_book_without_the_files_says_what_is_missing(
    tab, heard, tmp_path, monkeypatch
):
    def unavailable():
        raise live_page.Unavailable("npm is not installed")

    monkeypatch.setattr(live_page, "live_files", unavailable)
    live = tmp_path / "_static" / "live"
    shutil.copytree(live_page.SOURCES, live)
    assert live_page.write_live_files(live) == "npm is not installed"
    visit(tab, write_page(tmp_path).as_uri())
    note = tab.evaluate("playPage.find('.live-missing').textContent")
    assert "built without the networks that run in the browser: npm is not" in note
    assert heard == []
    assert sum(file.stat().st_size for file in live.iterdir()) < 100_000


# ---------------------------------------------------------------- nothing stale

STALE = """playPage.slots.map((slot) => [slot.noisy, slot.predicted].map(
  ({canvas}) => canvas.width > 1))"""
CHANGES = {  # of settings -> what is said of them; the last leaves nothing drawn
    "playPage.stop(''); playPage.inputSetting('seed', '5')": "",
    "playPage.inputSetting('seed', '-1')": "The seed is “-1”",
    "location.hash = 'high=300&low=600'": "must begin at the larger one",
    "playPage.failed('the worker is gone')": "It did not work",
    "playPage.get('clear').click()": "The drawing is empty",
}


def test_no_old_picture_stands_beside_other_settings(garments):
    for change, complaint in CHANGES.items():
        garments.evaluate("location.hash = 'kind=drawing&steps=2&b.steps=3'")
        assert run(garments) == "", change
        assert garments.evaluate(STALE) == [[True, True]] * 2, change
        if complaint.startswith("It did"):  # an error while it runs
            long = "kind=drawing&steps=250&b.steps=250&t=999"
            garments.evaluate(f"location.hash = '{long}'")
            becomes(garments, "playPage.job !== null")
        garments.evaluate(f"{change}; 0")
        becomes(garments, f"{COMPLAINT}.includes({complaint!r})")
        becomes(garments, f"!{STALE}.flat().some(Boolean)")
        assert garments.evaluate("playPage.get('download').disabled"), change


def test_a_file_that_is_no_picture_takes_the_one_before_along(garments):
    garments.evaluate("""(async () => {
      const canvas = new OffscreenCanvas(30, 30);
      canvas.getContext("2d").fillRect(0, 0, 9, 9);
      location.hash = "kind=file&steps=2";
      await playPage.readFile(await canvas.convertToBlob());
    })()""")
    assert run(garments) == ""
    garments.evaluate("playPage.readFile(new File(['no'], 'notes.txt'))")
    becomes(garments, f"{COMPLAINT}.includes('is no picture')")
    figures = "[playPage.distilled, playPage.vaeOnly, playPage.slots[0].predicted]"
    becomes(garments, f"{figures}.every(({{canvas}}) => canvas.width === 1)")


def test_the_sketch_is_of_a_class_that_the_prior_knows(site, tab):
    visit(tab, site.as_uri(), "prior=cifar10")
    choose = """
      playPage.get("{0}").value = "{1}";
      playPage.get("{0}").dispatchEvent(new Event("input", {{bubbles: true}}));
    """
    label = "playPage.get('class').selectedOptions[0].text"
    tab.evaluate(choose.format("kind", "drawing"))
    car = tab.evaluate("playPage.own.drawing.toDataURL()")
    assert tab.evaluate(label) == "automobile"
    tab.evaluate(choose.format("prior", "fashion-mnist"))
    assert tab.evaluate(label) == "Ankle boot"
    assert tab.evaluate("playPage.own.drawing.toDataURL()") != car
    tab.evaluate("playPage.pad.fill('#fff')")  # what the reader draws stays
    mine = tab.evaluate("playPage.own.drawing.toDataURL()")
    tab.evaluate(choose.format("prior", "cifar10"))
    assert tab.evaluate("playPage.own.drawing.toDataURL()") == mine


def test_a_finger_draws_and_moves_nothing(site, phone):
    visit(phone, site.as_uri(), "prior=fashion-mnist&kind=drawing&steps=2")
    assert run(phone) == ""
    phone.evaluate("scrollTo({top: 300, behavior: 'instant'})")
    # where the pad is while it is drawn on, and after the picture has been recovered
    pad = "playPage.find('.live-pad').getBoundingClientRect()"
    place = f"(({{x, y}}) => [x, y, scrollY].map(Math.round))({pad})"
    phone.evaluate("document.documentElement.style.overflowAnchor = 'none'")
    before = phone.evaluate(place)
    phone.evaluate(f"""
      window.places = [];
      const look = () => {{ places.push({place}); requestAnimationFrame(look); }};
      look();
    """)
    x, y = before[0] + 128, before[1] + 200
    touch = phone.context.new_cdp_session(phone)
    for kind, up in [("touchStart", 0), *[("touchMove", i) for i in range(0, 180, 20)]]:
        event = {"type": kind, "touchPoints": [{"x": x, "y": y - up}]}
        touch.send("Input.dispatchTouchEvent", event)
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert wait(phone) == ""
    assert phone.evaluate("playPage.pad.touched")
    assert phone.evaluate("[...new Set(places.map(String))]") == [
        ",".join(f"{v:g}" for v in before)
    ]


# ---------------------------------------------------------------- it shows, then asks

# mean absolute difference of what two figures show, of 1
DIFFERENCE = """(a, b) => {
  const pixels = ({canvas}) => canvas.getContext("2d").getImageData(
    0, 0, canvas.width, canvas.height).data.filter((_, i) => i % 4 < 3);
  const [one, other] = [pixels(a), pixels(b)];
  return one.reduce((sum, v, i) => sum + Math.abs(v - other[i]), 0) / one.length / 255;
}"""


def text(tab, selector):
    return tab.evaluate(f"playPage.find({selector!r}).textContent")


def shown(tab, seconds=10):
    """Wait until a recovered picture is there, and return what is said of it."""
    picture = "playPage.slots[0].predicted.canvas.width > 1"
    tab.wait_for_function(picture, timeout=1000 * seconds)
    return text(tab, ".live-time output")


def says(tab, sentence):
    """Wait until the page says this of the picture that it shows."""
    said = "playPage.find('.live-time output').textContent"
    becomes(tab, f"{said} === {sentence!r}")


def test_a_result_is_there_at_once_and_follows_the_noise_level(site, tab, heard):
    visit(tab, site.as_uri())
    assert shown(tab) == "noise level 700: a stored result"
    tab.evaluate("window.first = playPage.slots[0].predicted.canvas.toDataURL()")
    drag = """
      playPage.get("t").value = 130;
      playPage.get("t").dispatchEvent(new Event("input", {bubbles: true}));
    """
    tab.evaluate(drag)
    says(tab, "a stored result for noise level 150; run for 130")
    becomes(tab, "first !== playPage.slots[0].predicted.canvas.toDataURL()")
    assert tab.evaluate("playPage.worker") is None  # nothing was loaded for it
    tab.evaluate("playPage.inputSetting('scale', '2')")
    says(tab, "not computed yet: press run")
    becomes(tab, "playPage.slots[0].predicted.canvas.width === 1")
    assert heard == []


def test_a_stored_picture_is_what_the_package_recovers(site, tab):
    visit(tab, site.as_uri(), "prior=fashion-mnist&image=8&t=150")
    assert shown(tab) == "noise level 150: a stored result"
    pixels = tab.evaluate("""[...playPage.slots[0].predicted.canvas.getContext("2d")
      .getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0)""")
    found = torch.tensor(pixels).view(28, 28) / 255
    config = RecoveryConfig(noise_timestep=150)
    picture = ("fashion-mnist-dm-ipc1", 8)
    image = expected("fashion-mnist", config, picture=picture)[0, 2:-2, 2:-2]
    assert (found - image).abs().mean() < 0.02  # WebP loses a little


def test_a_prior_brings_what_recover_takes_for_it(site, tab):
    visit(tab, site.as_uri(), "prior=fashion-mnist&factor=0.5&t=100")
    for name in ("cifar10", "fashion-mnist"):
        tab.evaluate(f"""
          playPage.get("prior").value = {name!r};
          playPage.get("prior").dispatchEvent(new Event("input", {{bubbles: true}}));
        """)
        advice = RecoveryConfig.recommended(load_prior(name))
        for shown_as, field in [
            ("t", "noise_timestep"),
            ("factor", "guidance_factor"),
            ("scale", "guidance_scale"),
            ("steps", "num_inference_steps"),
        ]:
            assert tab.evaluate(f"playPage.valueOf({shown_as!r})") == getattr(
                advice, field
            )
        pressed = "[...document.querySelectorAll('[aria-pressed=true]:not([hidden])')]"
        names = tab.evaluate(f"{pressed}.map((button) => button.textContent)")
        assert names == ["recommended"]


def test_another_prior_is_not_loaded_unasked(garments):
    garments.evaluate("""
      playPage.get("prior").value = "cifar10";
      playPage.get("prior").dispatchEvent(new Event("input", {bubbles: true}));
    """)
    says(garments, "noise level 700: a stored result")
    assert garments.evaluate("playPage.busy ?? null") is None
    size = garments.evaluate("playPage.toLoad()")
    assert text(garments, "[name=run]") == f"Load {size / 1e6:.0f} MB and run"
    garments.evaluate("location.hash = 'prior=fashion-mnist&steps=3'")
    assert wait(garments) == ""  # what is here still runs by itself


def test_the_form_tells_the_truth_after_back(site, tab):
    visit(tab, site.as_uri())
    tab.evaluate("playPage.inputSetting('t', '250')")
    tab.evaluate("playPage.inputSetting('seed', '4')")
    becomes(tab, "/t=250/.test(location.hash) && /seed=4/.test(location.hash)")
    tab.goto("about:blank")
    tab.go_back()
    wait_until_open(tab)
    for name, value in [("t", 250), ("seed", 4)]:
        assert tab.evaluate(f"playPage.valueOf({name!r})") == value
        assert tab.evaluate(f"playPage.get({name!r}).value") == str(value)


def test_every_try_visibly_does_what_it_says(site, tab, heard):
    """Before and after, or A and B, differ by more than a tenth of black to white."""
    visit(tab, site.as_uri())
    tries = tab.evaluate("document.querySelectorAll('.live-try').length")
    assert tries >= 4
    for i in range(tries):
        tab.evaluate(f"document.querySelectorAll('.live-try')[{i}].click()")
        assert wait(tab) == ""
        difference = tab.evaluate(f"""
          ({DIFFERENCE})(...(playPage.slots.length === 1
            ? [playPage.vaeOnly, playPage.slots[0].predicted]
            : playPage.slots.map((slot) => slot.predicted)))""")
        assert difference > 0.1, i
        if "comes back" in text(tab, ".live-say"):  # B is the picture that went in
            back = "playPage.vaeOnly, playPage.slots[1].predicted"
            assert tab.evaluate(f"({DIFFERENCE})({back})") < 0.05
        assert text(tab, ".live-say")
        assert tab.evaluate("[...document.querySelectorAll('[aria-current]')].length")
    assert heard == []


# ---------------------------------------------------------------- checks that can fail


def write_checked(folder, body):
    path = folder / "page.html"
    icon = "<link rel='icon' href='data:,'>"
    path.write_text(f"<!doctype html><meta charset='utf-8'>{icon}<main>{body}</main>")
    return path.as_uri()


def test_text_that_can_hardly_be_read_is_found(tab, tmp_path):
    pale = "<style>html {{background: #fff}} p {{color: {}}}</style><p>words</p>"
    tab.goto(write_checked(tmp_path, pale.format("#bbb")))
    light, dark = check_book.contrast_complaints(tab)
    assert light.startswith("contrast 1.91 instead of 4.5:1 in the light theme: <p>")
    assert "in the dark theme" in dark
    tab.goto(write_checked(tmp_path, pale.format("#555")))
    assert check_book.contrast_complaints(tab) == []


def test_a_picture_and_its_slider_are_on_one_screen(site, tab):
    path = site / "book" / "play.html"
    tab.goto(path.as_uri())
    assert check_book.live_complaints(tab, path) == []
    apart = path.with_name("apart.html")
    style = "<style>.live-stage {position: static !important; margin-bottom: 90vh}"
    apart.write_text(path.read_text() + style)
    found = check_book.live_complaints(tab, apart)
    assert any("picture off a screen of 390 x 844 px scrolled" in one for one in found)


@pytest.mark.parametrize(
    ("style", "complaint"),
    [
        (
            ".live-stage input {width: 82px !important}",
            "slider is 82 px wide, the pict",
        ),
        (
            ".live-stage input {margin-top: 60px !important}",
            "slider is 60 px below the",
        ),
        (".live-stage {padding-bottom: 90px}", "of a screen of 390 x 844 px"),
        ("details::details-content {content-visibility: visible}", "factor isn't fold"),
    ],
)
def test_a_live_page_that_is_laid_out_badly(site, tab, style, complaint):
    path = site / "book" / "play.html"
    bad = path.with_name("bad.html")
    bad.write_text(f"{path.read_text()}<style>{style}</style>")
    tab.goto(bad.as_uri())
    found = check_book.live_complaints(tab, bad)
    assert any(complaint in one for one in found), found
