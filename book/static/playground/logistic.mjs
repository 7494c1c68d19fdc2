// Multinomial logistic regression on standardised features: the head that bitlib.linear_probe fits, and scikit-learn's
// LogisticRegression(C=1): sum of cross-entropies + half the squared length of the weights, biases free.
//
// There are few examples and many features, so the weights are stored as combinations of the examples, W = Z'A. That way only
// the table K = Z Z' of inner products is needed. Minimised by L-BFGS (Nocedal 1980) with the inner product of the weights.

import { softmax } from "./kit.mjs";

const MEMORY = 10, ITERATIONS = 500, TOLERANCE = 1e-4;

// features: Float32Array [n * d]; labels: n numbers below `classes`, in which every class occurs.
// Returns a function that maps features [m * d] to probabilities, an array of m arrays.
export function fit(features, labels, classes) {
  const n = labels.length, d = features.length / n;
  const { z, mean, scale } = standardize(features, n, d);
  const K = products(z, n, d);
  const onehot = new Float64Array(n * classes);
  labels.forEach((y, i) => { onehot[i * classes + y] = 1; });

  // A point is [A, b] in one array. `image` multiplies A by K and leaves b as it is, where the inner product is the usual one.
  const size = n * classes + classes;
  const image = (v) => {
    const out = new Float64Array(size);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const k = K[i * n + j];
        for (let c = 0; c < classes; c++) out[i * classes + c] += k * v[j * classes + c];
      }
    }
    for (let c = n * classes; c < size; c++) out[c] = v[c];
    return out;
  };
  const dot = (a, b) => { let s = 0; for (let i = 0; i < size; i++) s += a[i] * b[i]; return s; };
  const add = (a, t, b) => { const out = a.slice(); for (let i = 0; i < size; i++) out[i] += t * b[i]; return out; };

  // Loss and gradient at v, where Kv = image(v).
  const evaluate = (v, Kv) => {
    const gradient = new Float64Array(size);
    let loss = 0;
    for (let i = 0; i < n; i++) {
      const scores = Array.from({ length: classes }, (_, c) => Kv[i * classes + c] + v[n * classes + c]);
      const p = softmax(scores);
      loss -= Math.log(Math.max(p[labels[i]], 1e-300));
      for (let c = 0; c < classes; c++) {
        const r = p[c] - onehot[i * classes + c];
        gradient[i * classes + c] = r + v[i * classes + c];
        gradient[n * classes + c] += r;
        loss += 0.5 * v[i * classes + c] * Kv[i * classes + c];
      }
    }
    return { loss, gradient };
  };

  let v = new Float64Array(size), Kv = image(v), { loss, gradient } = evaluate(v, Kv), Kg = image(gradient);
  const past = [];
  for (let step = 0; step < ITERATIONS && Math.sqrt(dot(gradient, Kg)) > TOLERANCE * n; step++) {
    let direction = gradient.slice(), Kd = Kg.slice();
    const weights = [];
    for (const h of [...past].reverse()) {
      const a = dot(h.Ks, direction) / h.sy;
      weights.unshift(a);
      direction = add(direction, -a, h.y);
      Kd = add(Kd, -a, h.Ky);
    }
    const last = past.at(-1), gamma = last ? last.sy / dot(last.y, last.Ky) : 1 / (1 + Math.sqrt(dot(gradient, Kg)));
    direction = direction.map((x) => x * gamma);
    Kd = Kd.map((x) => x * gamma);
    past.forEach((h, i) => {
      const a = weights[i] - dot(h.Ky, direction) / h.sy;
      direction = add(direction, a, h.s);
      Kd = add(Kd, a, h.Ks);
    });
    const slope = dot(gradient, Kd);
    let t = 1, next;
    for (;;) {
      const w = add(v, -t, direction), Kw = add(Kv, -t, Kd);
      next = { v: w, Kv: Kw, ...evaluate(w, Kw) };
      if (next.loss <= loss - 1e-4 * t * slope || t < 1e-8) break;
      t /= 2;
    }
    const Knext = image(next.gradient), s = add(next.v, -1, v), y = add(next.gradient, -1, gradient);
    const h = { s, y, Ks: add(next.Kv, -1, Kv), Ky: add(Knext, -1, Kg) };
    h.sy = dot(s, h.Ky);
    if (h.sy > 0) past.push(h);
    if (past.length > MEMORY) past.shift();
    ({ v, Kv, loss, gradient } = next);
    Kg = Knext;
  }

  // Weights for the original features: W = Z'A / scale, with the mean folded into the bias.
  const W = new Float64Array(classes * d), bias = Array.from(v.subarray(n * classes));
  for (let c = 0; c < classes; c++) {
    for (let i = 0; i < n; i++) {
      const a = v[i * classes + c];
      for (let k = 0; k < d; k++) W[c * d + k] += a * z[i * d + k];
    }
    for (let k = 0; k < d; k++) {
      W[c * d + k] /= scale[k];
      bias[c] -= W[c * d + k] * mean[k];
    }
  }
  return (inputs) => Array.from({ length: inputs.length / d }, (_, i) => softmax(bias.map((b, c) => {
    let s = b;
    for (let k = 0; k < d; k++) s += W[c * d + k] * inputs[i * d + k];
    return s;
  })));
}

function standardize(features, n, d) {
  const mean = new Float64Array(d), scale = new Float64Array(d), z = new Float64Array(n * d);
  for (let i = 0; i < n; i++) for (let k = 0; k < d; k++) mean[k] += features[i * d + k] / n;
  for (let i = 0; i < n; i++) for (let k = 0; k < d; k++) scale[k] += (features[i * d + k] - mean[k]) ** 2 / n;
  for (let k = 0; k < d; k++) scale[k] = Math.max(Math.sqrt(scale[k]), 1e-6);
  for (let i = 0; i < n; i++) for (let k = 0; k < d; k++) z[i * d + k] = (features[i * d + k] - mean[k]) / scale[k];
  return { z, mean, scale };
}

function products(z, n, d) {
  const K = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let s = 0;
      for (let k = 0; k < d; k++) s += z[i * d + k] * z[j * d + k];
      K[i * n + j] = K[j * n + i] = s;
    }
  }
  return K;
}
