// DIVER, top to bottom: inherit, denoise, guide inside a window.
//
// The same algorithm as diver_lite/recovery.py, under the same names. Read it in this
// order: `DEFAULTS` (what can be chosen), `inherit` and `guide` (the two formulas),
// `recoverSteps` (the loop). Latents are flat Float32Arrays of a whole batch.
"use strict";

const Diver = (() => {
  // Guided while high >= t > low, in training timesteps of T = 1000.
  const WINDOWS = {
    published: [816, 510],
    late: [400, -1],
    early: [1000, 816],
    full: [1000, -1],
    none: [-1, -1],
  };

  // RecoveryConfig's fields and defaults; `PUBLISHED` changes what the paper chose.
  const DEFAULTS = {
    numInferenceSteps: 50,
    guidanceScale: 1.5,
    noiseTimestep: 700,
    start: "matched",
    guidanceFactor: 0.1,
    guidanceTarget: "x0",
    window: WINDOWS.published,
    clipInput: true,
  };
  const PUBLISHED = {
    guidanceScale: 4,
    noiseTimestep: 510,
    start: "published",
    guidanceTarget: "latent",
    clipInput: false,
  };

  // abar of every training timestep, for DDPM's linear betas.
  function alphasCumprod(total = 1000, betaStart = 1e-4, betaEnd = 0.02) {
    let product = 1;
    return Float32Array.from({length: total}, (_, t) =>
      (product *= 1 - betaStart - ((betaEnd - betaStart) * t) / (total - 1)));
  }

  // abar of a timestep, 1 where all noise is gone.
  function abarAt(alphasCumprod, timestep) {
    return timestep < 0 ? 1 : alphasCumprod[timestep];
  }

  // The timesteps that the reverse process visits, noisiest first.
  function timesteps(config, total = 1000) {
    const {numInferenceSteps: steps, noiseTimestep, start} = config;
    const stride = Math.floor(total / steps);  // diffusers calls it "leading"
    const grid = Array.from({length: steps}, (_, i) => (steps - 1 - i) * stride);
    if (start === "published") return grid;
    return [noiseTimestep, ...grid.filter((t) => t < noiseTimestep)];
  }

  // "chaotic", "concrete" (the window) or "refinement".
  function phase(config, timestep) {
    const [high, low] = config.window;
    if (timestep > high) return "chaotic";
    return timestep > low ? "concrete" : "refinement";
  }

  // Noise clean latents to a given level (semantic inheritance, SI).
  function inherit(latents, noise, alphaCumprod) {
    const [signal, level] = [Math.sqrt(alphaCumprod), Math.sqrt(1 - alphaCumprod)];
    return latents.map((z, i) => signal * z + level * noise[i]);
  }

  // Pull latents towards the inherited ones (semantic guidance, SG): down the gradient
  // of sigma_k / 2 ||difference||^2.
  function guide(latents, difference, sigma, gamma) {
    return latents.map((z, i) => z - gamma * sigma * difference[i]);
  }

  // sigma_k: the std of DDPM's posterior between two timesteps.
  function guidanceSigma(alpha, alphaPrev) {
    return Math.sqrt(((1 - alphaPrev) / (1 - alpha)) * (1 - alpha / alphaPrev));
  }

  // sigma_k of a step that is as long as so many of the paper's: pulls compound.
  function compounded(sigma, gamma, paperSteps) {
    return (1 - Math.max(0, 1 - gamma * sigma) ** paperSteps) / gamma;
  }

  // Run the reverse process, one step {timestep, phase, latents, predOriginal, guided}
  // at a time; the last one's `latents` are the result. DDIM with eta = 0.
  //
  // latents: z_0, the encoded distilled images; noise: as many standard normal numbers;
  // prior: {alphasCumprod, predictNoise(latents, timestep, classLabels, scale)}.
  async function* recoverSteps(latents, classLabels, prior, config, noise) {
    const z0 = latents, abar = prior.alphasCumprod;
    const visited = timesteps(config, abar.length);
    let z = inherit(z0, noise, abar[config.noiseTimestep]);
    for (const [k, timestep] of visited.entries()) {
      const after = k + 1 < visited.length ? visited[k + 1] : -1;
      const [alpha, alphaPrev] = [abarAt(abar, timestep), abarAt(abar, after)];
      const scale = config.guidanceScale;
      const eps = await prior.predictNoise(z, timestep, classLabels, scale);
      const [clean, noisy] = [Math.sqrt(alpha), Math.sqrt(1 - alpha)];
      const x0 = z.map((v, i) => (v - noisy * eps[i]) / clean);
      // the paper pulls z_k, the state before the update, towards z_0
      const pulled = config.guidanceTarget === "latent" ? z : x0;
      const [signal, level] = [Math.sqrt(alphaPrev), Math.sqrt(1 - alphaPrev)];
      z = x0.map((v, i) => signal * v + level * eps[i]);  // DDIM

      const now = phase(config, timestep);
      // no pull in the last step: nothing would denoise after it
      const guided = now === "concrete" && config.guidanceFactor > 0 && after > -1;
      if (guided) {
        const difference = pulled.map((v, i) => v - z0[i]);
        const whole = abar.length / 50;  // a step of the paper: the pull is a rate
        const sigma = guidanceSigma(alpha, abarAt(abar, timestep - whole));
        const paperSteps = (timestep - after) / whole;
        const gamma = config.guidanceFactor;
        z = guide(z, difference, compounded(sigma, gamma, paperSteps), gamma);
      }
      yield {timestep, phase: now, latents: z, predOriginal: x0, guided};
    }
  }

  // eps_u + s (eps_c - eps_u): classifier-free guidance.
  function classifierFree(epsCond, epsUncond, scale) {
    return epsUncond.map((u, i) => u + scale * (epsCond[i] - u));
  }

  return {
    WINDOWS, DEFAULTS, PUBLISHED, alphasCumprod, timesteps, phase, inherit, guide,
    guidanceSigma, recoverSteps, classifierFree,
  };
})();

if (typeof module !== "undefined") module.exports = Diver;
