// The worker of the page "Play with DIVER": runtime and networks live here, so that the
// page itself never waits. It begins with the texts of diver.js and noise.js.
//
// In:  {type: "part", bundle, text, last}    base64 of the next piece of a bundle
//      {type: "open", prior, runtime}        make the networks of a prior ready
//      {type: "run", id, ...}                recover one image; a newer id ends it
//      {type: "show", id, key, step}         decode one step of a finished run
//      {type: "stop"}
// Out: {type: "opened" | "start" | "step" | "done" | "shown" | "failed", ...}
"use strict";

const bundles = {};  // name -> pieces, then bytes
const sessions = {};  // prior -> {denoise, encode, decode}
const runs = new Map();  // key of a finished run -> its steps
let runtime = null;  // "wasm" or "webgpu"
let current = 0;  // id of the run that may go on

const KEPT_RUNS = 4;
const PICTURES = 0.25;  // share of the time that pictures on the way may take

function receive({bundle, text, last}) {
  const pieces = (bundles[bundle] ??= []);
  pieces.push(fromBase64(text));
  if (!last) return;
  const stream = new Blob(pieces).stream().pipeThrough(new DecompressionStream("gzip"));
  bundles[bundle] = new Response(stream).arrayBuffer();
}

function fromBase64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function unpack(name, files) {
  const bytes = await bundles[name];
  delete bundles[name];
  return Object.fromEntries(Object.entries(files).map(
    ([file, [from, to]]) => [file, new Uint8Array(bytes, from, to - from)]));
}

const asUrl = (bytes) =>
  URL.createObjectURL(new Blob([bytes], {type: "text/javascript"}));

async function startRuntime(kind, files) {
  const {library, glue, machine} = await unpack(`runtime-${kind}`, files);
  importScripts(asUrl(library));
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = 1;  // more need headers that a file has not
  ort.env.wasm.wasmBinary = machine.slice().buffer;
  ort.env.wasm.wasmPaths = {mjs: asUrl(glue)};
  runtime = kind;
}

async function open({prior, kind, manifest}) {
  if (sessions[prior]) return;
  if (!runtime) await startRuntime(kind, manifest.bundles[`runtime-${kind}`].files);
  const {files} = manifest.bundles[`prior-${prior}`];
  const networks = await unpack(`prior-${prior}`, files);
  const options = {executionProviders: [runtime], logSeverityLevel: 3};
  const opened = {info: manifest.priors[prior]};
  for (const [name, bytes] of Object.entries(networks))
    opened[name] = await ort.InferenceSession.create(bytes, options);
  await check(opened);
  sessions[prior] = opened;
}

// The networks must answer as they did where they were exported: not every graphics
// driver computes rightly. It also warms them up.
async function check(opened) {
  const {check: expected, latentShape} = opened.info;
  const noise = Noise.standardNormal(0, 0, latentShape.reduce((a, b) => a * b));
  const found = await asPrior(opened).predictNoise(noise, 500, [0], 1);
  const error = Math.max(...expected.map((value, i) => Math.abs(value - found[i])));
  if (!(error < 0.02)) throw new Error(`wrong results from ${runtime} (${error})`);
}

async function call(session, inputs) {
  const {output} = await session.run(inputs);
  return output.getData();
}

const floats = (data, shape) => new ort.Tensor("float32", data, shape);
const integers = (data) =>
  new ort.Tensor("int64", BigInt64Array.from(data, BigInt), [data.length]);

// What `Diver.recoverSteps` asks of a prior, for a batch of one image.
function asPrior({info, denoise}) {
  const {latentShape, classNames, alphasCumprod} = info;
  async function predictNoise(latents, timestep, classLabels, guidanceScale) {
    const noClass = guidanceScale === 1 ? [] : [classNames.length];
    const labels = [...classLabels, ...noClass];
    const both = new Float32Array(latents.length * labels.length);
    labels.forEach((_, i) => both.set(latents, i * latents.length));
    const answer = await call(denoise, {
      latents: floats(both, [labels.length, ...latentShape]),
      timestep: integers(labels.map(() => timestep)),
      class_labels: integers(labels),
    });
    if (guidanceScale === 1) return answer;
    const half = latents.length;
    const [conditional, unconditional] = [answer.slice(0, half), answer.slice(half)];
    return Diver.classifierFree(conditional, unconditional, guidanceScale);
  }
  return {alphasCumprod, predictNoise};
}

function encode({info, encode: session}, image) {
  const size = info.imageSize;
  return call(session, {images: floats(image, [1, 3, size, size])});
}

function decode({info, decode: session}, latents) {
  return call(session, {latents: floats(latents, [1, ...info.latentShape])});
}

// Let messages in: without it a restart would wait for the whole run.
const {port1, port2} = new MessageChannel();
const breathe = () => new Promise((done) => {
  port1.onmessage = done;
  port2.postMessage(null);
});

async function run({id, key, prior, image, classLabel, index, seed, config}) {
  const opened = sessions[prior], began = performance.now();
  const clip = (value) => Math.min(Math.max(value, 0), 1);
  const pixels = config.clipInput ? image.map(clip) : image;
  const z0 = await encode(opened, pixels);
  const vaeOnly = await decode(opened, z0);
  postMessage({type: "start", id, key, vaeOnly});
  const noise = Noise.standardNormal(seed, index, z0.length);
  const visited = Diver.timesteps(config, opened.info.alphasCumprod.length);
  const steps = [];
  let drawing = 0;  // milliseconds that pictures took
  for await (const step of Diver.recoverSteps(
    z0, [classLabel], asPrior(opened), config, noise)) {
    await breathe();
    if (current !== id) return;
    steps.push(step);
    const seen = {}, before = performance.now();
    if (steps.length === 1 || drawing < PICTURES * (before - began)) {
      seen.predicted = await decode(opened, step.predOriginal);
      seen.noisy = await decode(opened, step.latents);
      drawing += performance.now() - before;
    }
    const {timestep, phase, guided} = step;
    postMessage({type: "step", id, key, k: steps.length - 1, count: visited.length,
      timestep, phase, guided, ...seen});
  }
  const last = steps.at(-1).latents;
  const finite = last.every(Number.isFinite);
  const recovered = finite ? await decode(opened, last) : null;
  if (current !== id) return;
  const seconds = (performance.now() - began) / 1000;
  runs.set(key, {prior, steps});
  if (runs.size > KEPT_RUNS) runs.delete(runs.keys().next().value);
  postMessage({type: "done", id, key, recovered, seconds, runtime});
}

async function show({key, k}) {
  const {prior, steps} = runs.get(key) ?? {};
  if (!steps) return;
  const opened = sessions[prior], step = steps[k];
  const predicted = await decode(opened, step.predOriginal);
  const noisy = await decode(opened, step.latents);
  postMessage({type: "shown", key, k, predicted, noisy});
}

// A network answers one question at a time, so what is asked waits for its turn.
let turn = Promise.resolve();
function inTurn(id, work) {
  turn = turn.then(work).catch((error) =>
    postMessage({type: "failed", id, error: String(error?.message ?? error)}));
}

self.onmessage = ({data}) => {
  if (data.type === "part") receive(data);
  else if (data.type === "stop") current = 0;
  else if (data.type === "open") {
    inTurn(0, async () => {
      await open(data);
      postMessage({type: "opened", prior: data.prior, runtime});
    });
  } else if (data.type === "run") {
    current = data.id;
    inTurn(data.id, async () => current === data.id && run(data));
  } else if (data.type === "show") inTurn(0, () => show(data));
};
