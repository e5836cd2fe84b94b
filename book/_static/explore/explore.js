// Draws what a reader chooses of the stored numbers: STUDIES, by _ext/explore_page.py.
"use strict";

(() => {
  const root = document.querySelector(".explore");
  const form = root.querySelector("form");
  const folder = new URL(".", document.currentScript.src).href;
  const ALL = "each";
  const POOLED = "all, pooled";

  // Each choice is among what the choices before it leave.
  const CHOICES = {
    question: "Question",
    data: "Data",
    ipc: "Pictures per class",
    steps: "Steps of training",
    judge: "Who learns",
    norm: "Norm",
    against: "Compared with",
    set: "Set",
  };
  const SEVERAL = ["norm", "set"]; // of these one may see each value
  const FIRST = {
    question: "recovery",
    data: "fashion-mnist",
    ipc: "1",
    steps: "300",
    judge: "ShuffleNetV2",
    norm: ALL,
    set: POOLED,
  };
  const NAMES = {
    BN: "batch norm",
    GN: "group norm",
    IN: "instance norm",
    LN: "layer norm",
    none: "no norm",
    prior: "samples of the prior",
    "": "nothing: accuracies",
    "-": "random real pictures",
    [POOLED]: "all of them, pooled",
    each: "each",
  };
  const VERBS = {
    gains: ["gains", "gain"],
    loses: ["loses", "lose"],
    level: ["is level", "are level"],
    "not settled": ["isn't settled", "aren't settled"],
    "first look": ["has too few seeds for a word", "have too few seeds for a word"],
  };

  const lines = STUDIES.flatMap((study) =>
    study.lines.map((line) => ({ ...study, ...line, study })));
  for (const { question, asked, data, source } of STUDIES) {
    NAMES[question] = asked;
    NAMES[data] = source.replace(/ \(.*/, "");
  }
  const shown = (value) => NAMES[value] ?? value;
  const unique = (values) => [...new Set(values)];
  // "A, B and C", of texts or elements.
  const several = (words) => words.flatMap((word, i) =>
    i === 0 ? [word] : [i === words.length - 1 ? " and " : ", ", word]);

  function element(tag, attributes = {}, ...children) {
    const svg = ["svg", "line", "circle", "text"].includes(tag);
    const made = svg
      ? document.createElementNS("http://www.w3.org/2000/svg", tag)
      : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // What is wanted and there, else what the page begins with, else the first.
  function choose(wanted) {
    let left = lines;
    const chosen = {};
    const offered = {};
    for (const name of Object.keys(CHOICES)) {
      const count = (value) => left.filter((line) => line[name] === value).length;
      const there = unique(left.map((line) => line[name]));
      if (name === "against") there.sort((a, b) => !a - !b || count(b) - count(a));
      else there.sort((a, b) => (b === FIRST[name]) - (a === FIRST[name]) ||
        a.localeCompare(b, "en", { numeric: true }));
      if (SEVERAL.includes(name) && there.length > 1) there.push(ALL);
      const value = [wanted[name], FIRST[name], there[0]].find((v) => there.includes(v));
      if (value !== ALL) left = left.filter((line) => line[name] === value);
      chosen[name] = value;
      offered[name] = there;
    }
    const rows = unique(left.map((line) => line.row));
    const kept = rows.filter((row) => wanted.rows?.includes(row));
    chosen.rows = kept.length ? kept : rows;
    return { chosen, offered, rows, left: left.filter((l) => chosen.rows.includes(l.row)) };
  }

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    return { ...Object.fromEntries(given), rows: given.getAll("row") };
  }

  function address({ chosen, rows }) {
    const { rows: kept, ...single } = chosen;
    const view = new URLSearchParams(single);
    if (kept.length < rows.length) for (const row of kept) view.append("row", row);
    return `#${view}`;
  }

  // Whoever left no row out wants those of another view, too.
  function fromForm() {
    const given = new FormData(form);
    const all = form.querySelector("[name=row]:not(:checked)") === null;
    return { ...Object.fromEntries(given), rows: all ? [] : given.getAll("row") };
  }

  // ------------------------------------------------------------------ the choices

  function drawForm({ chosen, offered, rows }) {
    for (const name of Object.keys(CHOICES)) {
      const select = form.elements[name];
      select.replaceChildren(...offered[name].map((value) =>
        element("option", { value }, shown(value))));
      select.value = chosen[name];
      select.disabled = offered[name].length < 2;
    }
    const focused = document.activeElement?.value;
    const boxes = rows.map((row) => {
      const box = element("input", { type: "checkbox", name: "row", value: row });
      box.checked = chosen.rows.includes(row);
      return element("label", {}, box, ` ${shown(row)}`);
    });
    const place = root.querySelector(".explore-rows");
    const inside = place.contains(document.activeElement);
    place.replaceChildren(...boxes);
    if (inside) [...place.querySelectorAll("input")].find((b) => b.value === focused)?.focus();
  }

  // ------------------------------------------------------------------ the picture

  // An axis that holds all numbers: its ends, and round marks inside.
  function axisOf(left) {
    const numbers = left.flatMap((l) => [...l.values, l.low, l.high, l.points])
      .filter(Number.isFinite);
    if (left[0].against) numbers.push(0);
    const low = Math.min(...numbers);
    const high = Math.max(...numbers);
    const span = high - low || 1;
    const rough = span / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const marks = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) marks.push(i * step);
    const x = (value) => `${(100 * (0.04 + 0.92 * (value - low) / span)).toFixed(2)}%`;
    return { marks, x, digits: step < 1 ? 1 : 0 };
  }

  const signed = (value, digits, plus) =>
    (plus && value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "\u2212");

  function grid({ marks, x }, height) {
    return marks.map((mark) => element("line", {
      x1: x(mark), x2: x(mark), y1: 0, y2: height, class: mark === 0 ? "zero" : "mark",
    }));
  }

  function scale(axis, difference) {
    const texts = axis.marks.map((mark) => element("text", {
      x: axis.x(mark), y: 14, "text-anchor": "middle",
    }, signed(mark, axis.digits, difference)));
    return element("svg", { class: "explore-scale", height: 20, "aria-hidden": "true" },
      ...texts);
  }

  function strip(line, axis) {
    const { x } = axis;
    const height = 32;
    const dots = line.values.map((value, i) => value === null ? "" : element("circle", {
      cx: x(value), cy: 5 + (22 * i) / Math.max(1, line.values.length - 1), r: 2.5,
      class: "seed",
    }));
    const bar = Number.isFinite(line.low)
      ? [element("line", { x1: x(line.low), x2: x(line.high), y1: 16, y2: 16, class: "interval" })]
      : [];
    const mean = element("circle", { cx: x(line.points), cy: 16, r: 5, class: "mean" });
    return element("svg", { height, "aria-hidden": "true" },
      ...grid(axis, height), ...dots, ...bar, mean);
  }

  // A line opens: what each seed said.
  function lineOf(line, axis) {
    const each = line.seeds.map((seed, i) => {
      const value = line.values[i];
      const told = value === null ? "failed" : signed(value, 2, Boolean(line.against));
      return element("li", {}, `seed ${seed}: ${told}`);
    });
    const head = element("summary", {},
      element("span", { class: "explore-row" }, shown(line.row)),
      strip(line, axis),
      element("span", { class: "explore-number" },
        line.word ? element("b", {}, line.word) : "", ` ${line.text}`));
    return element("details", { class: "explore-line" }, head, element("ul", {}, ...each));
  }

  // What the numbers of a panel allow to say.
  function sentence(found) {
    const [{ against }] = found;
    if (!against) return ["Mean and standard deviation over seeds, in percent. " +
      "Compare with a row to see which differences the numbers allow."];
    const parts = Object.entries(VERBS).map(([word, [one, many]]) => {
      const rows = found.filter((line) => line.word === word);
      const names = rows.map((line) => element("i", {}, shown(line.row)));
      return rows.length ? [...several(names), ` ${rows.length > 1 ? many : one}`] : [];
    });
    const clauses = parts.filter((part) => part.length);
    return ["Against ", element("i", {}, shown(against)), ", ",
      ...clauses.flatMap((part, i) => i ? ["; ", ...part] : part), "."];
  }

  function panel(found, axis, withFile) {
    const [first] = found;
    const norms = first.norm.split(", ").map(shown);
    const set = first.set === POOLED ? "all sets, pooled" : shown(first.set);
    const title = `${first.judge} with ${several(norms).join("")}, ${set}`;
    return element("section", { class: "explore-panel" },
      element("h2", {}, title + (withFile ? ` (${first.name})` : "")),
      element("p", { class: "explore-say" }, ...sentence(found)),
      scale(axis, Boolean(first.against)),
      ...found.map((line) => lineOf(line, axis)));
  }

  function origin(study) {
    const files = study.files.map((name) => element("li", {},
      element("a", { href: folder + name, download: name }, `results/${name}`)));
    return element("section", { class: "explore-origin" },
      element("p", {}, `${study.source}, ${study.pictures}, ${study.seeds.length} seeds; ` +
        `commit ${study.commit}, ${study.date}. Files to download:`),
      element("ul", {}, ...files),
      element("p", {}, "The command that made them" +
        (study.command.includes("FOLDER") ? ", with the folder of sets that don't ship:" : ":")),
      element("pre", { tabindex: "0" }, study.command));
  }

  function draw(wanted) {
    const view = choose(wanted);
    drawForm(view);
    const { left } = view;
    const axis = axisOf(left);
    const key = (line) => [line.name, line.judge, line.norm, line.set].join("|");
    const groups = unique(left.map(key)).map((k) => left.filter((l) => key(l) === k));
    const used = unique(left.map((line) => line.study));
    root.querySelector(".explore-panels").replaceChildren(
      ...groups.map((found) => panel(found, axis, used.length > 1)));
    root.querySelector(".explore-origins").replaceChildren(...used.map(origin));
    return view;
  }

  // ------------------------------------------------------------------ begin

  form.querySelector(".explore-choices").append(
    ...Object.entries(CHOICES).map(([name, label]) =>
      element("label", {}, element("span", {}, label), element("select", { name }))));
  form.addEventListener("change", () => {
    history.replaceState(null, "", address(draw(fromForm())));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => draw(fromAddress()));
  draw(fromAddress());
  form.hidden = false;
  root.querySelector(".explore-missing").remove();
})();
