// The page "Play with DIVER": controls, runs, results. The algorithm is in diver.js,
// the networks are in worker.js; LIVE (the manifest of what can be loaded, and the
// worker's text) is written by the build.
"use strict";

const CONTROLS = {
  t: {field: "noiseTimestep", label: "noise level", min: 0, max: 999, step: 1},
  factor: {
    field: "guidanceFactor", label: "guidance factor", min: 0, max: 1, step: 0.01,
  },
  high: {field: "high", label: "window from", min: -1, max: 1000, step: 1},
  low: {field: "low", label: "window to", min: -1, max: 1000, step: 1},
  scale: {field: "guidanceScale", label: "guidance scale", min: 1, max: 10, step: 0.1},
  steps: {field: "numInferenceSteps", label: "steps", min: 1, max: 250, step: 1},
  seed: {field: "seed", label: "seed", min: 0, max: 2 ** 31 - 1, step: 1, typed: true},
  start: {field: "start", label: "start", choices: ["matched", "published"]},
  target: {field: "guidanceTarget", label: "guidance target", choices: ["x0", "latent"]},
  clip: {field: "clipInput", label: "clip input", choices: [true, false]},
};
const FIRST_SETS = {
  "fashion-mnist": "fashion-mnist-dm-ipc1",
  cifar10: "cifar10-mtt-ipc1",
};
// the command's presets: what a prior recommends -> settings
const PRESETS = {
  recommended: (advice) => ({...Diver.DEFAULTS, ...advice}),
  default: () => ({...Diver.DEFAULTS}),
  published: () => ({...Diver.DEFAULTS, ...Diver.PUBLISHED}),
  quick: (advice) => ({...Diver.DEFAULTS, ...advice, numInferenceSteps: 10}),
};
const SIMD = [  // the smallest module that uses it
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0,
  65, 0, 253, 15, 253, 98, 11,
];
const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
const shipped = (name) => name.replace(/^(fashion-mnist|cifar10)-/, "").replace(
  /^(\w+)(-real)?-ipc(\d+)$/, (_, method, real, ipc) =>
    `${method.toUpperCase()}${real ? " (from real pictures)" : ""}, ${ipc} per class`);

class PlayPage {
  constructor(root) {
    this.root = root;
    this.form = root.querySelector("form");
    this.controls = {};
    this.state = {
      prior: "cifar10", kind: "set", set: FIRST_SETS.cifar10, image: 1, class: 1, seed: 0,
    };
    this.settings = [];  // A, and B where two are compared
    this.slot = 0;
    this.slots = [];  // what the page shows of each
    this.own = {drawing: null, file: null};  // pictures of the reader's, any canvas
    this.showing = null;  // the picture that "distilled" and "VAE only" are of
    this.version = 0;  // of these pictures
    this.started = false;  // the reader has pressed run
    this.id = 0;
    this.job = null;
    this.opened = new Set();
    this.loading = null;  // name of the prior that comes just now
    this.runtime = "wasm";  // or "webgpu", once the browser has told that it can
  }

  get(name) { return this.form.elements[name]; }
  get info() { return LIVE.manifest.priors[this.state.prior]; }
  preset(name) { return PRESETS[name](this.info.recommended); }
  get border() { return this.info.imageFit === "pad" ? 2 : 0; }
  find(selector) { return this.root.querySelector(selector); }

  begin() {
    const missing = this.missing();
    const note = this.find(".live-missing");
    note.hidden = !missing;
    note.textContent = missing;
    if (missing) return;
    this.form.hidden = false;
    this.settings = [this.preset("recommended")];
    this.buildControls();
    this.addPad();
    this.complain(this.readHash());
    this.listen();
    this.addSlots();
    this.showState();
    this.showStored();
    bestRuntime().then((kind) => {
      this.runtime = kind;
      this.nameButton();
    });
    // the event's address: location may hold what `remembering` wrote over it since
    window.addEventListener("hashchange", ({newURL}) => {
      const {hash} = new URL(newURL);
      if (hash === this.hash()) return;
      const refused = this.readHash(hash);
      this.addSlots();
      this.changed();
      if (refused) this.complain(refused);
    });
  }

  missing() {
    if (!LIVE.manifest)
      return "This copy of the book was built without the networks that run in the " +
        `browser: ${LIVE.missing}. “make book” on a machine with npm and a ` +
        "network adds them; until then the notebooks do the same in JupyterLab.";
    if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(SIMD)))
      return "This browser has no WebAssembly with SIMD, which the networks need. " +
        "Any Chrome, Firefox or Edge since 2021 or Safari since 2023 has it.";
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
      this.controls[name] = this.get(name);  // the noise level stands by the pictures
      if (this.controls[name]) continue;
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

  valueOf(name, slot = this.slot) {
    const [high, low] = this.settings[slot].window;
    const apart = {seed: this.state.seed, high, low};
    return apart[name] ?? this.settings[slot][CONTROLS[name].field];
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
    const options = own.map((name) => new Option(shipped(name), name));
    this.get("set").replaceChildren(...options);
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
    const chosen = JSON.stringify(this.settings[this.slot]);
    const buttons = [...this.form.querySelectorAll("[data-preset]")];
    const isChosen = ({dataset}) => JSON.stringify(this.preset(dataset.preset)) === chosen;
    for (const button of buttons) button.setAttribute("aria-pressed", isChosen(button));
    this.find(".live-settings summary span").textContent =
      buttons.find(isChosen)?.textContent ?? "your own";
    this.form.querySelector("[data-preset=default]").hidden =
      JSON.stringify(this.preset("default")) ===
        JSON.stringify(this.preset("recommended"));
    const two = this.settings.length === 2;
    this.get("compare").checked = two;
    this.find(".live-slots").hidden = !two;
    for (const radio of this.root.querySelectorAll("[name=slot]"))
      radio.checked = Number(radio.value) === this.slot;
    this.get("link").value = location.href.split("#")[0] + this.hash();
    for (const link of this.root.querySelectorAll(".live-try"))
      link.ariaCurrent = link === this.trying ? "true" : null;
    this.find(".live-say").textContent = this.trying?.dataset.say ?? "";
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
    for (const link of this.root.querySelectorAll(".live-try")) {
      const rest = this.toLoad(new URLSearchParams(link.hash.slice(1)).get("prior"));
      link.nextElementSibling.textContent =
        rest ? `loads ${megabytes(rest)} MB` : "";
    }
  }

  listen() {
    const {form} = this;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    for (const link of this.root.querySelectorAll(".live-try"))
      link.addEventListener("click", (event) => {
        event.preventDefault();
        this.follow(link);
      });
    form.addEventListener("input", (event) => this.input(event.target));
    this.get("stop").addEventListener("click", () => this.stop("Stopped."));
    for (const button of form.querySelectorAll("[data-preset]"))
      button.addEventListener("click", () => {
        this.settings[this.slot] = this.preset(button.dataset.preset);
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
    drop.addEventListener("drop", ({dataTransfer}) =>
      this.readFile(dataTransfer.files[0]));
  }

  addPad() {
    this.own.drawing = this.find(".live-pad");
    this.pad = new DrawingPad(this.own.drawing, this.form, (canvas) => {
      this.own.drawing = canvas;
      this.version += 1;
      if (this.state.kind === "drawing") this.changed();
    });
  }

  // Until the reader draws, the pad shows a sketch of a class that the prior knows.
  sketch() {
    const {state, pad} = this;
    if (state.kind !== "drawing" || pad.touched) return;
    state.class = SKETCHES[state.prior].class;
    if (pad.shows === state.prior) return;
    pad.sketch(state.prior);
    this.version += 1;
  }

  input(target) {
    const {state} = this, {name, value} = target;
    if (Object.hasOwn(this.controls, name)) return this.inputSetting(name, value);
    if (name === "prior") {
      this.choosePrior(value);
      this.sketch();
    } else if (name === "kind") {
      state.kind = value;
      this.sketch();
    } else if (name === "class") state.class = Number(value);
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
    if (value === undefined) {
      this.halt();
      this.idle("");
      for (const slot of this.slots) slot.empty();
      return this.complain(`The ${spec.label} is “${text}”; it must be ` +
        `${spec.step === 1 ? "a whole number " : ""}from ${spec.min} to ${spec.max}.`);
    }
    this.setValue(name, value);
    this.changed();
  }

  get count() { return LIVE.manifest.sets[this.state.set].labels.length; }

  choosePrior(name) {
    this.state.prior = name;
    this.state.set = FIRST_SETS[name];
    const {labels} = LIVE.manifest.sets[this.state.set];
    [this.state.image, this.state.class] = [0, labels[0]];
    this.settings = this.settings.map(() => this.preset("recommended"));
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
      this.own.file = null;
      this.version += 1;
      this.started = false;
      this.changed();
      return this.complain(`“${file.name}” is no picture that this browser can ` +
        "read; a PNG, JPEG or WebP will do.");
    }
    this.version += 1;
    this.changed();
  }

  // ------------------------------------------------------------ links

  hash() {
    const {prior, kind, set, image, class: label} = this.state;
    const parts = {prior, kind, set, image, class: label};
    this.settings.forEach((_, slot) => {
      for (const name of Object.keys(CONTROLS))
        parts["b.".repeat(slot) + name] = this.valueOf(name, slot);
    });
    delete parts["b.seed"];  // both have the same noise
    return `#${new URLSearchParams(parts)}`;
  }

  // Take the settings of a link, and return which of them can't be.
  readHash(hash = location.hash) {
    const wanted = new URLSearchParams(hash.slice(1)), refused = [];
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
    // "constructor" is in every object, but no object's own
    take("prior", (name) => Object.hasOwn(priors, name),
      (name) => this.choosePrior(name));
    take("set", (name) => Object.hasOwn(known, name) &&
      known[name].prior === state.prior, (name) => (state.set = name));
    take("kind", (kind) => ["set", "drawing", "file"].includes(kind),
      (kind) => (state.kind = kind));
    take("image", below(this.count), (text) => (state.image = Number(text)));
    state.class = known[state.set].labels[state.image] ?? 0;
    this.sketch();
    this.find(".live-picture").open ||= state.kind !== "set";
    take("class", below(this.info.classNames.length), (t) => (state.class = Number(t)));
    this.settings = [this.preset("recommended")];
    const second = [...wanted.keys()].some((name) => name.startsWith("b."));
    if (second) this.settings.push(this.preset("recommended"));
    this.slot = 0;
    this.settings.forEach((_, slot) => {
      for (const [name, spec] of Object.entries(CONTROLS))
        take("b.".repeat(slot) + name, (text) => readValue(spec, text) !== undefined,
          (text) => this.setValue(name, readValue(spec, text), slot));
    });
    refused.push(...[...wanted].map(([name, text]) => `${name}=${text}`));
    if (!refused.length) return "";
    return "The link asks for what this page doesn't have: " +
      `${refused.join(", ")}. There it took what is recommended.`;
  }

  // Keep the state in the address, for Back and for a reload; not at every tick of a
  // slider, which browsers forbid.
  remember() {
    clearTimeout(this.remembering);
    this.remembering = setTimeout(() => history.replaceState(null, "", this.hash()), 300);
  }

  // Take something to try: its link sets everything, and runs.
  follow(link) {
    history.replaceState(null, "", link.hash);
    this.readHash();
    this.addSlots();
    this.trying = link;
    this.find(".live-stage").scrollIntoView({block: "nearest"});
    this.run();
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
    if (this.state.kind === "file" || this.state.kind === "drawing" && this.version)
      this.complain("The link holds the settings, but not your own picture.");
  }

  // ------------------------------------------------------------ what is shown

  addSlots() {
    const results = this.find(".live-results"), times = this.find(".live-times");
    for (const slot of this.slots) slot.keep();
    results.replaceChildren();
    this.showing = null;
    this.distilled = addFigure(results, "distilled");
    this.vaeOnly = addFigure(results, "VAE only");
    this.slots = this.settings.map((_, i) => new Slot(this, i, results));
    const letter = this.slots.length > 1;
    this.slots.forEach((slot, i) => slot.title(letter ? "AB"[i] : ""));
    times.replaceChildren(...this.slots.map((slot) => slot.time));
    results.classList.toggle("live-two", letter);
  }

  showTimelines() {
    this.slots.forEach((slot, i) => slot.plan(this.settings[i]));
  }

  async showSource() {
    const {state} = this, source = this.source();
    if (source !== this.showing) {
      this.distilled.clear();
      this.vaeOnly.clear();
    }
    this.showing = source;
    if (state.kind === "set") await this.showSheet();
    const pixels = await this.pixels().catch(() => null);
    if (!pixels) return this.distilled.clear();
    const name = this.info.classNames[state.class];
    const what = {set: "Distilled", drawing: "Drawn", file: "Your"}[state.kind];
    this.distilled.caption({set: "distilled", drawing: "drawing", file: "yours"}[state.kind]);
    const alt = `${what} picture: ${name}`;
    this.distilled.show(pixels, this.info.imageSize, this.border, alt);
  }

  // What was stored of these settings, at the noise level nearest to theirs.
  storedAs(number) {
    const {state} = this, settings = this.settings[number];
    const found = LIVE.stored.find((sheet) => {
      const wanted = {...this.preset("recommended"),
        noiseTimestep: settings.noiseTimestep};
      return JSON.stringify(wanted) === JSON.stringify(settings) &&
        sheet.set === state.set && sheet.seed === state.seed;
    });
    const {labels} = LIVE.manifest.sets[state.set];
    if (!found || state.kind !== "set" || labels[state.image] !== state.class) return null;
    const distances = found.levels.map((t) => Math.abs(t - settings.noiseTimestep));
    return {...found, column: distances.indexOf(Math.min(...distances))};
  }

  // Where a result isn't there yet, show a stored one, or nothing: no picture of other
  // settings.
  async showStored() {
    const id = this.id, {image} = this.state, size = this.info.imageSize;
    const missing = [...this.slots.entries()].filter(
      ([number, slot]) => slot.done !== this.key(number));
    for (const [, slot] of missing) slot.empty();
    for (const [number, slot] of missing) {
      const stored = this.storedAs(number);
      if (!stored) continue;
      const [sheet, noised] = await Promise.all(
        [stored.picture, stored.noised].map(openSheet));
      if (id !== this.id) return;
      const {column, levels} = stored;
      this.vaeOnly.copy(sheet, 0, image, size, this.border,
        "The same picture, through the VAE only");
      slot.stored(levels[column], [noised, column, image, size, this.border],
        [sheet, column + 1, image, size, this.border]);
    }
  }

  async showSheet() {
    const {set, image} = this.state, canvas = this.find(".live-sheet canvas");
    let images;
    try {
      images = await loadSet(set);
    } catch (error) {
      [canvas.width, canvas.dataset.set] = [1, ""];
      return this.complain(`The set could not be loaded: ${error.message}.`);
    }
    if (set !== this.state.set) return;
    const [count, channels, size] = LIVE.manifest.sets[set].shape;
    const columns = 10, rows = Math.ceil(count / columns);
    this.sheet = {columns, count};
    this.find(".live-sheet").classList.toggle("live-many", rows > 1);
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

  bundles(prior) { return [`runtime-${this.runtime}`, `prior-${prior}`]; }

  toLoad(prior = this.state.prior) {
    if (this.opened.has(prior)) return 0;
    return this.bundles(prior).reduce((sum, name) => sum + this.rest(name), 0);
  }

  rest(name) {
    const {parts, bytes} = LIVE.manifest.bundles[name];
    return bytes * (1 - (received[name] ?? 0) / parts);
  }

  async open(prior) {
    if (!this.worker) this.startWorker();
    this.loading = prior;
    const names = this.bundles(prior), all = this.toLoad(prior);
    for (const name of names)
      await loadBundle(name, (text, last) => {
        this.worker.postMessage({type: "part", bundle: name, text, last});
        const {bytes, parts} = LIVE.manifest.bundles[name];
        const rest = this.toLoad(prior) - bytes / parts;
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
    this.worker = this.job = null;
    this.opened.clear();
    for (const name of Object.keys(received))
      if (!name.startsWith("set-")) delete received[name];
  }

  // ------------------------------------------------------------ running

  get goesOn() {
    const {prior} = this.state;
    const here = this.opened.has(prior) || this.busy && this.loading === prior;
    return this.started && here;
  }

  // Something is new: show it. Start again if the reader has ever pressed run, but load
  // nothing that wasn't asked for.
  changed() {
    this.trying = null;
    this.complain("");
    this.showState();
    this.halt();
    this.remember();
    if (this.goesOn) this.start();
    else this.idle("");
    this.showStored();
  }

  // The reader wants it: load what is missing, and run.
  run() {
    this.started = true;
    this.complain("");
    this.halt();
    this.showState();
    this.remember();
    this.start();
  }

  halt() {
    this.job = null;
    this.id += 1;
    this.get("download").disabled = true;
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
      this.showStored();
      return this.idle("");
    }
    this.get("stop").disabled = false;
    try {
      const image = await this.pixels();
      if (!this.opened.has(this.state.prior)) {
        this.busy ??= this.open(this.state.prior).finally(
          () => (this.busy = this.loading = null));
        await this.busy;
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

  // The picture that goes in, and the prior that it goes into.
  source() {
    const {prior, kind, set, image} = this.state;
    return JSON.stringify([prior, kind === "set" ? [set, image] : [kind, this.version]]);
  }

  // What a result depends on.
  key(number) {
    const {class: label, seed} = this.state;
    return JSON.stringify([this.source(), label, seed, this.settings[number]]);
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
    if (data.type === "start" && !this.job.number)
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
    this.showStored();
    if (this.runtime === "webgpu" && this.worker) {
      this.runtime = "wasm";  // then without the graphics card
      this.dropWorker();
      this.started = true;
      return this.start();
    }
    if (/memory|alloc|RangeError|out of bounds/i.test(reason)) {
      this.dropWorker();
      return this.complain("This browser has too little memory for the networks: " +
        "close other tabs and press run again, or take the garments, which need less.");
    }
    if (/did not arrive|damaged/.test(reason))
      return this.complain(`The load was interrupted: ${reason}. Press run to go ` +
        "on from there.");
    if (/^(The|There) /.test(reason)) return this.complain(reason);
    this.complain(`It did not work: ${reason}.`);
  }

  // ------------------------------------------------------------ download

  download() {
    const results = this.slots.map((slot) => slot.predicted);
    const figures = [this.distilled, this.vaeOnly, ...results];
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
  const inside = value >= spec.min && value <= spec.max;
  return text.trim() !== "" && whole && inside ? value : undefined;
}

// WebGPU where there is a graphics card behind it, not the processor in disguise.
async function bestRuntime() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  return adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter)
    ? "webgpu" : "wasm";
}

window.playPage = new PlayPage(document.getElementById("play"));
playPage.begin();
