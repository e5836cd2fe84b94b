// DIVER in the plane: the "images" are points, the prior knows three curves, one a
// class. The loop is diver.js, as in "Play with DIVER"; here the score is a formula.
"use strict";

// A mixture of Gaussians, centred along the curves, and its exact noise prediction:
// what a perfect network would answer. Its twin in Python is on the page "Add a prior".
function planePrior({curves, std}) {
  const alphasCumprod = Diver.alphasCumprod(), all = curves.flat();

  // sqrt(1 - abar) times the negative score of the noised mixture, for one point
  function noiseOf([x, y], centres, alpha) {
    const signal = Math.sqrt(alpha), variance = alpha * std ** 2 + 1 - alpha;
    const logs = centres.map(([cx, cy]) =>
      -((x - signal * cx) ** 2 + (y - signal * cy) ** 2) / (2 * variance));
    const highest = Math.max(...logs);
    let sum = 0, meanX = 0, meanY = 0;
    centres.forEach(([cx, cy], i) => {
      const weight = Math.exp(logs[i] - highest);
      [sum, meanX, meanY] = [sum + weight, meanX + weight * cx, meanY + weight * cy];
    });
    const size = Math.sqrt(1 - alpha) / variance;
    return [size * (x - (signal * meanX) / sum), size * (y - (signal * meanY) / sum)];
  }

  function predictNoise(latents, timestep, classLabels, guidanceScale) {
    const ask = (centresOf) => Float32Array.from(classLabels.flatMap((label, i) => {
      const point = latents.subarray(2 * i, 2 * i + 2);
      return noiseOf(point, centresOf(label), alphasCumprod[timestep]);
    }));
    const conditional = ask((label) => curves[label]);
    if (guidanceScale === 1) return conditional;
    return Diver.classifierFree(conditional, ask(() => all), guidanceScale);
  }
  return {alphasCumprod, predictNoise};
}

// Recover every point from several draws of noise. Returns a list of steps; a step's
// latents are x, y of the first point's draws, then of the second's, ...
async function recoverPoints(data, points, config, seed) {
  const {classes, draws} = data;
  const each = (values) => values.flatMap((value) => Array(draws).fill(value));
  const latents = Float32Array.from(each(points).flat());
  const noise = Float32Array.from(latents.keys(), (i) =>
    Noise.standardNormal(seed, i >> 1, 2)[i % 2]);
  const prior = planePrior(data), steps = [];
  const level = prior.alphasCumprod[config.noiseTimestep];
  steps.push({phase: "start", latents: Diver.inherit(latents, noise, level)});
  const run = Diver.recoverSteps(latents, each(classes), prior, config, noise);
  for await (const step of run) steps.push(step);
  return steps;
}

if (typeof module !== "undefined") module.exports = {planePrior, recoverPoints};

// ---------------------------------------------------------------- the picture

// What is shown of the recovered points: of which distilled point, and which draw.
const VIEWS = {
  path: {point: 2, draw: 5},
  draws: {point: 2},
  classes: {},
};
const FRAME = {left: -4, right: 4, bottom: -2.2, top: 2.9};  // grows where paths leave it

class Plane {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.points = data.points.map((point) => [...point]);
    this.config = {...Diver.DEFAULTS};
    this.seed = 0;
    this.view = VIEWS.path;
    this.svg = root.querySelector("svg");
    this.form = root.querySelector("form");
    this.paths = this.add("g", {class: "plane-paths"});
    this.mark = this.add("circle", {r: 0.07, class: "plane-mark"});
    this.drawCurves();
    this.handles = this.points.map((_, i) => this.addHandle(i));
    this.form.addEventListener("input", () => this.read());
    this.form.addEventListener("click", (event) => this.press(event.target));
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerdown", (event) => this.hover(event));
    this.write();
    this.update();
  }

  add(name, attributes, parent = this.svg) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes))
      element.setAttribute(key, value);
    parent.append(element);
    return element;
  }

  drawCurves() {
    const group = this.curves = this.add("g", {});
    this.svg.prepend(group);
    this.data.curves.forEach((curve, label) => this.add("polyline", {
      points: curve.map(([x, y]) => `${x},${-y}`).join(" "),
      class: `plane-curve plane-class-${label}`,
      "stroke-width": 4 * this.data.std,
    }, group));
  }

  addHandle(i) {
    const handle = this.add("circle", {
      r: 0.13, tabindex: 0, role: "button", class: "plane-point",
      "data-class": this.data.classes[i],
    });
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      handle.focus();
      handle.setPointerCapture(event.pointerId);
      this.moving = true;
    });
    for (const name of ["pointerup", "pointercancel"])
      handle.addEventListener(name, () => {
        this.moving = false;
        this.update();
      });
    handle.addEventListener("pointermove", (event) => {
      if (handle.hasPointerCapture(event.pointerId)) this.move(i, this.where(event));
    });
    handle.addEventListener("keydown", (event) => {
      const way = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1],
        ArrowDown: [0, -0.1]}[event.key];
      if (!way) return;
      event.preventDefault();
      this.move(i, this.points[i].map((v, axis) => v + way[axis]));
    });
    return handle;
  }

  where(event) {
    const matrix = this.svg.getScreenCTM().inverse();
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
    return [at.x, -at.y];
  }

  move(i, [x, y]) {
    const inside = (v, low, high) =>
      Math.round(Math.min(Math.max(v, low), high) * 100) / 100;
    this.points[i] = [inside(x, -3.8, 3.8), inside(y, -2, 2.7)];
    this.update();
  }

  press({name}) {
    if (name === "again") this.seed += 1;
    else if (name === "reset") {
      this.points = this.data.points.map((point) => [...point]);
      [this.config, this.seed] = [{...Diver.DEFAULTS}, 0];
      [this.view, this.form.elements.view.value] = [VIEWS.path, "path"];
    } else return;
    this.write();
    this.update();
  }

  // The settings, from the controls. The window's ends can't cross: one pushes the
  // other.
  read() {
    this.view = VIEWS[this.form.elements.view.value];
    const value = (name) => Number(this.form.elements[name].value);
    let [high, low] = [value("high"), value("low")];
    const [before] = this.config.window;
    if (high < low && high !== before) low = high;
    else if (high < low) high = low;
    Object.assign(this.config, {
      noiseTimestep: value("t"), guidanceFactor: value("factor"),
      guidanceScale: value("scale"), window: [high, low],
    });
    this.write();
    this.update();
  }

  write() {
    const {config} = this, [high, low] = config.window;
    const values = {
      t: config.noiseTimestep, factor: config.guidanceFactor,
      scale: config.guidanceScale, high, low,
    };
    for (const [name, value] of Object.entries(values)) {
      const input = this.form.elements[name];
      input.value = value;
      input.parentElement.querySelector("output").textContent = value;
    }
  }

  // Once per frame, however often something moves.
  update() {
    const {point} = this.view, only = this.data.classes[point];
    for (const [label, curve] of [...this.curves.children].entries())
      curve.classList.toggle("plane-other", point !== undefined && label !== only);
    this.points.forEach(([x, y], i) => {
      const handle = this.handles[i], label = this.data.classes[i];
      handle.style.display = point === undefined || point === i ? "" : "none";
      handle.setAttribute("cx", x);
      handle.setAttribute("cy", -y);
      handle.setAttribute("aria-label", `distilled point ${i + 1} of class ` +
        `${"ABC"[label]}, at ${x}, ${y}; the arrow keys move it`);
    });
    this.due ??= requestAnimationFrame(async () => {
      this.due = null;
      const config = {...this.config};
      this.steps = await recoverPoints(this.data, this.points, config, this.seed);
      if (!this.due) this.draw();
    });
  }

  // Numbers of the recovered points that are shown.
  shown() {
    const {draws} = this.data, {point, draw} = this.view;
    return [...Array(this.points.length * draws).keys()].filter((j) =>
      (point === undefined || Math.floor(j / draws) === point) &&
      (draw === undefined || j % draws === draw));
  }

  // Let the frame hold every path, or the usual one; but keep it while a point is moved.
  frame() {
    const {left, right, bottom, top} = {...FRAME};
    const seen = this.shown().flatMap((j) => this.steps.map((_, k) => this.at(k, j)));
    const [xs, ys] = [0, 1].map((axis) => seen.map((at) => at[axis]));
    const x = Math.min(left, ...xs), y = Math.min(-top, ...ys);
    const wide = Math.max(right, ...xs) - x, high = Math.max(-bottom, ...ys) - y;
    if (!this.moving) this.svg.setAttribute("viewBox", `${x} ${y} ${wide} ${high}`);
  }

  draw() {
    const {steps} = this, shown = this.shown(), lines = {};
    this.frame();
    this.paths.replaceChildren();
    for (const j of shown)
      for (let k = 1; k < steps.length; k++) {
        const [from, to] = [this.at(k - 1, j), this.at(k, j)];
        lines[steps[k].phase] = `${lines[steps[k].phase] ?? ""}M${from}L${to}`;
      }
    if (shown.length === 1) {  // how noise carries the point off
      const [x, y] = this.points[Math.floor(shown[0] / this.data.draws)];
      const d = `M${x},${-y}L${this.at(0, shown[0])}`;
      this.add("path", {d, class: "plane-path plane-noise"}, this.paths);
    }
    for (const [phase, d] of Object.entries(lines))
      this.add("path", {d, class: `plane-path plane-${phase}`}, this.paths);
    for (const j of shown) {
      const [cx, cy] = this.at(steps.length - 1, j);
      this.add("circle", {cx, cy, r: 0.05, class: "plane-end"}, this.paths);
    }
    this.mark.setAttribute("visibility", "hidden");
    this.tell();
  }

  at(k, j) {
    const {latents} = this.steps[k];
    const rounded = (v) => Math.round(v * 1000) / 1000;
    return [rounded(latents[2 * j]), rounded(-latents[2 * j + 1])];
  }

  // How far from their distilled points the recovered ones lie, and from the curves.
  tell() {
    const last = this.steps.length - 1, {curves, classes, draws} = this.data;
    const shown = this.shown();
    let moved = 0, off = 0;
    for (const j of shown) {
      const [x, y] = this.at(last, j), i = Math.floor(j / draws);
      const distance = ([cx, cy]) => Math.hypot(x - cx, -y - cy);
      moved += distance(this.points[i]) / shown.length;
      off += Math.min(...curves[classes[i]].map(distance)) / shown.length;
    }
    const which = shown.length === 1 ? "The recovered point:"
      : `${shown.length} recovered points: on average`;
    const sentence = `${which} ${moved.toFixed(2)} from the distilled point, ` +
      `${off.toFixed(2)} from the curve of its class.`;
    this.root.querySelector(".plane-result").textContent = sentence;
    this.svg.setAttribute("aria-label", `Points in the plane: ${sentence}`);
  }

  hover(event) {
    if (!this.steps || event.buttons && event.target.role === "button") return;
    const [x, y] = this.where(event);
    let best = {distance: 0.3};
    for (let k = 0; k < this.steps.length; k++)
      for (const j of this.shown()) {
        const [px, py] = this.at(k, j), distance = Math.hypot(px - x, py + y);
        if (distance < best.distance) best = {distance, k, px, py};
      }
    const found = best.k !== undefined;
    this.mark.setAttribute("visibility", found ? "visible" : "hidden");
    const here = this.root.querySelector(".plane-here");
    if (!found) return (here.textContent = "\u00a0");
    this.mark.setAttribute("cx", best.px);
    this.mark.setAttribute("cy", best.py);
    const {timestep, phase} = this.steps[best.k];
    here.textContent = phase === "start" ? `noised to t = ${this.config.noiseTimestep}`
      : `step ${best.k}, t = ${timestep}: ${phase} phase`;
  }
}

if (typeof document !== "undefined") {
  const data = JSON.parse(document.getElementById("plane-data").textContent);
  window.plane = new Plane(document.getElementById("plane"), data);
}
