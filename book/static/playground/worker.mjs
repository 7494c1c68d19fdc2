// Runs outside the page's own thread: the network, the real digits and the two heads. Each message gets one answer.
import { decode } from "./kit.mjs";
import { fit } from "./logistic.mjs";
import { LENGTH, SIDE, blocks, enlarge, threefold } from "./pictures.mjs";

const CHUNK = 32;
let ort, session, digits, test, heads = null;

const handlers = {
  // Fetch the runtime, the network and the digits. base: address of _static/.
  async load({ base }) {
    ort = await import(base + "vendor/ort/ort.wasm.bundle.min.mjs");
    ort.env.wasm.numThreads = 1; // more threads need headers that a plain web server does not send
    ort.env.wasm.wasmBinary = await unzipped(base + "vendor/ort/ort-wasm-simd-threaded.wasm.gz");
    const model = await fetched(base + "playground/features.onnx");
    session = await ort.InferenceSession.create(new Uint8Array(await model.arrayBuffer()), { executionProviders: ["wasm"] });
    digits = await (await fetched(base + "playground/digits.json")).json();
    for (const split of ["train", "test"]) digits[split].images = decode(digits[split].images);
    await features({ pixels: new Uint8Array(LENGTH) }); // the first run is slow
    return { curve: digits.curve };
  },

  features,

  // The training digits of class `label` in random subset number `draw`, in order, as a list of pixels.
  async digits({ draw, label }) {
    return { pictures: digits.orders[draw][label].map((i) => picture(digits.train.images, i)) };
  },

  // A held-out digit to start with.
  async sample() {
    return { pixels: picture(digits.test.images, 4) };
  },

  // Fit a head on the network's features and one on pixels. labels: numbers below names.length, in which every class occurs.
  async fit({ features: rows, pixels: coarse, labels, names }) {
    heads = { network: fit(rows, labels, names.length), pixels: fit(coarse, labels, names.length) };
    return names.every((name) => /^[0-9]$/.test(name)) ? { test: await accuracy(names) } : { test: null };
  },

  async forget() {
    heads = null;
    return {};
  },

  async classify({ pixels }) {
    if (!heads) return { network: null, pixels: null };
    const { features: row } = await features({ pixels });
    return { network: heads.network(row)[0], pixels: heads.pixels(blocks(pixels))[0] };
  },
};

// pixels: Uint8Array [n * 3 * 32 * 32] -> Float32Array [n * F]
async function features({ pixels }) {
  const n = pixels.length / LENGTH, parts = [];
  for (let i = 0; i < n; i += CHUNK) {
    const some = Float32Array.from(pixels.subarray(i * LENGTH, (i + CHUNK) * LENGTH), (v) => v / 127.5 - 1);
    const x = new ort.Tensor("float32", some, [some.length / LENGTH, 3, SIDE, SIDE]);
    parts.push((await session.run({ x })).features.data);
  }
  const out = new Float32Array(parts.reduce((sum, p) => sum + p.length, 0));
  parts.reduce((at, p) => { out.set(p, at); return at + p.length; }, 0);
  return { features: out };
}

const picture = (images, i) => threefold(enlarge(images.subarray(64 * i, 64 * i + 64), 8));

// Accuracy on the held-out digits whose class is in `names`. Their features are computed only once.
async function accuracy(names) {
  if (!test) {
    const all = Uint8Array.from(digits.test.labels.flatMap((_, i) => Array.from(picture(digits.test.images, i))));
    test = { features: (await features({ pixels: all })).features };
    test.pixels = Float32Array.from(digits.test.labels.flatMap((_, i) =>
      Array.from(blocks(all.subarray(i * LENGTH, (i + 1) * LENGTH)))));
  }
  const result = { count: 0 };
  for (const [name, head] of Object.entries(heads)) {
    const table = test[name === "network" ? "features" : "pixels"], width = table.length / digits.test.labels.length;
    let right = 0, count = 0;
    digits.test.labels.forEach((label, i) => {
      const truth = names.indexOf(String(label));
      if (truth < 0) return;
      const p = head(table.subarray(i * width, (i + 1) * width))[0];
      count += 1;
      right += p.indexOf(Math.max(...p)) === truth;
    });
    result[name] = right / count;
    result.count = count;
  }
  return result;
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address.split("/").at(-1)}: ${answer.status} ${answer.statusText}`);
  return answer;
}

// A gzip file, unpacked to bytes. Some servers unpack it on the way, so check first.
async function unzipped(address) {
  const bytes = await (await fetched(address)).arrayBuffer(), [a, b] = new Uint8Array(bytes, 0, 2);
  if (a !== 0x1f || b !== 0x8b) return bytes;
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// One request at a time: a session must not run twice at once.
let queue = Promise.resolve();
self.onmessage = ({ data: { id, what, ...given } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ id, ...await handlers[what](given) });
    } catch (error) {
      self.postMessage({ id, error: String(error.message ?? error) });
    }
  });
};
