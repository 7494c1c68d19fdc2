// MixUp of two images and of their labels, and a hundred weights from the distribution that training draws from.

// Logarithm of the gamma function for x > 0: Stirling's series, after moving x above 10.
export function logGamma(x) {
  let shift = 0;
  while (x < 10) shift -= Math.log(x++);
  const inverse = 1 / (x * x);
  const series = (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse * (1 / 1680 - inverse / 1188)))) / x;
  return shift + (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series;
}
export const density = (x, a) => Math.exp((a - 1) * Math.log(x * (1 - x)) + logGamma(2 * a) - 2 * logGamma(a));

// One weight from Beta(alpha, alpha): two gamma draws (Marsaglia and Tsang), in logarithms, since both may underflow.
export function drawWeight(alpha, seed) {
  const next = random(seed);
  const normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  const logGammaDraw = () => {
    const d = alpha + 2 / 3, c = 1 / Math.sqrt(9 * d);
    for (;;) {
      const x = normal(), v = (1 + c * x) ** 3;
      if (v > 0 && Math.log(1 - next()) < 0.5 * x * x + d - d * v + d * Math.log(v)) {
        return Math.log(d * v) + Math.log(1 - next()) / alpha;
      }
    }
  };
  return 1 / (1 + Math.exp(-(logGammaDraw() - logGammaDraw())));
}
// The weights of a hundred steps.
export const hundred = (alpha, draws) => Array.from({ length: 100 }, (_, i) => drawWeight(alpha, 100 * draws + i));
export const mix = (a, b, weight) => Array.from(a, (v, i) => weight * v + (1 - weight) * b[i]);

const BINS = 20, BARELY = 0.1, THUMB = 32;
const lighter = (weight) => Math.min(weight, 1 - weight);
const percent = (v) => `${(100 * v).toFixed(0)} %`;
const set = (element, attributes) => Object.entries(attributes).forEach(([name, v]) => element.setAttribute(name, v));

// A square of an image, as planes [3, side, side]. source: [3, S, S], or what a canvas can draw.
function square(source, side) {
  const canvas = node("canvas"), context = canvas.getContext("2d", { willReadFrequently: true });
  let from = source, width = source.width, height = source.height;
  if (source instanceof Uint8Array) {
    paint(from = node("canvas"), source);
    width = height = from.width;
  }
  canvas.width = canvas.height = side;
  const cut = Math.min(width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(from, (width - cut) / 2, (height - cut) / 2, cut, cut, 0, 0, side, side);
  const { data } = context.getImageData(0, 0, side, side), planes = new Uint8Array(3 * side * side);
  for (let i = 0; i < side * side; i++) for (let c = 0; c < 3; c++) planes[c * side * side + i] = data[4 * i + c];
  return planes;
}

function render({ model, el }) {
  const own = (name, ...inside) => node("svg:g", { class: name }, ...inside);
  const labels = [...model.get("labels")], images = model.get("images").map(decode);
  let thumbs = images.map((image) => square(image, THUMB)), weights = [];
  const setWeight = (v) => put(model, { weight: Math.round(1000 * Math.min(1, Math.max(0, v))) / 1000 });

  // --- two images and their mixture ---
  const canvases = [0, 1, 2].map(() => node("canvas", { class: "bl-x-photo" }));
  const names = [0, 1, 2].map(() => node("p", { class: "bl-x-small" }));
  // A reader's own image: chosen or dropped, and only ever in this page.
  async function take(i, file) {
    if (!file) return;
    let bitmap;
    try { bitmap = await createImageBitmap(file); } catch {
      answer.textContent = `${file.name} cannot be read as an image.`;
      return;
    }
    images[i] = square(bitmap, Math.round(Math.sqrt(images[i].length / 3)));
    labels[i] = file.name.replace(/\.[^.]*$/, "").slice(0, 14) || `image ${i + 1}`;
    thumbs[i] = square(images[i], THUMB);
    paint(canvases[i], images[i], labels[i]);
    drawAll();
  }
  const choose = (i) => {
    const input = node("input", { type: "file", accept: "image/*", "aria-label": `Your own ${i ? "second" : "first"} image` });
    input.addEventListener("change", () => { take(i, input.files[0]); input.value = ""; });
    return node("label", { class: "bl-x-file" }, input, node("span", {}, "your own"));
  };
  const droppable = (element, i) => {
    element.addEventListener("dragover", (event) => event.preventDefault());
    element.addEventListener("drop", (event) => { event.preventDefault(); take(i, event.dataTransfer.files[0]); });
    return element;
  };
  const row = node("div", { class: "bl-x-sum" },
    droppable(node("div", {}, canvases[0], names[0], choose(0)), 0), node("span", { class: "bl-x-sign" }, "+"),
    droppable(node("div", {}, canvases[1], names[1], choose(1)), 1), node("span", { class: "bl-x-sign" }, "="),
    node("div", {}, canvases[2], names[2]));

  // --- label and histogram, on one axis: the weight of the first image ---
  const axis = { left: 44, right: 0, top: 106, bottom: 236, most: 1 };
  const x = (v) => axis.left + (axis.right - axis.left) * v, y = (v) => axis.bottom - (axis.bottom - axis.top) * v / axis.most;
  const ground = own("bl-x-ground"), cover = node("svg:rect", { y: 18, height: axis.bottom + 14, class: "bl-x-zone" });
  const parts = [0, 1].map((i) => node("svg:rect", { y: 22, height: 24, class: `bl-x-part${i}` }));
  const words = [0, 1].map((i) => node("svg:text", { y: 63, "text-anchor": i ? "end" : "start" }));
  const lines = [[18, 50], [axis.top, axis.bottom]].map(([y1, y2]) => node("svg:line", { y1, y2, class: "bl-x-now" }));
  const dot = node("svg:circle", { r: 4, class: "bl-x-dot" });
  const knob = node("svg:circle", { r: 10, cy: axis.bottom, class: "bl-x-knob" });
  const handle = draggable(own("bl-x-handle", ...parts, ...words, cover, ...lines, dot, knob), {
    moved: (at) => setWeight((at - axis.left) / (axis.right - axis.left)),
    keyed: (dx, dy) => setWeight(model.get("weight") + 0.01 * (dx || dy)),
    aria: { "aria-label": "Weight of the first image", "aria-valuemin": 0, "aria-valuemax": 1, "data-trait": "weight" },
  });
  handle.style.touchAction = "pan-y"; // a finger that goes up or down scrolls the page
  const chart = node("svg:svg", { role: "group", "aria-label": "Mixed label, and weights of a hundred steps" }, ground, handle);
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });

  // --- the mixtures of a hundred steps ---
  const film = node("canvas", { class: "bl-x-film", role: "img" });
  const frame = node("svg:rect", { class: "bl-x-picked" }), over = node("svg:svg", {});
  const grid = { columns: 10, each: 34 };
  let step = 0;
  const pick = (i) => { step = Math.min(99, Math.max(0, i)); setWeight(weights[step]); move(); };
  const picker = draggable(own("bl-x-handle", node("svg:rect", { width: "100%", height: "100%", class: "bl-x-zone" }), frame), {
    moved: (px, py) => pick(Math.min(grid.columns - 1, Math.floor(px / grid.each)) + grid.columns * Math.floor(py / grid.each)),
    keyed: (dx, dy) => pick(Math.abs(dx + dy) === Infinity ? dx * 100 : step + Math.sign(dx) - grid.columns * Math.sign(dy)),
    aria: { "aria-label": "Step of training", "aria-valuemin": 1, "aria-valuemax": 100 },
  });
  picker.style.cursor = "pointer";
  picker.style.touchAction = "pan-y";
  over.append(picker);

  el.append(node("div", { class: "bl-x bl-x-mixup" }, row, chart, answer,
    node("div", { class: "bl-x-controls" },
      slider(model, "alpha", "α of Beta(α, α)", (v) => `α = ${v}` + (v === 0.1 ? ", BiT" : "")),
      button("Draw another 100", () => put(model, { draws: model.get("draws") % 9999 + 1 }))),
    node("p", { class: "bl-x-title" }, "The mixtures of these 100 training steps, in order. Choose one."),
    node("div", { class: "bl-x-strip" }, film, over)));

  // Draws that the density promises for a bin around a weight.
  const expected = (v) => density(v, model.get("alpha")) * 100 / BINS;
  // How many of the hundred give the lighter image at least this weight.
  const atLeast = (weight) => weights.filter((w) => lighter(w) >= weight).length;

  // What changes with the weight.
  function move() {
    const weight = model.get("weight"), mixed = mix(images[0], images[1], weight);
    paint(canvases[2], mixed, "the mixture");
    canvases[2].dataset.mean = mean(mixed);
    names[0].textContent = `${weight.toFixed(2)} × ${labels[0]}`;
    names[1].textContent = `${(1 - weight).toFixed(2)} × ${labels[1]}`;
    names[2].textContent = "mixture";
    [weight, 1 - weight].forEach((part, i) => {
      set(parts[i], { x: x(i && weight), width: x(part) - x(0), "data-p": part });
      set(words[i], { x: x(i) });
      words[i].textContent = `${labels[i]} ${part.toFixed(2)}`;
    });
    for (const line of lines) set(line, { x1: x(weight), x2: x(weight) });
    set(knob, { cx: x(weight) });
    const at = Math.min(0.999, Math.max(0.001, weight));
    set(dot, { cx: x(at), cy: y(Math.min(axis.most, expected(at))),
      "data-at": at, "data-value": density(at, model.get("alpha")) });
    const spoken = `${percent(weight)} ${labels[0]}, ${percent(1 - weight)} ${labels[1]}`;
    set(handle, { "aria-valuenow": weight, "aria-valuetext": spoken });
    const even = atLeast(lighter(weight));
    answer.textContent = `${atLeast(BARELY)} of these 100 steps really mix: the lighter image weighs 10 % or more. `
      + `${even} ${even === 1 ? "mixes" : "mix"} at least as evenly as now.`;
    set(frame, { x: grid.each * (step % grid.columns), y: grid.each * Math.floor(step / grid.columns),
      width: grid.each, height: grid.each, visibility: Math.abs(weights[step] - weight) < 0.001 ? "visible" : "hidden" });
    set(picker, { "aria-valuenow": step + 1, "aria-valuetext": `step ${step + 1}: ${percent(weights[step])} ${labels[0]}` });
  }

  const drawChart = fitted(chart, (width) => {
    const counts = Array(BINS).fill(0);
    for (const w of weights) counts[Math.min(BINS - 1, Math.floor(BINS * w))]++;
    axis.right = width - 14;
    axis.most = 10 * Math.ceil(Math.max(...counts) / 10 + 0.2);
    // More points near the ends, where the density rises steeply.
    const points = Array.from({ length: 199 }, (_, i) => Math.sin(Math.PI * (i + 1) / 400) ** 2)
      .filter((v) => expected(v) <= axis.most);
    set(cover, { x: axis.left - 12, width: axis.right - axis.left + 24 });
    const really = (i) => i / BINS > BARELY - 1e-9 && (i + 1) / BINS < 1 - BARELY + 1e-9;
    ground.replaceChildren(
      yLabel(0, 14, "mixed label"), yLabel(0, axis.top - 14, width < 300 ? "steps of 100" : "steps of 100; line: density"),
      ...[0, 0.5, 1].flatMap((v) => gridline(y(v * axis.most), axis.right, String(v * axis.most))),
      ...counts.map((count, i) => node("svg:rect", { x: x(i / BINS) + 1, width: x(1 / BINS) - x(0) - 2, y: y(count),
        height: axis.bottom - y(count), class: really(i) ? "bl-x-really" : "bl-x-barely", "data-count": count })),
      node("svg:polyline", { class: "bl-x-curve", points: points.map((v) => `${x(v)},${y(expected(v))}`).join(" ") }),
      node("svg:text", { x: axis.right, y: axis.top - 14, "text-anchor": "end", class: "bl-x-mixes" },
        `${atLeast(BARELY)} really mix`),
      ...[0, 0.25, 0.5, 0.75, 1].map((v) => node("svg:text",
        { x: x(v), y: axis.bottom + 26, "text-anchor": "middle" }, String(v))),
      xLabel((axis.left + axis.right) / 2, axis.bottom + 46, `weight λ of “${labels[0]}”`));
    move();
    return axis.bottom + 54;
  });

  const drawFilm = fitted(over, (width) => {
    grid.columns = width < 480 ? 10 : 20;
    grid.each = width / grid.columns;
    const rows = 100 / grid.columns;
    film.width = grid.columns * THUMB;
    film.height = rows * THUMB;
    const context = film.getContext("2d"), data = context.createImageData(THUMB, THUMB), plane = THUMB * THUMB;
    weights.forEach((w, n) => {
      for (let i = 0; i < plane; i++) {
        for (let c = 0; c < 3; c++) data.data[4 * i + c] = w * thumbs[0][c * plane + i] + (1 - w) * thumbs[1][c * plane + i];
        data.data[4 * i + 3] = 255;
      }
      context.putImageData(data, THUMB * (n % grid.columns), THUMB * Math.floor(n / grid.columns));
    });
    film.setAttribute("aria-label", `Mixtures of ${labels[0]} and ${labels[1]} in a hundred steps`);
    move();
    return rows * grid.each;
  });

  function drawAll() {
    weights = hundred(model.get("alpha"), model.get("draws"));
    drawChart();
    drawFilm();
  }
  images.forEach((image, i) => paint(canvases[i], image, labels[i]));
  const forget = watch(model, ["alpha", "draws"], drawAll), stop = watch(model, ["weight"], move);
  return () => { stop(); forget(); };
}

export default { render };
