// The noise of `diver_lite.priors.dit.draw_noise`: NumPy's default generator, in JavaScript.
//
// np.random.default_rng([seed, index]).standard_normal(n, dtype=float32), equal but for
// a last bit in the tails: SeedSequence mixes the two numbers, PCG64 draws integers, a
// ziggurat of 256 layers makes them normal. Source: numpy/random, bit_generator.pyx,
// pcg64.c, distributions.c.
"use strict";

const Noise = (() => {
  const LAYERS = 256, R = 3.6541528853610088, AREA = 0.00492867323399, BITS = 2 ** 23;
  const bound = new Uint32Array(LAYERS);  // below it a draw lies inside its layer
  const width = new Float32Array(LAYERS), height = new Float32Array(LAYERS);
  {
    const density = (x) => Math.exp(-0.5 * x * x);
    const base = AREA / density(R);
    [bound[0], bound[1]] = [(R / base) * BITS, 0];
    [width[0], width[LAYERS - 1]] = [base / BITS, R / BITS];
    [height[0], height[LAYERS - 1]] = [1, density(R)];
    for (let i = LAYERS - 2, x = R; i >= 1; i--) {
      const next = Math.sqrt(-2 * Math.log(AREA / x + density(x)));
      bound[i + 1] = (next / x) * BITS;
      [width[i], height[i]] = [next / BITS, density(next)];
      x = next;
    }
  }

  // SeedSequence([...entropy]).generate_state(8): eight 32-bit words.
  function seedWords(entropy) {
    const mixed = (constant, factor) => (value) => {
      value = Math.imul(value ^ constant, (constant = Math.imul(constant, factor)));
      return (value ^ (value >>> 16)) >>> 0;
    };
    const hash = mixed(0x43b0d7e5, 0x931e8875);
    const mix = (x, y) => {
      const both = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) >>> 0;
      return (both ^ (both >>> 16)) >>> 0;
    };
    const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
    for (let from = 0; from < 4; from++)
      for (let to = 0; to < 4; to++)
        if (from !== to) pool[to] = mix(pool[to], hash(pool[from]));
    const draw = mixed(0x8b51f9dd, 0x58f38ded);
    return Array.from({length: 8}, (_, i) => draw(pool[i % 4]));
  }

  // PCG64 (XSL-RR), which hands out the halves of its 64-bit integers, low one first.
  function generator(entropy) {
    const words = seedWords(entropy).map(BigInt);
    const wide = (i) => (words[i + 1] << 96n) | (words[i] << 64n)
      | (words[i + 3] << 32n) | words[i + 2];
    const MASK = (1n << 128n) - 1n, HALF = (1n << 64n) - 1n;
    const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
    const increment = ((wide(4) << 1n) | 1n) & MASK;
    const step = (state) => (state * MULTIPLIER + increment) & MASK;
    let state = step((increment + wide(0)) & MASK);
    let kept = null;
    return () => {
      if (kept !== null) {
        const high = kept;
        kept = null;
        return high;
      }
      state = step(state);
      const folded = (state >> 64n) ^ (state & HALF), turn = state >> 122n;
      const word = ((folded >> turn) | (folded << ((64n - turn) & 63n))) & HALF;
      kept = Number(word >> 32n);
      return Number(word & 0xffffffffn);
    };
  }

  // Standard normal numbers as Float32Array(length); seed, index: 0 .. 2^31 - 1.
  function standardNormal(seed, index, length) {
    const next = generator([seed, index]);
    const uniform = () => (next() >>> 8) / 2 ** 24;
    const normal = () => {
      for (;;) {
        const draw = next(), layer = draw & 0xff, size = draw >>> 9;
        const x = Math.fround(size * width[layer]) * (draw & 0x100 ? -1 : 1);
        if (size < bound[layer]) return x;
        if (layer === 0) {
          for (;;) {  // the tail
            const beyond = -Math.log1p(-uniform()) / R, other = -Math.log1p(-uniform());
            if (other + other > beyond * beyond)
              return (size >>> 8) & 1 ? -(R + beyond) : R + beyond;
          }
        }
        const step = height[layer - 1] - height[layer];
        if (step * uniform() + height[layer] < Math.exp(-0.5 * x * x)) return x;
      }
    };
    return Float32Array.from({length}, normal);
  }

  return {standardNormal};
})();

if (typeof module !== "undefined") module.exports = Noise;
