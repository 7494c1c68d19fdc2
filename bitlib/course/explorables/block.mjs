// A pre-activation bottleneck block with one photograph's activations in it: each step, and output = shortcut + a × branch.

const BRANCH = 9, SHORTCUT = 10; // the numbers of these steps

// The shown channels after each step of block b. Only convolutions bring their values; the rest is computed here.
export function maps(blocks, b) {
  const found = [];
  for (const step of blocks[b].steps) {
    if (step.values) {
      const all = new Float32Array(decode(step.values).buffer), plane = step.shape[1] * step.shape[2];
      found.push(step.channels.map((_, i) => Float64Array.from(all.subarray(i * plane, (i + 1) * plane))));
    } else if (step.op === "norm") {
      found.push(found.at(-1).map((v, i) => v.map((x) => x * step.scale[i] + step.offset[i])));
    } else if (step.op === "relu") {
      found.push(found.at(-1).map((v) => v.map((x) => Math.max(0, x))));
    } else if (step.op === "input") { // what the block before puts out, its branch not scaled
      const before = maps(blocks, b - 1);
      found.push(before[SHORTCUT].map((v, i) => sum(v, before[BRANCH][i], 1)));
    } else {
      found.push(found[0]); // the shortcut of a block that keeps the shape
    }
  }
  return found;
}
export const sum = (shortcut, branch, a) => shortcut.map((v, i) => v + a * branch[i]);
const top = (maps) => Math.max(...maps.map((v) => v.reduce((t, x) => Math.max(t, Math.abs(x)), 0)));
const size = (maps) => Math.sqrt(mean(maps.map((v) => v.reduce((t, x) => t + x * x, 0) / v.length)));

const signed = (v, digits = 2) => v.toFixed(digits).replace("-", "−");
const times = (shape) => shape.join("×");
const thousands = (n) => n.toLocaleString("en");

function name({ op, kernel }) {
  if (op === "conv") return `${kernel}×${kernel} conv`;
  if (op === "shortcut") return kernel ? "projection" : "shortcut";
  return { input: "input", norm: "group norm", relu: "ReLU" }[op];
}

// One sentence on why the step is there.
function reason(steps, s) {
  const { op, shape, kernel, stride, groups } = steps[s], [channels] = shape, before = s && steps[s - 1].shape[0];
  switch (op) {
    case "input": return "The residual stream: what the blocks before have added up, not normalised.";
    case "norm": return `${groups} groups of ${channels / groups} channels, each normalised within this one image: `
      + "the size of the batch does not matter.";
    case "relu":
      if (s === 2) return steps[SHORTCUT].kernel
        ? "It comes before the convolution (“pre-activation”); the branch and the projection both start from here."
        : "It comes before the convolution (“pre-activation”), so that neither norm nor ReLU is on the shortcut.";
      return "Without a nonlinearity between them, two convolutions would be no more than one.";
    case "shortcut": return kernel
      ? `The output has another shape, so a ${kernel}×${kernel} convolution with stride ${stride} reshapes the `
        + "pre-activated input; it has no norm of its own."
      : "The shape stays, so the input goes on as it is: no parameters, and a clear way back for the gradient.";
    default:
      if (kernel > 1) return "The only step that looks at neighbouring pixels"
        + (stride > 1 ? `; its stride of ${stride} halves height and width.` : "; among so few channels it is cheap.");
      return s === BRANCH
        ? `Widens ${before} channels to ${channels}, as many as the stream then has, so that the two can be added.`
        : `Mixes the channels of each pixel and narrows ${before} to ${channels}, so that the 3×3 convolution is cheap.`;
  }
}

function count(steps, s) {
  const { op, shape: [channels], parameters, kernel } = steps[s];
  if (!parameters) return "none";
  if (op === "norm") return `2×${channels} = ${thousands(parameters)}`;
  const from = op === "shortcut" ? steps[0].shape[0] : steps[s - 1].shape[0];
  return `${from}×${channels}${kernel > 1 ? `×${kernel}×${kernel}` : ""} = ${thousands(parameters)}`;
}

// The colours of negative, zero and positive values.
function colours(element) {
  const style = getComputedStyle(element), hex = (n) => style.getPropertyValue(`--bl-${n}`).trim();
  return ["second", "paper", "ink"].map((n) => [1, 3, 5].map((i) => parseInt(hex(n).slice(i, i + 2), 16)));
}

// Values on a square canvas, coloured by sign; `most` gets the full colour.
function tile(canvas, values, most, [negative, zero, positive]) {
  const side = canvas.width = canvas.height = Math.sqrt(values.length);
  const context = canvas.getContext("2d", { willReadFrequently: true }), image = context.createImageData(side, side);
  values.forEach((v, i) => {
    const share = Math.min(1, Math.abs(v) / most), end = v < 0 ? negative : positive;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = zero[c] + share * (end[c] - zero[c]);
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

// Colours of a canvas do not follow the page by themselves. A figure that is gone from the page stops listening.
function onColours(element, redraw) {
  const queries = ["(prefers-color-scheme: dark)", "print"].map((q) => matchMedia(q));
  const observer = new MutationObserver(changed);
  function changed() {
    if (element.isConnected) return redraw();
    observer.disconnect();
    queries.forEach((q) => q.removeEventListener("change", changed));
  }
  queries.forEach((q) => q.addEventListener("change", changed));
  const attributeFilter = ["data-theme", "theme", "data-jp-theme-light"];
  [document.documentElement, document.body].forEach((e) => observer.observe(e, { attributes: true, attributeFilter }));
}

// The two lines at the left of a row: the shortcut at x = 8, the branch at x = 26. They part at the row `fork`.
function rail(kind, s, fork) {
  const lines = [], line = (x, y1, y2, cls) => lines.push(node("svg:line", { x1: x, x2: x, y1, y2, class: cls }));
  const at = (x) => lines.push(node("svg:circle", { cx: x, cy: 24, r: 4.5, class: "bl-block-node" }));
  if (kind === "output") {
    lines.push(node("svg:path", { d: "M26 0V24", class: "bl-block-branch" }), node("svg:path", { d: "M8 0V16Q8 24 16 24H26" }),
      node("svg:circle", { cx: 26, cy: 24, r: 9, class: "bl-block-plus" }), node("svg:path", { d: "M21 24H31M26 19V29" }));
  } else {
    const through = kind === "detail" ? s + 1 : s; // below this row
    line(26, s || kind === "detail" ? 0 : 24, "100%", through > fork && s >= fork ? "bl-block-branch" : null);
    if (through > fork) line(8, 0, "100%");
    if (kind === "step") {
      if (s === fork) lines.push(node("svg:path", { d: "M26 24H16Q8 24 8 32V48" }));
      at(s === SHORTCUT ? 8 : 26);
    }
  }
  return node("svg:svg", { class: "bl-block-rail", "aria-hidden": "true" }, ...lines);
}

function render({ model, el }) {
  const blocks = model.get("blocks"), all = blocks.map((_, b) => maps(blocks, b));
  const flow = node("div", { class: "bl-block-flow" }), aside = node("div", { class: "bl-block-aside" });
  const detail = node("div", { class: "bl-block-detail", "aria-live": "polite" });
  const chart = node("svg:svg", { class: "bl-block-sum" }), images = node("svg:g"), marks = node("svg:g");
  const pixels = node("svg:g", { class: "bl-block-handle" }), knob = node("svg:g", { class: "bl-block-handle" });
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const root = node("div", { class: "bl-x bl-x-block" },
    node("div", { class: "bl-x-head" },
      node("img", { class: "bl-x-picture", src: model.get("photo"), alt: "The photograph that goes through the network" }),
      node("div", { class: "bl-x-controls" }, choice(model, "block", "Block", blocks.map(({ name: of, steps }, b) =>
        [b, `${of}, ${steps[SHORTCUT].kernel ? "the shape changes" : "the shape stays"}`])),
        node("p", { class: "bl-x-small" }, "Four channels after every step. Choose a step."))),
    node("div", { class: "bl-block-both" }, flow, aside), chart, answer);
  el.append(root);
  chart.append(images, marks, pixels, knob);

  let rows = [], outputs = [], side = 1, gap = 36, tone = colours(document.body), three = [];
  const now = () => ({ steps: blocks[model.get("block")].steps, of: all[model.get("block")], a: model.get("branch") });
  const words = (x, y, text, attributes) => node("svg:text", { x, y, "text-anchor": "middle", ...attributes }, text);
  const clamp = (v, high) => Math.min(high, Math.max(0, v));

  function drawFlow() {
    const { steps, of } = now(), fork = steps[SHORTCUT].kernel ? 2 : 0;
    rows = steps.map((step, s) => {
      const most = top(of[s]);
      const tiles = of[s].map((v) => tile(node("canvas", { "data-mean": mean(Array.from(v)) }), v, most, tone));
      const row = node("div", { class: "bl-block-step", "data-step": s }, rail("step", s, fork),
        node("span", { class: "bl-block-name" }, name(step), node("small", {}, times(step.shape))),
        node("span", { class: "bl-block-tiles", "aria-hidden": "true" }, ...tiles));
      clickable(row, `${name(step)}, ${times(step.shape)}`, () => put(model, { step: s }));
      row.addEventListener("keydown", (event) => {
        const next = rows[s + ({ ArrowUp: -1, ArrowDown: 1 }[event.key] ?? 0)];
        if (!next || next === row) return;
        event.preventDefault();
        next.focus();
        next.click();
      });
      return row;
    });
    outputs = steps[SHORTCUT].channels.map((c, i) => {
      const pick = node("span", { class: "bl-block-pick" }, node("canvas"));
      return clickable(pick, `output, channel ${c}`, () => put(model, { channel: i }));
    });
    flow.replaceChildren(...rows, node("div", { class: "bl-block-step bl-block-output" }, rail("output"),
      node("span", { class: "bl-block-name" }, "output", node("small", {}, times(steps[BRANCH].shape))),
      node("span", { class: "bl-block-tiles" }, ...outputs)));
    explain();
  }

  // Beside the block where there is room, otherwise below the chosen step.
  function explain() {
    const { steps, of } = now(), s = model.get("step"), step = steps[s], most = top(of[s]), wide = root.clientWidth > 560;
    rows.forEach((row, i) => row.setAttribute("aria-pressed", i === s));
    const from = s === SHORTCUT ? steps[0] : steps[s - 1];
    detail.replaceChildren(...(wide ? [] : [rail("detail", s, steps[SHORTCUT].kernel ? 2 : 0)]), node("div", {},
      node("p", { class: "bl-block-title" }, name(step)), node("p", {}, reason(steps, s)),
      node("div", { class: "bl-block-large" }, ...step.channels.map((c, i) =>
        tile(node("canvas", { role: "img", "aria-label": `channel ${c}` }), of[s][i], most, tone))),
      node("p", { class: "bl-x-small" }, `Channels ${step.channels.join(", ")} of ${step.shape[0]}`),
      node("div", { class: "bl-block-key" }, node("span", {}, signed(-most, 1)), node("i"), node("span", {}, signed(most, 1))),
      node("dl", {}, node("dt", {}, "shape"), node("dd", {}, `${s ? times(from.shape) + " → " : ""}${times(step.shape)}`),
        node("dt", {}, "parameters"), node("dd", {}, count(steps, s)))));
    if (wide) aside.replaceChildren(detail);
    else rows[s].after(detail);
  }

  // Shortcut, scaled branch, output: one channel, in one scale of colours.
  const cells = () => now().steps[SHORTCUT].shape[2], left = (i) => i * (side + gap), above = 26;
  function drawSum() {
    const { steps, of, a } = now(), channel = model.get("channel"), branch = of[BRANCH][channel];
    const added = (share) => of[SHORTCUT].map((v, i) => sum(v, of[BRANCH][i], share)), sums = added(a), whole = top(added(1));
    outputs.forEach((pick, i) => {
      tile(pick.firstChild, sums[i], whole, tone).dataset.mean = mean(Array.from(sums[i]));
      pick.setAttribute("aria-pressed", i === channel);
    });
    three = [of[SHORTCUT][channel], branch.map((v) => a * v), sums[channel]];
    const most = top([three[0], branch, sum(three[0], branch, 1)]), middle = left(1) + side + gap / 2;
    images.replaceChildren(...three.flatMap((v, i) => [
      words(left(i) + side / 2, 14, ["shortcut", "a × branch", "output"][i]),
      node("svg:image", { x: left(i), y: above, width: side, height: side,
        href: tile(node("canvas"), v, most, tone).toDataURL() }),
    ]), ...["+", "="].flatMap((sign, i) => [above + side / 2 + 7, above + side + 20].map((y, k) =>
      words(middle + (i - 1) * (side + gap), y, sign, { class: k ? null : "bl-block-sign" }))));
    pixels.replaceChildren(...[0, 1, 2].map((i) => node("svg:rect", { x: left(i), y: above, width: side, height: side })));
    const y = above + side + 46, x = left(1) + a * side;
    knob.replaceChildren(node("svg:rect", { x: left(1) - 16, y: y - 16, width: side + 32, height: 32 }),
      node("svg:line", { x1: left(1), x2: left(2) - gap, y1: y, y2: y, class: "bl-block-track" }),
      node("svg:line", { x1: left(1), x2: x, y1: y, y2: y, class: "bl-block-filled" }),
      node("svg:circle", { cx: x, cy: y, r: 9, class: "bl-block-knob" }),
      node("svg:text", { x: left(1) - 14, y: y + 4, "text-anchor": "end" }, `a = ${a.toFixed(2)}`));
    knob.setAttribute("aria-valuenow", a);
    knob.setAttribute("aria-valuetext", a.toFixed(2));
    const ratio = size(of[BRANCH]) * a / size(of[SHORTCUT]);
    answer.dataset.ratio = ratio;
    root.style.setProperty("--block-a", a);
    answer.textContent = a === 0
      ? `Without its branch the block passes on ${steps[SHORTCUT].kernel ? "the reshaped input" : "its input unchanged"}.`
      : `${a === 1 ? "As trained" : "Scaled down"}, the branch is ${ratio.toFixed(2)} times as large as the shortcut `
        + "(root mean square of these four channels).";
    drawPixel();
  }

  // The chosen pixel in the three images, and its sum below them.
  function drawPixel() {
    const { of, a } = now(), row = model.get("row"), column = model.get("column");
    const cell = side / cells(), at = row * cells() + column;
    const branch = of[BRANCH][model.get("channel")][at], values = three.map((v) => v[at]);
    const factors = `${a.toFixed(2)} × ${branch < 0 ? `(${signed(branch)})` : signed(branch)}`;
    marks.replaceChildren(...values.flatMap((v, i) => [
      node("svg:rect", { class: "bl-block-pixel", x: left(i) + column * cell, y: above + row * cell,
        width: cell, height: cell }),
      words(left(i) + side / 2, above + side + 20, i === 1 && side > 100 ? factors : signed(v),
        { class: "bl-block-value", "data-value": v })]));
    pixels.setAttribute("aria-valuenow", at);
    pixels.setAttribute("aria-valuemax", cells() ** 2 - 1);
    pixels.setAttribute("aria-valuetext", `row ${row + 1}, column ${column + 1}: `
      + `${signed(values[0])} plus ${signed(values[1])} is ${signed(values[2])}`);
  }
  const fit = fitted(chart, (width) => {
    gap = width > 480 ? 48 : 30;
    side = Math.floor(Math.min(150, (width - 2 * gap) / 3));
    drawSum();
    return side + 92;
  });

  draggable(knob, {
    moved: (x) => put(model, { branch: Math.round(100 * clamp((x - side - gap) / side, 1)) / 100 }),
    keyed: (dx, dy) => put(model, { branch: Math.round(100 * clamp(model.get("branch") + 0.05 * (dx || dy), 1)) / 100 }),
    aria: { "aria-label": "Scale a of the branch", "aria-valuemin": 0, "aria-valuemax": 1 },
  });
  const move = (row, column) => {
    put(model, { row: clamp(row, cells() - 1), column: clamp(column, cells() - 1) });
  };
  draggable(pixels, {
    moved: (x, y) => {
      const cell = side / cells();
      move(Math.floor((y - above) / cell), Math.floor(clamp(x % (side + gap), side - 1) / cell));
    },
    keyed: (dx, dy) => move(model.get("row") - dy, model.get("column") + dx),
    aria: { "aria-label": "Pixel", "aria-valuemin": 0 },
  });

  let width = 0;
  new ResizeObserver(() => {
    if (root.clientWidth > 560 !== width > 560) explain();
    width = root.clientWidth;
  }).observe(root);
  onColours(root, () => { tone = colours(root); drawFlow(); drawSum(); });
  const stops = [watch(model, ["block"], () => { drawFlow(); fit(); }), watch(model, ["step"], explain),
    watch(model, ["branch", "channel"], drawSum), watch(model, ["row", "column"], drawPixel)];
  return () => stops.forEach((stop) => stop());
}

export default { render };
