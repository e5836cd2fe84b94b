// One setting of "Play with DIVER": its pictures, its phases on a time line, and a
// slider through its steps.
"use strict";

const FADE = 150;  // ms that a picture of other settings may stay, or it would flicker

class Slot {
  constructor(page, number, results) {
    this.page = page;
    this.number = number;
    this.done = null;  // key of the result that is shown
    this.pictures = [];  // per step {noisy, predicted}, as far as they are known
    this.noisy = addFigure(results, "noisy latent");
    this.predicted = addFigure(results, "predicted");
    this.time = document.createElement("div");
    this.time.className = "live-time";
    this.line = document.createElement("div");
    this.line.className = "live-line";
    this.range = document.createElement("input");
    Object.assign(this.range, {type: "range", min: 0, max: 0, disabled: true});
    this.range.setAttribute("aria-label", "step that is shown");
    this.legend = document.createElement("output");
    this.time.append(this.line, this.range, this.legend);
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
      `${this.phases.filter((phase) => phase === "concrete").length} of them pulled`);
  }

  say(text) { this.legend.textContent = text; }

  begin() {
    this.done = null;
    this.pictures = [];
    this.range.disabled = true;
    for (const mark of this.line.children) mark.className = "";
    this.leaving ??= setTimeout(() => this.clear(), FADE);
  }

  clear() {
    for (const figure of [this.noisy, this.predicted]) figure.clear();
  }

  // A picture of these settings is there, or the slot itself goes.
  keep() {
    clearTimeout(this.leaving);
    this.leaving = null;
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
    this.keep();
    const {page} = this, {predicted} = this.pictures[k];
    const last = k === this.visited.length - 1 && this.done;
    // beside the result stands where it comes from: its own latent is no longer noisy
    const of = last ? 0 : k, {noisy} = this.pictures[of] ?? this.pictures[k];
    const size = page.info.imageSize, name = page.info.classNames[page.state.class];
    const when = `t = ${this.visited[k]}, ${this.phases[k]} phase`;
    this.noisy.caption(`${this.letter}noisy latent`);
    const alt = `Noisy latent, decoded: ${name}, t = ${this.visited[of]}`;
    this.noisy.show(noisy, size, page.border, alt);
    this.predicted.caption(this.letter + (last ? "recovered" : "predicted"));
    this.predicted.show(predicted, size, page.border, last
      ? `Recovered picture: ${name}` : `Predicted clean picture: ${name}, ${when}`);
    this.range.setAttribute("aria-valuetext", when);
  }

  // A result that was stored, not run.
  stored(level, noisy, predicted) {
    const {page} = this, name = page.info.classNames[page.state.class];
    const wanted = page.settings[this.number].noiseTimestep;
    this.begin();
    this.keep();
    this.noisy.caption(`${this.letter}noisy latent`);
    this.noisy.copy(...noisy, `Noisy latent, decoded: ${name}, noise level ${level}`);
    this.predicted.caption(`${this.letter}recovered`);
    const alt = `Recovered picture: ${name}, noise level ${level}`;
    this.predicted.copy(...predicted, alt);
    this.say(level === wanted ? `noise level ${level}: a stored result`
      : `a stored result for noise level ${level}; run for ${wanted}`);
  }

  // Nothing is known of these settings yet.
  empty() {
    this.begin();
    this.say(this.page.busy ? "as soon as the networks are here"
      : this.page.goesOn ? "in a moment" : "not computed yet: press run");
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
