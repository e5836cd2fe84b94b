// Pictures for "Play with DIVER": floats to pixels, pixels to floats, a drawing pad.
"use strict";

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
  const first = canvas.width;
  context.drawImage(drawable, left, top, square, square, 0, 0, first, first);
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

const sheets = {};  // address of a sheet -> promise of its picture
function openSheet(address) {
  sheets[address] ??= (async () => {
    const image = new Image();
    image.src = address;
    await image.decode();
    return image;
  })();
  return sheets[address];
}

// A canvas with a caption, and a text for readers who don't see it.
function addFigure(parent, title) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption");
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
    // one picture out of a sheet of stored ones
    copy(sheet, column, row, size, border, alt) {
      const side = size - 2 * border;
      canvas.width = canvas.height = side;
      canvas.getContext("2d").drawImage(sheet, column * size + border,
        row * size + border, side, side, 0, 0, side, side);
      canvas.setAttribute("aria-label", alt);
    },
    show(pixels, size, border, alt) {
      paint(canvas, pixels, size, border);
      canvas.setAttribute("aria-label", alt);
    },
  };
}

// What the pad shows until somebody draws: prior -> class, and shapes on 256 x 256,
// colour and corners each.
const SKETCHES = {
  "fashion-mnist": {
    class: 9,  // an ankle boot
    shapes: [
      ["#000", "0,0 256,0 256,256 0,256"],
      ["#d0d0d0", "54,80 108,64 112,128 218,138 230,172 230,214 40,214 40,120"],
      ["#404040", "40,200 230,200 230,214 40,214"],
      ["#404040", "74,88 106,88 106,95 74,95"],
      ["#404040", "74,106 106,106 106,113 74,113"],
      ["#404040", "74,124 106,124 106,131 74,131"],
    ],
  },
  cifar10: {
    class: 1,  // an automobile
    shapes: [
      ["#a8c4dc", "0,0 256,0 256,150 0,150"],
      ["#808080", "0,150 256,150 256,256 0,256"],
      ["#c03030", "16,128 62,118 92,78 172,78 206,118 240,130 244,186 14,186"],
      ["#203040", "76,116 98,88 126,88 126,116"],
      ["#203040", "136,88 166,88 190,116 136,116"],
      ["#202020", "48,172 64,160 84,160 98,172 98,194 84,206 64,206 48,194"],
      ["#202020", "160,172 174,160 194,160 210,172 210,194 194,206 174,206 160,194"],
    ],
  },
};

// Draw with mouse, finger, or arrow keys and space.
class DrawingPad {
  constructor(canvas, form, changed) {
    this.canvas = canvas;
    this.form = form;
    this.changed = changed;
    this.context = canvas.getContext("2d");
    this.at = {x: 128, y: 128};
    this.down = false;
    this.touched = false;  // by the reader
    this.sketch("fashion-mnist");
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.at = this.where(event);
      this.down = true;
      this.lineTo(this.at);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.down || !event.buttons) return;
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const e of passed.length ? passed : [event]) this.lineTo(this.where(e));
    });
    canvas.addEventListener("pointerup", () => this.lift());
    canvas.addEventListener("pointercancel", () => this.lift());
    canvas.addEventListener("keydown", (event) => this.key(event));
    form.elements.clear.addEventListener("click", () => {
      this.fill("#000");
      changed(null);
    });
    form.elements.fill.addEventListener("click", () => {
      this.fill(form.elements.colour.value);
      changed(canvas);
    });
  }

  fill(colour) {
    this.touched = true;
    this.context.fillStyle = colour;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  // So that there is something to recover before anybody draws.
  sketch(prior) {
    this.shows = prior;
    for (const [colour, corners] of SKETCHES[prior].shapes) {
      this.context.fillStyle = colour;
      this.context.fill(new Path2D(`M${corners}Z`));
    }
  }

  where(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return {
      x: (event.clientX - box.left) * scale,
      y: (event.clientY - box.top) * scale,
    };
  }

  lineTo(to) {
    const {context, form} = this;
    this.touched = true;
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
