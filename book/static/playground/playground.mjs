// The page "Few-shot learning in your browser": classes, their examples, a canvas to try, and the curve on real digits.
import { barCell, button, decode, encode, gridline, mean, node, paint } from "./kit.mjs";
import { LENGTH, blocks, fromDrawing, fromFile } from "./pictures.mjs";

const MOST_CLASSES = 10, MOST_EXAMPLES = 100, PAUSE = 900; // milliseconds of rest that finish a drawing
const root = document.querySelector(".bl-playground");
const find = (name) => root.querySelector(`[data-part="${name}"]`);
const say = (text) => { find("status").textContent = text; };

// --- the worker: ask(what, given) -> promise of its answer ------------------------------------------------------------
const worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
const waiting = new Map();
let asked = 0;
worker.onmessage = ({ data }) => {
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  if (data.error) reject(new Error(data.error));
  else resolve(data);
};
function ask(what, given = {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, { resolve, reject });
    worker.postMessage({ id: asked, what, ...given });
  });
}

// --- state: classes with examples {pixels, features, coarse} ----------------------------------------------------------
let classes = [], draw = 0, measured = [], curve = null, ready = false;
const digitsOnly = () => classes.every((c) => /^[0-9]$/.test(c.name));

async function addExamples(target, pictures) {
  if (!ready) { say("One moment, the network is still loading."); return; }
  const room = MOST_EXAMPLES - target.examples.length;
  if (pictures.length > room) say(`A class can hold ${MOST_EXAMPLES} examples; ${pictures.length - room} were left out.`);
  const some = pictures.slice(0, room), pixels = new Uint8Array(LENGTH * some.length);
  if (!some.length) return;
  some.forEach((p, i) => pixels.set(p, i * LENGTH));
  const { features } = await ask("features", { pixels }), width = features.length / some.length;
  some.forEach((p, i) => target.examples.push({
    pixels: p, features: features.slice(i * width, (i + 1) * width), coarse: blocks(p) }));
}

// --- fitting: at once after every change; while a fit is running, only the latest change waits ----------------------------
let fitting = false, again = false;
async function refit() {
  show();
  if (fitting) { again = true; return; }
  fitting = true;
  do {
    again = false;
    const known = classes.filter((c) => c.examples.length);
    if (known.length < 2) {
      await ask("forget");
      say(classes.length < 2 ? "Add a second class." : "Give at least two of the classes an example.");
      find("result").textContent = "";
    } else {
      const all = known.flatMap((c, label) => c.examples.map((e) => ({ ...e, label })));
      const { test } = await ask("fit", { features: join(all.map((e) => e.features)), pixels: join(all.map((e) => e.coarse)),
        labels: all.map((e) => e.label), names: known.map((c) => c.name) });
      root.dataset.fitted = String(1 + Number(root.dataset.fitted ?? 0));
      say(`Fitted to ${all.length} examples of ${known.length} classes.`);
      report(test, all.length / known.length, known.length);
    }
    await classify();
  } while (again);
  fitting = false;
}

function join(arrays) {
  const out = new Float32Array(arrays.reduce((n, a) => n + a.length, 0));
  arrays.reduce((at, a) => { out.set(a, at); return at + a.length; }, 0);
  return out;
}

function report(test, shots, known) {
  find("digits").hidden = !test;
  if (!test) { find("result").textContent = ""; return; }
  const percent = (v) => (100 * v).toFixed(1) + " %";
  Object.assign(find("result").dataset, { network: test.network, pixels: test.pixels });
  find("result").textContent = `On ${test.count} held-out real digits: ${percent(test.network)} right with the network, `
    + `${percent(test.pixels)} from pixels alone.`;
  // Only heads for all ten classes can be compared with the published curve.
  if (known === 10) measured = [...measured.filter((m) => m.shots !== shots), { shots, ...test }].slice(-40);
  plot();
}

// --- trying -----------------------------------------------------------------------------------------------------------
let trying = false, latest = false;
async function classify() {
  latest = true;
  if (trying || !ready) return;
  trying = true;
  while (latest) {
    latest = false;
    const known = classes.filter((c) => c.examples.length), pixels = tryPad.pixels();
    const answer = pixels && known.length > 1 ? await ask("classify", { pixels }) : { network: null };
    guesses(known, answer);
  }
  trying = false;
}

function guesses(known, { network, pixels }) {
  const table = find("guesses");
  if (!network || network.length !== known.length) { table.replaceChildren(); find("verdict").textContent = ""; return; }
  const order = known.map((_, i) => i).sort((a, b) => network[b] - network[a]);
  table.replaceChildren(...order.slice(0, 5).map((i) => node("tr", {}, node("th", { scope: "row" }, known[i].name),
    ...[network[i], pixels[i]].map((p) => barCell(p, `${(100 * p).toFixed(0)} %`)))));
  const best = order[0], other = pixels.indexOf(Math.max(...pixels));
  find("verdict").textContent = `${known[best].name}, ${(100 * network[best]).toFixed(0)} % sure. `
    + `Pixels alone say ${other === best ? "the same" : known[other].name}.`;
}

// --- drawing ----------------------------------------------------------------------------------------------------------
// A pad to draw on. onStroke: called after every movement; onRest: called after a pause.
class Pad {
  constructor(canvas, onStroke, onRest) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    let last = null, timer;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      if (this.picture) this.clear(); // do not draw on top of an image
      canvas.setPointerCapture(event.pointerId);
      clearTimeout(timer);
      last = place(event);
      this.line(last, last);
      onStroke();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      for (const e of event.getCoalescedEvents?.() ?? [event]) { const p = place(e); this.line(last, p); last = p; }
      onStroke();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => { if (last) { last = null; timer = setTimeout(onRest, PAUSE); } });
    }
  }
  line([x, y], [u, v]) {
    Object.assign(this.context, { lineWidth: this.canvas.width / 11, lineCap: "round", lineJoin: "round", strokeStyle: "#fff" });
    this.context.beginPath();
    this.context.moveTo(x, y);
    this.context.lineTo(u + 0.01, v);
    this.context.stroke();
  }
  clear() { this.context.clearRect(0, 0, this.canvas.width, this.canvas.height); this.picture = null; }
  pixels() { return this.picture ?? fromDrawing(this.canvas, digitsOnly()); }
}

const tryPad = new Pad(find("try"), () => classify(), () => {});
find("clear").addEventListener("click", () => { tryPad.clear(); classify(); });
pictureInput(find("try-file"), find("try"), async ([file]) => tryPicture(await fromFile(file)));

async function tryPicture(pixels) {
  const small = document.createElement("canvas");
  paint(small, pixels);
  tryPad.clear();
  tryPad.context.drawImage(small, 0, 0, tryPad.canvas.width, tryPad.canvas.height);
  tryPad.picture = pixels;
  await classify();
}

// Take files from an input, or dropped on `target`, and report those that cannot be read.
function pictureInput(input, target, use) {
  const take = async (files) => {
    try { if (files.length) await use([...files]); } catch { say("This browser cannot read that file as an image."); }
  };
  input.addEventListener("change", () => { take(input.files); input.value = ""; });
  target.addEventListener("dragover", (event) => event.preventDefault());
  target.addEventListener("drop", (event) => { event.preventDefault(); take([...event.dataTransfer.files]); });
}

// --- the page ---------------------------------------------------------------------------------------------------------
function card(c) {
  const name = node("input", { type: "text", value: c.name, maxlength: 24, "aria-label": "Name of the class" });
  name.addEventListener("change", () => { c.name = name.value.trim() || c.name; name.value = c.name; describe(); measured = []; refit(); });
  const canvas = node("canvas", { width: 140, height: 140, class: "bl-pad", role: "img" });
  const pad = new Pad(canvas, () => {}, async () => {
    const pixels = pad.pixels();
    pad.clear();
    if (pixels) { await addExamples(c, [pixels]); refit(); }
  });
  const files = node("input", { type: "file", accept: "image/*", multiple: "" });
  const remove = button("Remove", () => { classes = classes.filter((other) => other !== c); measured = []; build(); refit(); });
  c.shelf = node("div", { class: "bl-shelf" });
  const box = node("li", {}, node("div", { class: "bl-class-head" }, name, remove), canvas,
    node("label", { class: "bl-file" }, files, "or choose images"), c.shelf);
  const describe = () => {
    canvas.setAttribute("aria-label", `Draw an example of ${c.name} here, or drop images`);
    remove.setAttribute("aria-label", `Remove the class ${c.name}`);
    files.setAttribute("aria-label", `Images of ${c.name}`);
  };
  describe();
  pictureInput(files, box, async (list) => {
    const pictures = [];
    for (const file of list) pictures.push(await fromFile(file));
    await addExamples(c, pictures);
    refit();
  });
  return box;
}

function build() {
  find("classes").replaceChildren(...classes.map(card));
}

function show() {
  for (const c of classes) {
    c.shelf.replaceChildren(...c.examples.slice(-12).map((example) => {
      const canvas = node("canvas"), thumb = node("button", { type: "button", "aria-label": `Remove this example of ${c.name}` }, canvas);
      paint(canvas, example.pixels);
      thumb.addEventListener("click", () => { c.examples = c.examples.filter((e) => e !== example); refit(); });
      return thumb;
    }), ...(c.examples.length > 12 ? [`and ${c.examples.length - 12} more`] : []));
  }
  find("add-class").disabled = classes.length >= MOST_CLASSES;
  find("add-digits").disabled = !ready || !digitsOnly() || !classes.length || classes.some((c) => c.examples.length >= 25);
}

function plot() {
  if (!curve) return;
  const shots = [1, 2, 5, 10, 25], x = (k) => 44 + 300 * Math.log(Math.max(k, 0.9)) / Math.log(25), y = (v) => 12 + 190 * (1 - v) / 0.7;
  const line = Object.entries(curve.accuracy).map(([k, v]) => [Number(k), mean(v)]);
  const points = measured.filter((m) => m.shots <= 25);
  const word = (x, y, text) => node("svg:text", { x, y, "text-anchor": "middle" }, text);
  const marks = (key, kind) => points.map((m) => node("svg:circle",
    { class: kind, cx: x(m.shots), cy: y(Math.max(0.3, m[key])), r: 4, [`data-${key}`]: m[key] }));
  find("chart").replaceChildren(...[0.4, 0.6, 0.8, 1].flatMap((t) => gridline(y(t), 350, 100 * t)),
    ...shots.map((k) => word(x(k), 220, k)), word(197, 238, "examples per class"),
    node("svg:polyline", { class: "bl-x-line", points: line.map(([k, v]) => `${x(k)},${y(v)}`).join(" ") }),
    ...marks("pixels", "bl-x-pixels"), ...marks("network", "bl-x-dot"));
  find("chart").setAttribute("aria-label", "Accuracy on held-out digits against examples per class. "
    + points.map((m) => `At ${m.shots}: ${(100 * m.network).toFixed(0)} %, from pixels ${(100 * m.pixels).toFixed(0)} %`).join("; ")
    + `. Published: ${line.map(([k, v]) => `${(100 * v).toFixed(0)} % at ${k}`).join(", ")}.`);
}

function setClasses(names) {
  classes = names.map((name) => ({ name, examples: [] }));
  measured = [];
  build();
}

// Add to each class the first digit of the random subset that it does not have yet, whatever was removed or drawn before.
async function addDigits() {
  for (const c of classes) {
    const { pictures } = await ask("digits", { draw, label: Number(c.name) });
    const known = new Set(c.examples.map((e) => String(e.pixels)));
    const next = pictures.find((p) => !known.has(String(p)));
    if (next) await addExamples(c, [next]);
  }
  await refit();
}

const busy = (act) => async () => { // one at a time, with errors reported in words
  root.inert = true;
  try { await act(); } catch (error) { say(`That failed: ${error.message}`); } finally { root.inert = false; show(); }
};
find("add-class").addEventListener("click", () => {
  const free = Array.from({ length: 11 }, (_, i) => `class ${i + 1}`).find((n) => !classes.some((c) => c.name === n));
  classes.push({ name: free, examples: [] });
  measured = [];
  build();
  refit();
  find("classes").lastElementChild.querySelector("input").focus();
});
find("own").addEventListener("click", busy(async () => { setClasses(["class 1", "class 2"]); tryPad.clear(); await refit(); }));
find("ten").addEventListener("click", busy(async () => { setClasses([..."0123456789"]); tryPad.clear(); await addDigits(); }));
find("add-digits").addEventListener("click", busy(addDigits));
find("draw").addEventListener("change", busy(async () => { draw = Number(find("draw").value); setClasses([..."0123456789"]); await addDigits(); }));

find("export").addEventListener("click", () => {
  const content = { format: "bitlib-examples", version: 1,
    classes: classes.map((c) => ({ name: c.name, examples: c.examples.map((e) => encode(e.pixels)) })) };
  const link = node("a", { href: URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" })), download: "examples.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
find("import").addEventListener("change", busy(async () => {
  const [file] = find("import").files;
  find("import").value = "";
  if (file) await take(parse(await file.text()));
}));

// The classes in an exported file. Throws before anything is changed if any part of it is invalid.
function parse(text) {
  let content;
  try { content = JSON.parse(text); } catch { throw new Error("this is not a file of examples"); }
  if (content?.format !== "bitlib-examples" || !Array.isArray(content.classes)) throw new Error("this is not a file of examples");
  if (content.classes.length > MOST_CLASSES) throw new Error(`it has more than ${MOST_CLASSES} classes`);
  return content.classes.map(({ name, examples }) => {
    if (typeof name !== "string" || !name || name.length > 24 || !Array.isArray(examples)) throw new Error("one of its classes has no name or no list of examples");
    if (examples.length > MOST_EXAMPLES) throw new Error(`${name} has more than ${MOST_EXAMPLES} examples`);
    return { name, pictures: examples.map((text) => {
      let pixels;
      try { pixels = decode(text); } catch { pixels = []; }
      if (pixels.length !== LENGTH) throw new Error(`an example of ${name} is not 32 by 32 pixels`);
      return pixels;
    }) };
  });
}

async function take(loaded) {
  setClasses(loaded.map((c) => c.name));
  for (const [i, { pictures }] of loaded.entries()) await addExamples(classes[i], pictures);
  await refit();
}

async function start() {
  say("Loading the network …");
  const started = performance.now();
  try {
    const loaded = await ask("load", { base: new URL("../", import.meta.url).href });
    curve = loaded.curve;
  } catch (error) {
    say(`The network could not be loaded: ${error.message}`);
    return;
  }
  ready = true;
  find("draw").max = 4;
  root.dataset.loaded = Math.round(performance.now() - started);
  setClasses([..."0123456789"]);
  await addDigits();
  await tryPicture((await ask("sample")).pixels);
  root.dataset.state = "ready";
}

root.ask = ask; // for tests
start();
