// The page "Play with DIVER": controls, pictures, and what travels to and from the
// worker. The algorithm is in diver.js, the networks are in worker.js; LIVE (the
// manifest of what can be loaded, and the worker's text) is written by the build.
"use strict";

// Scripts of a bundle call Live.part(bundle, number, text).
const awaited = {};
const Live = {part: (bundle, number, text) => awaited[`${bundle}-${number}`]?.(text)};

const CONTROLS = {
  t: {field: "noiseTimestep", label: "noise level", min: 0, max: 999, step: 1},
  factor: {field: "guidanceFactor", label: "guidance factor", min: 0, max: 1, step: 0.01},
  high: {field: "high", label: "window begins at", min: -1, max: 1000, step: 1},
  low: {field: "low", label: "window ends at", min: -1, max: 1000, step: 1},
  scale: {field: "guidanceScale", label: "guidance scale", min: 1, max: 10, step: 0.1},
  steps: {field: "numInferenceSteps", label: "steps", min: 1, max: 250, step: 1},
  seed: {field: "seed", label: "seed", min: 0, max: 2 ** 31 - 1, step: 1, typed: true},
  start: {field: "start", label: "start", choices: ["matched", "published"]},
  target: {field: "guidanceTarget", label: "pull on", choices: ["x0", "latent"]},
  clip: {field: "clipInput", label: "clip pixels to [0, 1]", choices: [true, false]},
};
const PRESETS = {
  default: {},
  published: Diver.PUBLISHED,
  quick: {numInferenceSteps: 10, guidanceFactor: 0.22},
};
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1,
  8, 0, 65, 0, 253, 15, 253, 98, 11];  // a module that uses it
const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
const shipped = (name) => name.replace(/^(fashion-mnist|cifar10)-/, "").replace(
  /^(\w+)(-real)?-ipc(\d+)$/, (_, method, real, ipc) =>
    `${method.toUpperCase()}${real ? " (from real pictures)" : ""}, ${ipc} per class`);

// ---------------------------------------------------------------- loading

const received = {};  // bundle -> how many of its parts have come

// Load a bundle's scripts one after the other; go on where a load was interrupted.
async function loadBundle(name, take) {
  const {parts} = LIVE.manifest.bundles[name];
  for (let number = received[name] ?? 0; number < parts; number++) {
    const text = await loadPart(name, number);
    take(text, number === parts - 1);
    received[name] = number + 1;
  }
}

function loadPart(name, number) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const end = (why) => () => {  // comes to nothing where the part has arrived
      script.remove();
      delete awaited[`${name}-${number}`];
      reject(new Error(`part ${number + 1} of ${name} ${why}`));
    };
    awaited[`${name}-${number}`] = resolve;
    script.onload = end("is damaged");
    script.onerror = end("did not arrive");
    script.src = `${LIVE.folder}${name}-${number}.js`;
    document.head.append(script);
  });
}

function unpackHalves(buffer) {
  const halves = new Uint16Array(buffer);
  return Float32Array.from(halves, (h) => {
    const exponent = (h >> 10) & 31, fraction = h & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity)
        : (1 + fraction / 1024) * 2 ** (exponent - 15);
    return h & 0x8000 ? -size : size;
  });
}

const sets = {};  // name -> promise of Float32Array (N, 1 or 3, S, S)
function loadSet(name) {
  sets[name] ??= fetchSet(name).catch((error) => {
    delete sets[name];
    throw error;
  });
  return sets[name];
}

async function fetchSet(name) {
  const pieces = [];
  await loadBundle(`set-${name}`, (text) => {
    const binary = atob(text), bytes = new Uint8Array(binary.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
    pieces.push(bytes);
  });
  const unzip = new DecompressionStream("gzip");
  const stream = new Blob(pieces).stream().pipeThrough(unzip);
  return unpackHalves(await new Response(stream).arrayBuffer());
}

// ---------------------------------------------------------------- pictures

// Paint one image (3, S, S), floats of which [0, 1] shows, without its border.
function paint(canvas, pixels, size, border) {
  const side = size - 2 * border, plane = size * size;
  const picture = new ImageData(side, side);
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      const from = (y + border) * size + x + border, to = 4 * (y * side + x);
      for (let c = 0; c < 3; c++) picture.data[to + c] = 255 * pixels[c * plane + from];
      picture.data[to + 3] = 255;
    }
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

// Read (3, S, S) in [0, 1] from anything that can be drawn, cut to its middle square.
function readPixels(drawable, size, border, grey) {
  const side = size - 2 * border, plane = size * size;
  const square = Math.min(drawable.width, drawable.height);
  const left = (drawable.width - square) / 2, top = (drawable.height - square) / 2;
  let canvas = document.createElement("canvas");
  canvas.width = canvas.height = Math.min(square, 1024);
  let context = canvas.getContext("2d");
  context.drawImage(drawable, left, top, square, square, 0, 0, canvas.width, canvas.width);
  while (canvas.width > side) {  // by halves, or fine detail would alias
    const smaller = document.createElement("canvas");
    smaller.width = smaller.height = Math.max(side, Math.ceil(canvas.width / 2));
    context = smaller.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(canvas, 0, 0, smaller.width, smaller.width);
    canvas = smaller;
  }
  const scaled = document.createElement("canvas");
  scaled.width = scaled.height = side;
  context = scaled.getContext("2d");
  context.drawImage(canvas, 0, 0, side, side);
  const {data} = context.getImageData(0, 0, side, side);
  const pixels = new Float32Array(3 * plane);
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      const from = 4 * (y * side + x), to = (y + border) * size + x + border;
      const [r, g, b] = data.subarray(from, from + 3);
      const luma = 0.299 * r + 0.587 * g + 0.114 * b;
      [r, g, b].forEach((v, c) => (pixels[c * plane + to] = (grey ? luma : v) / 255));
    }
  return pixels;
}

// ---------------------------------------------------------------- the page

class PlayPage {
  constructor(root) {
    this.root = root;
    this.form = root.querySelector("form");
    this.controls = {};
    this.state = {
      prior: "fashion-mnist", kind: "set", set: "fashion-mnist-dm-ipc1", image: 0,
      class: 0, seed: 0,
    };
    this.settings = [{...Diver.DEFAULTS}];  // A, and B where two are compared
    this.slot = 0;
    this.slots = [];  // what the page shows of each
    this.own = {drawing: null, file: null};  // pictures of the reader's, any canvas
    this.version = 0;  // of these pictures
    this.started = false;  // the reader has pressed run
    this.id = 0;
    this.job = null;
    this.opened = new Set();
    this.fallback = false;
  }

  get(name) { return this.form.elements[name]; }
  get info() { return LIVE.manifest.priors[this.state.prior]; }
  get border() { return this.info.imageFit === "pad" ? 2 : 0; }
  find(selector) { return this.root.querySelector(selector); }

  begin() {
    const missing = this.missing();
    const note = this.find(".live-missing");
    note.hidden = !missing;
    note.textContent = missing;
    if (missing) return;
    this.form.hidden = false;
    this.buildControls();
    this.complain(this.readHash());
    this.listen();
    this.addSlots();
    this.showState();
    window.addEventListener("hashchange", () => {
      if (location.hash === this.hash()) return;
      const refused = this.readHash();
      this.addSlots();
      this.changed();
      this.complain(refused);
    });
  }

  missing() {
    if (!LIVE.manifest)
      return "This copy of the book was built without the networks that run in the " +
        `browser: ${LIVE.missing}. “make book” on a machine with npm and a network adds ` +
        "them; until then the notebooks do the same in JupyterLab.";
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(SIMD)))
      return "This browser has no WebAssembly with SIMD, which the networks need. Any " +
        "Chrome, Firefox or Edge since 2021 or Safari since 2023 has it.";
    if (typeof DecompressionStream !== "function")
      return "This browser can't unpack compressed data by itself, which this page " +
        "needs. Any Chrome, Firefox, Edge or Safari since May 2023 can.";
    return "";
  }

  // ------------------------------------------------------------ controls

  buildControls() {
    for (const [name, {title}] of Object.entries(LIVE.manifest.priors))
      this.get("prior").add(new Option(title, name));
    const grid = this.find(".live-controls");
    for (const [name, spec] of Object.entries(CONTROLS)) {
      const label = document.createElement("label");
      const text = document.createElement("span");
      text.textContent = spec.label;
      label.append(text);
      let input;
      if (spec.choices) {
        input = document.createElement("select");
        for (const choice of spec.choices) {
          const shown = {true: "yes", false: "no"}[choice] ?? choice;
          input.add(new Option(shown, choice));
        }
        label.append(input);
      } else {
        input = document.createElement("input");
        input.type = spec.typed ? "number" : "range";
        Object.assign(input, {min: spec.min, max: spec.max, step: spec.step});
        const value = document.createElement("output");
        label.append(input, value);
      }
      input.name = name;
      this.controls[name] = input;
      grid.append(label);
    }
  }

  valueOf(name) {
    const [high, low] = this.settings[this.slot].window;
    if (name === "seed") return this.state.seed;
    if (name === "high" || name === "low") return name === "high" ? high : low;
    return this.settings[this.slot][CONTROLS[name].field];
  }

  setValue(name, value, slot = this.slot) {
    const config = this.settings[slot];
    if (name === "seed") this.state.seed = value;
    else if (name === "high") config.window = [value, config.window[1]];
    else if (name === "low") config.window = [config.window[0], value];
    else config[CONTROLS[name].field] = value;
  }

  // The controls, from the state.
  showState() {
    const {state} = this;
    for (const name of ["prior", "kind"]) this.get(name).value = state[name];
    this.fillSelect("class", this.info.classNames, state.class);
    const own = Object.entries(LIVE.manifest.sets).filter(
      ([, {prior}]) => prior === state.prior).map(([name]) => name);
    this.get("set").replaceChildren(...own.map((name) => new Option(shipped(name), name)));
    this.get("set").value = state.set;
    const {labels} = LIVE.manifest.sets[state.set];
    const titles = labels.map((label, i) => `${i}: ${this.info.classNames[label]}`);
    this.fillSelect("image", titles, state.image);
    for (const part of this.root.querySelectorAll("[data-kind]"))
      part.hidden = part.dataset.kind !== state.kind;
    for (const [name, input] of Object.entries(this.controls)) {
      input.value = this.valueOf(name);
      const output = input.parentElement.querySelector("output");
      if (output && !CONTROLS[name].typed) output.textContent = this.valueOf(name);
    }
    const two = this.settings.length === 2;
    this.get("compare").checked = two;
    this.find(".live-slots").hidden = !two;
    for (const radio of this.root.querySelectorAll("[name=slot]"))
      radio.checked = Number(radio.value) === this.slot;
    this.get("link").value = location.href.split("#")[0] + this.hash();
    this.nameButton();
    this.showTimelines();
    this.showSource();
  }

  fillSelect(name, titles, chosen) {
    const select = this.get(name), wanted = titles.join("\n");
    if (select.dataset.titles !== wanted) {
      select.replaceChildren(...titles.map((title, i) => new Option(title, i)));
      select.dataset.titles = wanted;
    }
    select.value = chosen;
  }

  nameButton() {
    const bytes = this.toLoad();
    this.get("run").textContent = bytes ? `Load ${megabytes(bytes)} MB and run` : "Run";
  }

  listen() {
    const {form, state} = this;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.started = true;
      this.changed();
    });
    form.addEventListener("input", (event) => this.input(event.target));
    this.get("stop").addEventListener("click", () => this.stop("Stopped."));
    for (const button of form.querySelectorAll("[data-preset]"))
      button.addEventListener("click", () => {
        const preset = PRESETS[button.dataset.preset];
        this.settings[this.slot] = {...Diver.DEFAULTS, ...preset};
        this.changed();
      });
    this.get("download").addEventListener("click", () => this.download());
    this.get("copy").addEventListener("click", () => this.copyLink());
    const sheet = this.find(".live-sheet canvas");
    sheet.addEventListener("click", (event) => {
      const box = sheet.getBoundingClientRect(), {columns, count} = this.sheet;
      const x = Math.floor(((event.clientX - box.left) / box.width) * columns);
      const rows = Math.ceil(count / columns);
      const y = Math.floor(((event.clientY - box.top) / box.height) * rows);
      if (y * columns + x < count) this.choose(y * columns + x);
    });
    const drop = this.find(".live-drop");
    for (const name of ["dragover", "drop"])
      drop.addEventListener(name, (event) => event.preventDefault());
    drop.addEventListener("drop", (event) => this.readFile(event.dataTransfer.files[0]));
    new DrawingPad(this.find(".live-pad"), form, (canvas) => {
      this.own.drawing = canvas;
      this.version += 1;
      if (state.kind === "drawing") this.changed();
    });
  }

  input(target) {
    const {state} = this, {name, value} = target;
    if (name in this.controls) return this.inputSetting(name, value);
    if (name === "prior") this.choosePrior(value);
    else if (name === "kind") state.kind = value;
    else if (name === "class") state.class = Number(value);
    else if (name === "set") {
      state.set = value;
      return this.choose(Math.min(state.image, this.count - 1));
    } else if (name === "image") return this.choose(Number(value));
    else if (name === "file") return this.readFile(target.files[0]);
    else if (name === "slot") this.slot = Number(value);
    else if (name === "compare") {
      this.settings = target.checked ? [this.settings[0], {...this.settings[0]}]
        : [this.settings[0]];
      this.slot = target.checked ? 1 : 0;
      this.addSlots();
    } else return;
    this.changed();
  }

  inputSetting(name, text) {
    const spec = CONTROLS[name], value = readValue(spec, text);
    if (value === undefined)
      return this.complain(`The ${spec.label} is “${text}”; it goes from ${spec.min} ` +
        `to ${spec.max}.`);
    this.setValue(name, value);
    this.changed();
  }

  get count() { return LIVE.manifest.sets[this.state.set].labels.length; }

  choosePrior(name) {
    this.state.prior = name;
    const first = Object.entries(LIVE.manifest.sets).find(([, set]) => set.prior === name);
    this.state.set = name === "fashion-mnist" ? "fashion-mnist-dm-ipc1" : first[0];
    const {labels} = LIVE.manifest.sets[this.state.set];
    [this.state.image, this.state.class] = [0, labels[0]];
  }

  choose(image) {
    this.state.image = image;
    this.state.class = LIVE.manifest.sets[this.state.set].labels[image];
    this.changed();
  }

  async readFile(file) {
    if (!file) return;
    try {
      this.own.file = await createImageBitmap(file);
    } catch {
      return this.complain(`“${file.name}” is no picture that this browser can read; ` +
        "a PNG, JPEG or WebP will do.");
    }
    this.version += 1;
    this.changed();
  }

  // ------------------------------------------------------------ links

  hash() {
    const {prior, kind, set, image, class: label} = this.state;
    const parts = {prior, kind, set, image, class: label};
    const {slot} = this;
    this.settings.forEach((_, i) => {
      this.slot = i;
      for (const name of Object.keys(CONTROLS))
        if (i === 0 || name !== "seed") parts["b.".repeat(i) + name] = this.valueOf(name);
    });
    this.slot = slot;
    return `#${new URLSearchParams(parts)}`;
  }

  // Take the settings of a link, and return which of them can't be.
  readHash() {
    const wanted = new URLSearchParams(location.hash.slice(1)), refused = [];
    if (![...wanted.keys()].length) return "";
    const {state} = this, {priors, sets: known} = LIVE.manifest;
    const take = (name, valid, use) => {
      const text = wanted.get(name);
      wanted.delete(name);
      if (text === null) return;
      if (valid(text)) use(text);
      else refused.push(`${name}=${text}`);
    };
    const below = (limit) => (text) => /^\d+$/.test(text) && Number(text) < limit;
    take("prior", (name) => name in priors, (name) => this.choosePrior(name));
    take("set", (name) => known[name]?.prior === state.prior, (name) => (state.set = name));
    take("kind", (kind) => ["set", "drawing", "file"].includes(kind),
      (kind) => (state.kind = kind));
    take("image", below(this.count), (text) => (state.image = Number(text)));
    state.class = known[state.set].labels[state.image] ?? 0;
    take("class", below(this.info.classNames.length), (t) => (state.class = Number(t)));
    this.settings = [{...Diver.DEFAULTS}];
    const second = [...wanted.keys()].some((name) => name.startsWith("b."));
    if (second) this.settings.push({...Diver.DEFAULTS});
    this.slot = 0;
    this.settings.forEach((_, slot) => {
      for (const [name, spec] of Object.entries(CONTROLS))
        take("b.".repeat(slot) + name, (text) => readValue(spec, text) !== undefined,
          (text) => this.setValue(name, readValue(spec, text), slot));
    });
    refused.push(...[...wanted].map(([name, text]) => `${name}=${text}`));
    return refused.length === 0 ? "" : "The link asks for what this page doesn't have: " +
      `${refused.join(", ")}. There it took the default.`;
  }

  async copyLink() {
    const link = this.get("link");
    link.select();
    try {
      await navigator.clipboard.writeText(link.value);
      this.announce("Link copied.");
    } catch {
      this.announce("The link is selected: copy it with your keyboard.");
    }
    if (this.state.kind !== "set")
      this.complain("The link holds the settings, but not your own picture.");
  }

  // ------------------------------------------------------------ what is shown

  addSlots() {
    const results = this.find(".live-results");
    results.replaceChildren();
    const common = document.createElement("div");
    common.className = "live-slot";
    this.distilled = addFigure(common, "distilled");
    this.vaeOnly = addFigure(common, "VAE only");
    this.slots = this.settings.map((_, i) => new Slot(this, i));
    const letter = this.slots.length > 1;
    this.slots.forEach((slot, i) => slot.title(letter ? "AB"[i] : ""));
    results.append(common, ...this.slots.map((slot) => slot.element));
    results.classList.toggle("live-two", letter);
  }

  showTimelines() {
    this.slots.forEach((slot, i) => slot.plan(this.settings[i]));
  }

  async showSource() {
    const {state} = this;
    if (state.kind === "set") await this.showSheet();
    const pixels = await this.pixels().catch(() => null);
    if (!pixels) return this.distilled.clear();
    const name = this.info.classNames[state.class];
    const what = {set: "Distilled", drawing: "Drawn", file: "Your"}[state.kind];
    this.distilled.caption(state.kind === "set" ? "distilled" : "yours");
    this.distilled.show(pixels, this.info.imageSize, this.border, `${what} picture: ${name}`);
  }

  async showSheet() {
    const {set, image} = this.state;
    let images;
    try {
      images = await loadSet(set);
    } catch (error) {
      return this.complain(`The set could not be loaded: ${error.message}.`);
    }
    if (set !== this.state.set) return;
    const [count, channels, size] = LIVE.manifest.sets[set].shape;
    const columns = 10, rows = Math.ceil(count / columns), canvas = this.find(".live-sheet canvas");
    this.sheet = {columns, count};
    if (canvas.dataset.set !== set) {
      canvas.dataset.set = set;
      const side = size - 2 * this.border;
      [canvas.width, canvas.height] = [columns * side, rows * side];
      const cell = document.createElement("canvas"), context = canvas.getContext("2d");
      for (let i = 0; i < count; i++) {
        paint(cell, imageOf(images, i, channels, size), size, this.border);
        context.drawImage(cell, (i % columns) * side, Math.floor(i / columns) * side);
      }
    }
    Object.assign(this.find(".live-sheet span").style, {
      left: `${(image % columns) * 100 / columns}%`,
      top: `${Math.floor(image / columns) * 100 / rows}%`,
      width: `${100 / columns}%`,
      height: `${100 / rows}%`,
    });
  }

  // (3, S, S) of the chosen picture; raises a sentence where there is none.
  async pixels() {
    const {kind, set, image} = this.state;
    if (kind === "set") {
      const [, channels, size] = LIVE.manifest.sets[set].shape;
      return imageOf(await loadSet(set), image, channels, size);
    }
    const own = this.own[kind];
    if (!own)
      throw new Error(kind === "drawing" ? "The drawing is empty: draw something first."
        : "There is no picture yet: choose a file first.");
    return readPixels(own, this.info.imageSize, this.border, this.border > 0);
  }

  complain(sentence) {
    const message = this.find(".live-message");
    message.hidden = !sentence;
    message.textContent = sentence;
  }

  announce(sentence) { this.find(".live-announce").textContent = sentence; }
  status(text) { this.find(".live-status").textContent = text; }

  progress(share) {
    const bar = this.find("progress");
    bar.hidden = share === null;
    bar.value = share ?? 0;
  }

  // ------------------------------------------------------------ loading

  bundles() {
    const kind = this.runtime ?? (this.fallback || !navigator.gpu ? "wasm" : "webgpu");
    return [`runtime-${kind}`, `prior-${this.state.prior}`];
  }

  toLoad() {
    if (this.opened.has(this.state.prior)) return 0;
    return this.bundles().reduce((sum, name) => sum + this.rest(name), 0);
  }

  rest(name) {
    const {parts, bytes} = LIVE.manifest.bundles[name];
    return bytes * (1 - (received[name] ?? 0) / parts);
  }

  async open(prior) {
    if (!this.worker) this.startWorker();
    this.runtime ??= await bestRuntime(this.fallback);
    const names = this.bundles(), all = this.toLoad();
    for (const name of names)
      await loadBundle(name, (text, last) => {
        this.worker.postMessage({type: "part", bundle: name, text, last});
        const {bytes, parts} = LIVE.manifest.bundles[name];
        const rest = this.toLoad() - bytes / parts;
        this.progress(1 - rest / all);
        this.status(`loading: ${megabytes(all - rest)} of ${megabytes(all)} MB`);
      });
    this.status("making the networks ready");
    const opened = new Promise((resolve, reject) => {
      this.opening = {resolve, reject};
    });
    this.worker.postMessage(
      {type: "open", prior, kind: this.runtime, manifest: LIVE.manifest});
    await opened;
    this.opened.add(prior);
  }

  startWorker() {
    const source = new Blob([LIVE.worker], {type: "text/javascript"});
    this.worker = new Worker(URL.createObjectURL(source));
    this.worker.onmessage = ({data}) => this.receive(data);
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.failed(event.message || "the worker did not start");
    };
  }

  // Forget the worker and what it had: the next run loads anew.
  dropWorker() {
    this.worker?.terminate();
    this.worker = this.runtime = this.job = null;
    this.opened.clear();
    for (const name of Object.keys(received))
      if (!name.startsWith("set-")) delete received[name];
  }

  // ------------------------------------------------------------ running

  // Something is new: show it, and start again if the reader has ever pressed run.
  changed() {
    this.complain("");
    this.showState();
    this.halt();
    if (this.started) this.start();
  }

  halt() {
    this.job = null;
    this.id += 1;
    this.worker?.postMessage({type: "stop"});
  }

  stop(sentence) {
    this.started = false;
    this.halt();
    this.idle(sentence);
  }

  idle(sentence) {
    this.get("stop").disabled = true;
    this.progress(null);
    this.status("");
    this.announce(sentence);
    this.nameButton();
  }

  async start() {
    const id = ++this.id;
    const crossed = this.settings.find(({window: [high, low]}) => high < low);
    if (crossed) {
      const [high, low] = crossed.window;
      this.complain(`The window begins at ${high} and ends at ${low}: time runs ` +
        "downwards here, so it must begin at the larger one.");
      return this.idle("");
    }
    this.get("stop").disabled = false;
    try {
      const image = await this.pixels();
      if (!this.opened.has(this.state.prior)) {
        await (this.busy ??= this.open(this.state.prior).finally(() => (this.busy = null)));
        this.nameButton();
        if (id === this.id && !this.opened.has(this.state.prior)) return this.start();
      }
      if (id === this.id) this.next(image);
    } catch (error) {
      if (id === this.id || !this.busy) this.failed(error.message);
    }
  }

  // Run the first setting whose result isn't there yet.
  next(image) {
    const {state} = this, number = this.slots.findIndex(
      (slot, i) => slot.done !== this.key(i));
    if (number < 0) return this.finished();
    const id = ++this.id, key = this.key(number), slot = this.slots[number];
    this.job = {id, number, image, began: performance.now()};
    slot.begin();
    this.worker.postMessage({
      type: "run", id, key, prior: state.prior, image, classLabel: state.class,
      index: state.kind === "set" ? state.image : 0, seed: state.seed,
      config: this.settings[number],
    });
  }

  // What a result depends on.
  key(number) {
    const {prior, kind, set, image, class: label, seed} = this.state;
    const picture = kind === "set" ? [set, image] : [kind, this.version];
    return JSON.stringify([prior, picture, label, seed, this.settings[number]]);
  }

  receive(data) {
    if (data.type === "opened") return this.opening.resolve();
    if (data.type === "failed")
      return this.opening && !this.opened.has(this.state.prior)
        ? this.opening.reject(new Error(data.error)) : this.failed(data.error);
    if (data.type === "shown")
      return this.slots.find((slot) => slot.done === data.key)?.shown(data);
    if (data.id !== this.job?.id) return;
    const slot = this.slots[this.job.number], {imageSize} = this.info;
    if (data.type === "start")
      this.vaeOnly.show(data.vaeOnly, imageSize, this.border,
        "The same picture, through the VAE only");
    else if (data.type === "step") {
      slot.step(data);
      this.progress((data.k + 1) / data.count);
      this.status(`step ${data.k + 1} of ${data.count}, t = ${data.timestep}`);
      if (data.phase !== this.job.phase) this.announce(`${data.phase} phase`);
      this.job.phase = data.phase;
    } else if (data.type === "done") {
      if (!data.recovered)
        return this.failed("these settings drove the latents to infinity; a smaller " +
          "guidance factor or scale won't");
      slot.finish(data);
      this.seconds = data.seconds;
      this.next(this.job.image);
    }
  }

  finished() {
    this.job = null;
    this.get("download").disabled = false;
    const name = this.info.classNames[this.state.class];
    this.idle(`Recovered as ${name} in ${(this.seconds ?? 0).toFixed(1)} s ` +
      `(${{webgpu: "WebGPU", wasm: "WebAssembly"}[this.runtime]}).`);
  }

  failed(reason) {
    this.started = false;
    this.halt();
    this.idle("");
    if (this.runtime === "webgpu" && !this.fallback && this.worker) {
      this.fallback = true;  // then without the graphics card
      this.dropWorker();
      this.started = true;
      return this.start();
    }
    if (/memory|alloc|RangeError|out of bounds/i.test(reason)) {
      this.dropWorker();
      return this.complain("This browser has too little memory for the networks: close " +
        "other tabs and press run again, or take the garments, which need less.");
    }
    if (/did not arrive|damaged/.test(reason))
      return this.complain(`The load was interrupted: ${reason}. Press run to go on from ` +
        "there.");
    if (/^(The|There) /.test(reason)) return this.complain(reason);
    this.complain(`It did not work: ${reason}.`);
  }

  // ------------------------------------------------------------ download

  download() {
    const figures = [this.distilled, this.vaeOnly, ...this.slots.map((s) => s.predicted)];
    const side = 224, canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [figures.length * (side + 8), side + 28];
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingEnabled = false;
    [context.fillStyle, context.font] = ["#000", "16px sans-serif"];
    figures.forEach((figure, i) => {
      const x = 4 + i * (side + 8);
      context.drawImage(figure.canvas, x, 24, side, side);
      context.fillText(figure.title, x, 17);
    });
    canvas.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "diver.png";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
}

// The value of a control, or undefined where it has no such value.
function readValue(spec, text) {
  if (spec.choices) return spec.choices.find((choice) => String(choice) === text);
  const value = Number(text);
  const whole = spec.step % 1 !== 0 || Number.isInteger(value);
  return text !== "" && whole && value >= spec.min && value <= spec.max ? value : undefined;
}

function imageOf(images, index, channels, size) {
  const plane = size * size, from = index * channels * plane;
  const image = new Float32Array(3 * plane);
  for (let c = 0; c < 3; c++) {
    const start = from + (channels === 3 ? c * plane : 0);
    image.set(images.subarray(start, start + plane), c * plane);
  }
  return image;
}

async function bestRuntime(fallback) {
  if (fallback || !navigator.gpu) return "wasm";
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  return adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter)
    ? "webgpu" : "wasm";
}

function addFigure(parent, title) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas"), caption = document.createElement("figcaption");
  [canvas.width, canvas.height] = [1, 1];
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}: no picture yet`);
  caption.textContent = title;
  figure.append(canvas, caption);
  parent.append(figure);
  return {
    canvas,
    get title() { return caption.textContent; },
    caption(text) { caption.textContent = text; },
    clear() {
      [canvas.width, canvas.height] = [1, 1];
      canvas.setAttribute("aria-label", `${title}: no picture yet`);
    },
    show(pixels, size, border, alt) {
      paint(canvas, pixels, size, border);
      canvas.setAttribute("aria-label", alt);
    },
  };
}

// One setting: its pictures, its phases on a time line, and a slider through its steps.
class Slot {
  constructor(page, number) {
    this.page = page;
    this.number = number;
    this.done = null;  // key of the result that is shown
    this.pictures = [];  // per step {noisy, predicted}, as far as they are known
    this.element = document.createElement("div");
    this.element.className = "live-slot";
    this.noisy = addFigure(this.element, "noisy latent");
    this.predicted = addFigure(this.element, "predicted");
    const time = document.createElement("div");
    time.className = "live-time";
    this.line = document.createElement("div");
    this.line.className = "live-line";
    this.range = document.createElement("input");
    Object.assign(this.range, {type: "range", min: 0, max: 0, value: 0, disabled: true});
    this.range.setAttribute("aria-label", "step that is shown");
    this.legend = document.createElement("output");
    time.append(this.line, this.range, this.legend);
    this.element.append(time);
    this.range.addEventListener("input", (event) => {
      event.stopPropagation();
      this.ask(Number(this.range.value));
    });
  }

  title(letter) {
    this.letter = letter && `${letter}: `;
    this.noisy.caption(`${this.letter}noisy latent`);
    this.predicted.caption(`${this.letter}predicted`);
  }

  // Draw the steps that these settings will take, coloured by phase.
  plan(config) {
    const planned = JSON.stringify(config);
    if (planned === this.planned) return;
    this.planned = planned;
    this.visited = Diver.timesteps(config);
    this.phases = this.visited.map((t) => Diver.phase(config, t));
    this.line.replaceChildren(...this.phases.map((phase) => {
      const mark = document.createElement("i");
      mark.dataset.phase = phase;
      return mark;
    }));
    this.say(`${this.visited.length} steps, ` +
      `${this.phases.filter((phase) => phase === "semantic").length} of them pulled`);
  }

  say(text) { this.legend.textContent = text; }

  begin() {
    this.done = null;
    this.pictures = [];
    this.range.disabled = true;
    for (const mark of this.line.children) mark.className = "";
  }

  step({k, timestep, phase, noisy, predicted}) {
    this.line.children[k].className = "taken";
    this.light(k);
    this.say(`t = ${timestep}: ${phase} phase`);
    if (!predicted) return;
    this.pictures[k] = {noisy, predicted};
    this.draw(k);
  }

  light(k) {
    this.line.querySelector(".now")?.classList.remove("now");
    this.line.children[k].classList.add("now");
  }

  draw(k) {
    const {page} = this, {noisy, predicted} = this.pictures[k];
    const last = k === this.visited.length - 1 && this.done;
    const size = page.info.imageSize, name = page.info.classNames[page.state.class];
    const when = `t = ${this.visited[k]}, ${this.phases[k]} phase`;
    this.noisy.caption(`${this.letter}noisy latent`);
    this.noisy.show(noisy, size, page.border, `Noisy latent, decoded: ${name}, ${when}`);
    const title = last ? "recovered" : "predicted";
    this.predicted.caption(this.letter + title);
    this.predicted.show(predicted, size, page.border,
      last ? `Recovered picture: ${name}` : `Predicted clean picture: ${name}, ${when}`);
    this.range.setAttribute("aria-valuetext", when);
  }

  finish({key, recovered}) {
    const k = this.visited.length - 1;
    this.done = key;
    this.recovered = recovered;
    this.pictures[k] = {noisy: recovered, predicted: recovered};
    Object.assign(this.range, {max: k, value: k, disabled: false});
    this.draw(k);
    this.say("done: move the slider to look at a step");
  }

  ask(k) {
    this.light(k);
    this.say(`t = ${this.visited[k]}: ${this.phases[k]} phase`);
    if (this.pictures[k]) return this.draw(k);
    this.asked = k;
    if (this.waiting) return;
    this.waiting = true;
    this.page.worker.postMessage({type: "show", key: this.done, k});
  }

  shown({k, noisy, predicted}) {
    this.waiting = false;
    this.pictures[k] = {noisy, predicted};
    if (k === Number(this.range.value)) this.draw(k);
    else if (!this.range.disabled) this.ask(Number(this.range.value));
  }
}

// Draw with mouse, finger, or arrow keys and space.
class DrawingPad {
  constructor(canvas, form, changed) {
    this.canvas = canvas;
    this.form = form;
    this.changed = changed;
    this.context = canvas.getContext("2d");
    this.at = {x: 128, y: 128};
    this.down = false;
    this.clear();
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.at = this.where(event);
      this.down = true;
      this.lineTo(this.at);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.down || !event.buttons) return;
      for (const e of event.getCoalescedEvents?.() ?? [event]) this.lineTo(this.where(e));
    });
    canvas.addEventListener("pointerup", () => this.lift());
    canvas.addEventListener("pointercancel", () => this.lift());
    canvas.addEventListener("keydown", (event) => this.key(event));
    form.elements.clear.addEventListener("click", () => {
      this.clear();
      changed(null);
    });
    form.elements.fill.addEventListener("click", () => {
      this.context.fillStyle = form.elements.colour.value;
      this.context.fillRect(0, 0, canvas.width, canvas.height);
      changed(canvas);
    });
  }

  clear() {
    this.context.fillStyle = "#000";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  where(event) {
    const box = this.canvas.getBoundingClientRect(), scale = this.canvas.width / box.width;
    return {x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale};
  }

  lineTo(to) {
    const {context, form} = this;
    context.strokeStyle = form.elements.colour.value;
    context.lineWidth = Number(form.elements.brush.value);
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(this.at.x, this.at.y);
    context.lineTo(to.x, to.y);
    context.stroke();
    this.at = to;
  }

  lift() {
    if (this.down) this.changed(this.canvas);
    this.down = false;
  }

  key(event) {
    const way = {ArrowLeft: [-8, 0], ArrowRight: [8, 0], ArrowUp: [0, -8],
      ArrowDown: [0, 8]}[event.key];
    if (!way && event.key !== " ") return;
    event.preventDefault();
    if (!way) {
      if (this.down) return this.lift();
      this.down = true;
      return this.lineTo(this.at);
    }
    const inside = (v) => Math.min(Math.max(v, 0), this.canvas.width);
    const to = {x: inside(this.at.x + way[0]), y: inside(this.at.y + way[1])};
    if (this.down) this.lineTo(to);
    else this.at = to;
    this.canvas.dataset.at = `${to.x},${to.y}`;
  }
}

window.playPage = new PlayPage(document.getElementById("play"));
playPage.begin();
