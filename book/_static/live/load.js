// Loading for "Play with DIVER": bundles that come as scripts, which also a page that
// was opened from disk may add.
"use strict";

// Scripts of a bundle call Live.part(bundle, number, text).
const awaited = {};
const Live = {part: (bundle, number, text) => awaited[`${bundle}-${number}`]?.(text)};

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

// Image (3, S, S) of a set whose pictures may have one channel.
function imageOf(images, index, channels, size) {
  const plane = size * size, from = index * channels * plane;
  const image = new Float32Array(3 * plane);
  for (let c = 0; c < 3; c++) {
    const start = from + (channels === 3 ? c * plane : 0);
    image.set(images.subarray(start, start + plane), c * plane);
  }
  return image;
}
