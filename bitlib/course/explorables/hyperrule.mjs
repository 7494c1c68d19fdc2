// The BiT-HyperRule: one axis of data-set size decides everything, and the schedule that follows from it.

const STEPS = { // end of warm-up, three decays, end
  code: [[100, 200, 300, 400, 500], [500, 3000, 6000, 9000, 10000], [500, 6000, 12000, 18000, 20000]],
  paper: [[0, 150, 300, 450, 500], [0, 3000, 6000, 9000, 10000], [0, 6000, 12000, 18000, 20000]] };
const BATCH = 512, RATE = 0.003, LIMIT = 96;
const SIZES = ["small", "medium", "large"], SMALLEST = 10, LARGEST = 2e7, BOUNDS = [20000, 500000];

export function rule(examples, height, width, variant) {
  const size = examples < BOUNDS[0] ? 0 : examples < BOUNDS[1] ? 1 : 2;
  const [warmup, a, b, c, steps] = STEPS[variant][size];
  const [resize, crop] = height * width < LIMIT * LIMIT ? [160, 128] : variant === "code" ? [512, 480] : [448, 384];
  return { task: SIZES[size], warmup, boundaries: [a, b, c], steps, resize, crop,
    alpha: size ? 0.1 : 0, epochs: steps * BATCH / examples };
}

// The code's decays take effect one step after their boundary; the paper's at it.
export function rate(r, step, variant) {
  if (step < r.warmup) return RATE * step / r.warmup;
  return r.boundaries.reduce((lr, b) => (b < step || (b === step && variant === "paper") ? lr / 10 : lr), RATE);
}

// The corners of the schedule: between them the rate is a straight line, so nothing is lost by drawing only these.
function corners(r, variant) {
  const after = variant === "code" ? 1 : 0;
  const steps = [0, r.warmup, ...r.boundaries.flatMap((b) => [b + after - 1, b + after]), r.steps - 1];
  return steps.map((s) => [s, rate(r, s, variant)]);
}

const count = (v) => v.toLocaleString("en-US");
const short = (v) => count(+v.toPrecision(3));
const plain = (v) => String(+v.toPrecision(3)); // 0.0003, not 0.00030000000000000003
const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
const text = (x, y, words, more = {}) => node("svg:text", { x, y, ...more }, words);
const thick = (s) => s.length * 7.4; // about how wide a label is, in the widest of the usual fonts

// Three significant digits, and at least one image further than before where there is a before.
function tidy(n, from = 0) {
  const grain = 10 ** Math.max(0, Math.floor(Math.log10(n)) - 2), even = Math.round(n / grain) * grain;
  return clamp(from && even === from ? from + Math.sign(n - from) * grain : even, SMALLEST, LARGEST);
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const now = (variant = get("variant")) => rule(get("examples"), get("side"), get("side"), variant);
  const at = () => Math.min(get("step"), now().steps - 1);
  // The marker of the schedule stays at its share of the run when the run becomes longer or shorter.
  const setExamples = (n) => {
    const before = now().steps, after = rule(n, 1, 1, "code").steps;
    put(model, { examples: n, ...(after !== before && { step: Math.round(at() * after / before) }) });
  };

  // --- the axis of sizes: bands, named data sets, and how often each image is seen ---
  const left = 46, right = 10, narrow = (w) => w < 480;
  const place = (width) => {
    const inner = width - left - right, decades = Math.log10(LARGEST / SMALLEST);
    return [(n) => left + inner * Math.log10(n / SMALLEST) / decades, (x) => SMALLEST * 10 ** ((x - left) / inner * decades)];
  };
  // Each label stands above all poles that it crosses, from the right to the left.
  const flags = (x, width) => get("named").map(([name, n]) => ({ name, n, x: x(n), to: x(n) + 12 + thick(name), level: 0 }))
    .map((flag) => ({ ...flag, shift: Math.min(0, width - flag.to) }))
    .sort((a, b) => b.x - a.x).map((flag, i, all) => {
      flag.level = Math.max(-1, ...all.slice(0, i).filter((other) => other.x + other.shift <= flag.to).map((other) => other.level)) + 1;
      return flag;
    });

  const sizes = node("svg:svg", { role: "group", "aria-label": "Data-set sizes and what the rule makes of them" });
  const ground = node("svg:g"), named = node("svg:g"), grip = node("svg:g", { class: "bl-x-grip" });
  const hit = node("svg:rect", { class: "bl-x-hit" }), pole = node("svg:line", { class: "bl-x-pole" });
  const knob = node("svg:circle", { r: 8 }), label = node("svg:g", { class: "bl-x-halo" });
  grip.append(hit, pole, knob, label);
  sizes.append(ground, grip, named);
  let fromX, drawn = 0;
  const drawSizes = fitted(sizes, (width) => {
    const [x, back] = place(width), all = flags(x, width), r = now(), n = get("examples");
    fromX = back;
    const base = 24 * Math.max(...all.map((f) => f.level + 1)) + 4, strip = base + 58, foot = strip + 128;
    const y = (epochs) => foot - 8 - 18 * (Math.log10(epochs) + 0.4);
    const edges = [SMALLEST, ...BOUNDS, LARGEST], slim = narrow(width);
    const bands = SIZES.flatMap((name, i) => {
      const some = rule(edges[i], 1, 1, "code"), middle = (x(edges[i]) + x(edges[i + 1])) / 2;
      return [node("svg:rect", { class: name === r.task ? "bl-x-band bl-x-on" : "bl-x-band", "data-zone": name,
        x: x(edges[i]) + (i ? 1 : 0), width: x(edges[i + 1]) - x(edges[i]) - (i ? 1 : 0), y: base, height: foot - base }),
      ...[[name, 18, "bl-x-strong"], [slim && i ? `${some.steps / 1000}k` : `${count(some.steps)} steps`, 34, null],
        [some.alpha ? (slim ? `α ${some.alpha}` : `MixUp, α = ${some.alpha}`) : "no MixUp", 50, null]]
        .map(([words, dy, kind]) => text(middle, base + dy, words, { class: kind, "text-anchor": "middle" }))];
    });
    // Between two bounds the curve is straight, because both axes are logarithmic; at a bound it jumps.
    const curve = SIZES.map((_, i) => [edges[i], edges[i + 1]].map((v) =>
      `${x(v)},${y(rule(edges[i], 1, 1, "code").steps * BATCH / v)}`).join(" "));
    const ticks = [10, 1e3, BOUNDS[0], BOUNDS[1], 1e7];
    ground.replaceChildren(...bands,
      ...[1, 100, 10000].flatMap((e) => [node("svg:line", { class: "bl-x-gridline", x1: left, x2: width - right, y1: y(e), y2: y(e) }),
        text(left - 6, y(e) + 4, e === 10000 ? "10k" : e, { "text-anchor": "end" })]),
      ...curve.map((points) => node("svg:polyline", { class: "bl-x-line", points })),
      ...ticks.map((v, i) => text(x(v), foot + 16, v === 1e7 ? "10M" : v < 1e4 || !slim ? count(v) : `${v / 1000}k`,
        { "text-anchor": i ? "middle" : "start" })),
      yLabel(0, strip + 12, "Epochs"), xLabel((left + width - right) / 2, foot + 35, "Labelled training images"));
    if (drawn !== width) { // the flags keep the focus while something else moves
      drawn = width;
      named.replaceChildren(...all.toReversed().map((f) => { // the keyboard goes from small to large
        const top = base - 24 * f.level - 13;
        return clickable(node("svg:g", { class: "bl-x-flag", "data-size": f.n },
          node("svg:rect", { class: "bl-x-hit", x: f.x - 8, y: top - 12, width: f.to - f.x + 8 + f.shift, height: 24 }),
          node("svg:line", { x1: f.x, x2: f.x, y1: top, y2: base }), node("svg:circle", { cx: f.x, cy: top, r: 4.5 }),
          text(f.x + 9 + f.shift, top + (f.shift ? -8 : 4), f.name)), `${f.name}, ${count(f.n)} images`, () => setExamples(f.n));
      }));
    }
    for (const f of named.children) f.classList.toggle("bl-x-on", +f.dataset.size === n);
    const px = x(n), py = y(r.epochs), full = px + 125 > width, aside = { x: full ? width - 112 : px + 14 };
    for (const [key, v] of Object.entries({ x: left, y: base, width: width - left - right, height: foot - base + 20 })) hit.setAttribute(key, v);
    for (const [key, v] of Object.entries({ x1: px, x2: px, y1: base, y2: foot })) pole.setAttribute(key, v);
    for (const [key, v] of Object.entries({ cx: px, cy: py })) knob.setAttribute(key, v);
    const high = py - (full ? 36 : 22);
    label.replaceChildren(node("svg:text", { ...aside, y: high, class: "bl-x-strong" }, `${count(n)} images`),
      node("svg:text", { ...aside, y: high + 16 }, `${short(r.epochs)} epochs`));
    for (const [name, v] of Object.entries({ "aria-valuenow": n, "aria-valuetext": `${count(n)} images, a ${r.task} task` })) grip.setAttribute(name, v);
    return foot + 40;
  });
  const stops = get("named").map(([, n]) => n).concat(BOUNDS).sort((a, b) => a - b);
  draggable(grip, {
    moved: (x) => setExamples(clamp(tidy(clamp(fromX(x), SMALLEST, LARGEST)), SMALLEST, LARGEST)),
    keyed: (dx, dy) => {
      const n = get("examples");
      if (Math.abs(dx) === Infinity) setExamples(dx < 0 ? SMALLEST : LARGEST);
      else if (dx) setExamples(tidy(n * 1.05 ** dx, n));
      else setExamples(dy > 0 ? stops.find((s) => s > n) ?? LARGEST : stops.findLast((s) => s < n) ?? SMALLEST);
    },
    aria: { "aria-label": "Labelled training images (up and down: the next named size)", "aria-valuemin": SMALLEST, "aria-valuemax": LARGEST },
  });
  grip.style.touchAction = "pan-y"; // a finger that goes up or down scrolls the page

  // --- the schedule: both variants, one above the other, because most of it would coincide ---
  const schedule = node("svg:svg", { role: "group", "aria-label": "Learning rate against the step" });
  const paths = node("svg:g"), hand = node("svg:g", { class: "bl-x-grip" });
  const field = node("svg:rect", { class: "bl-x-hit" }), needle = node("svg:line", { class: "bl-x-pole" }), dots = node("svg:g");
  hand.append(field, needle, dots);
  schedule.append(paths, hand);
  let fromStep;
  const drawSchedule = fitted(schedule, (width) => {
    const inner = width - left - right, steps = now().steps, step = at(), tall = 84, tops = { code: 44, paper: 178 };
    const x = (s) => left + inner * s / steps, foot = tops.paper + tall;
    fromStep = (px) => clamp(Math.round((px - left) / inner * steps), 0, steps - 1);
    const parts = [], marks = [];
    for (const [variant, name] of [["code", inner < 230 ? "Code" : "Released code"], ["paper", "Paper"]]) {
      const r = now(variant), top = tops[variant], y = (v) => top + tall * (1 - v / 0.0032), lr = rate(r, step, variant);
      const on = variant === get("variant");
      for (const v of [0, 0.001, 0.002, 0.003]) {
        parts.push(node("svg:line", { class: "bl-x-gridline", x1: left, x2: width - right, y1: y(v), y2: y(v) }),
          text(left - 6, y(v) + 4, v, { "text-anchor": "end" }));
      }
      r.boundaries.forEach((b) => {
        parts.push(node("svg:line", { class: "bl-x-decay", x1: x(b), x2: x(b), y1: top, y2: top + tall, "data-decay": b }));
        if (x(b) + 32 < width) parts.push(text(x(b) + 5, top + 30, "÷10"));
        else if (inner > 220) parts.push(text(x(b) - 5, top + 30, "÷10", { "text-anchor": "end" }));
      });
      const ticks = [0, ...r.boundaries, ...(inner * (steps - r.boundaries[2]) / steps > 55 ? [steps] : [])];
      parts.push(...ticks.map((s) => text(x(s), top + tall + 16, count(s), { "text-anchor": s === steps ? "end" : s ? "middle" : "start" })));
      if (r.warmup) { // under the ramp, where it has left room
        parts.push(text(left + 0.3 * (x(r.warmup) - left) + 6, top + tall - 5, narrow(width) ? "warm-up" : `warm-up, ${r.warmup} steps`));
      }
      parts.push(text(left, top - 8, name, { class: on ? "bl-x-strong" : null }),
        text(width - right, top - 8, `step ${count(step)}: ${plain(lr)}`, { "text-anchor": "end", class: "bl-x-read" }),
        node("svg:polyline", { class: on ? "bl-x-line" : "bl-x-line bl-x-off-line", "data-variant": variant,
          points: corners(r, variant).map(([s, v]) => `${x(s)},${y(v)}`).join(" ") }));
      marks.push(node("svg:circle", { class: "bl-x-dot", r: on ? 8 : 5, cx: x(step), cy: y(lr), "data-variant": variant, "data-step": step, "data-value": lr }));
    }
    paths.replaceChildren(...parts, yLabel(0, 16, "Learning rate"), xLabel((left + width - right) / 2, foot + 35, `Step (${count(steps)} in all)`));
    dots.replaceChildren(...marks);
    for (const [key, v] of Object.entries({ x: left, y: 28, width: inner, height: foot - 8 })) field.setAttribute(key, v);
    for (const [key, v] of Object.entries({ x1: x(step), x2: x(step), y1: tops.code, y2: foot })) needle.setAttribute(key, v);
    const said = ["code", "paper"].map((v) => `${plain(rate(now(v), step, v))} by the ${v}`).join(", ");
    for (const [name, v] of Object.entries({ "aria-valuemax": steps - 1, "aria-valuenow": step, "aria-valuetext": `step ${count(step)}: ${said}` })) hand.setAttribute(name, v);
    return foot + 40;
  });
  draggable(hand, {
    moved: (x) => put(model, { step: fromStep(x) }),
    keyed: (dx, dy) => {
      const r = now(), last = r.steps - 1, turns = [0, r.warmup, ...r.boundaries, last].sort((a, b) => a - b);
      const to = Math.abs(dx) === Infinity || dx ? at() + dx : dy > 0 ? turns.find((s) => s > at()) ?? last : turns.findLast((s) => s < at()) ?? 0;
      put(model, { step: clamp(to, 0, last) });
    },
    aria: { "aria-label": "Step (up and down: the next turn of the schedule)", "aria-valuemin": 0 },
  });
  hand.style.touchAction = "pan-y";

  // --- the resolution: the image as it is, and what the network is trained on, to one scale ---
  const squares = node("svg:svg", { role: "group", "aria-label": "Resolution" });
  const shapes = node("svg:g"), corner = node("svg:g", { class: "bl-x-grip" });
  const near = node("svg:circle", { class: "bl-x-hit", r: 22 }), pin = node("svg:circle", { r: 6 });
  corner.append(near, pin);
  squares.append(shapes, corner);
  let toSide;
  const drawSquares = fitted(squares, (width) => {
    const side = get("side"), variant = get("variant"), gap = width < 260 ? 36 : 52, other = side < LIMIT ? 512 : 16;
    const full = clamp((width - gap - 12) / 2, 70, 160), px = (v) => full * v / 512, top = 28, foot = top + full, second = full + gap;
    const square = (x, v, kind, up = 0, more = {}) =>
      node("svg:rect", { class: kind, x, y: foot - px(v) - up, width: px(v), height: px(v), ...more });
    // The place of a crop is random; here it is one of many.
    const pair = ({ resize, crop }, kind) => [square(second, resize, "bl-x-resize" + kind, 0, { "data-resize": resize }),
      square(second + px(resize - crop) * 0.65, crop, "bl-x-crop" + kind, px(resize - crop) * 0.35, { "data-crop": crop })];
    toSide = (x, y) => clamp(Math.round(512 * ((x - 1) + (foot - y)) / 2 / full), 16, 512);
    const r = now();
    shapes.replaceChildren(yLabel(0, 14, "Resolution"),
      node("svg:line", { class: "bl-x-limit", x1: 1, y1: foot, x2: 1 + full, y2: top }),
      square(1, side, "bl-x-original"), square(1, LIMIT, "bl-x-limit"),
      text(px(LIMIT) + 8, foot - 3, side < 128 ? "96 px" : "", { class: "bl-x-label" }),
      text(full + gap / 2, foot - full / 2, "→", { "text-anchor": "middle", class: "bl-x-arrow" }),
      ...pair(rule(1, other, other, variant), " bl-x-ghost"), ...pair(r, ""),
      text(1, foot + 18, `${side} × ${side} px`, { class: "bl-x-strong" }), text(1, foot + 34, "the image", { class: "bl-x-label" }),
      text(second, foot + 18, `resize ${r.resize} px`), text(second, foot + 34, `crop ${r.crop} px`, { class: "bl-x-crop-words" }));
    for (const c of [near, pin]) { c.setAttribute("cx", 1 + px(side)); c.setAttribute("cy", foot - px(side)); }
    for (const [name, v] of Object.entries({ "aria-valuenow": side, "aria-valuetext": `${side} by ${side} pixels` })) corner.setAttribute(name, v);
    return foot + 40;
  });
  draggable(corner, {
    moved: (x, y) => put(model, { side: toSide(x, y) }),
    keyed: (dx, dy) => put(model, { side: clamp(get("side") + (dx || dy), 16, 512) }),
    aria: { "aria-label": "Side of an image in pixels", "aria-valuemin": 16, "aria-valuemax": 512 },
  });

  const answer = node("p", { class: "bl-x-answer" }), size = node("p", { class: "bl-x-small" });
  el.append(node("div", { class: "bl-x bl-x-hyperrule" }, sizes, answer,
    node("div", { class: "bl-x-controls" }, choice(model, "variant", "Rule of the", [["code", "released code"], ["paper", "paper"]])),
    schedule, node("div", { class: "bl-x-resolution" }, squares, size)));

  const says = () => {
    const r = now(), n = get("examples");
    for (const [name, v] of Object.entries({ task: r.task, steps: r.steps, epochs: r.epochs, alpha: r.alpha, warmup: r.warmup,
      boundaries: r.boundaries.join(" "), resize: r.resize, crop: r.crop })) answer.dataset[name] = v;
    answer.replaceChildren(node("strong", {}, `${count(n)} images: a ${r.task} task. `),
      `${count(r.steps)} steps of ${BATCH} images, ` + (r.epochs < 1 ? `${short(r.epochs)} epochs: many images are never seen; `
        : `so each image is seen ${short(r.epochs)} times; `) + (r.alpha ? `MixUp with α = ${r.alpha}. ` : "no MixUp. ")
        + "The number of classes does not matter.");
    size.textContent = (get("side") < LIMIT ? "Below 96 × 96 pixels, code and paper agree. " : get("variant") === "code"
      ? "From 96 × 96 pixels on, the code takes this for every network. " : "From 96 × 96 pixels on. For R152x4 the paper takes 512 and 480. ")
      + `Test images are resized to ${r.crop} pixels and not cropped.`;
  };
  const stop = [watch(model, ["examples", "variant"], () => { drawSizes(); drawSchedule(); drawSquares(); says(); }),
    watch(model, ["step"], drawSchedule), watch(model, ["side"], () => { drawSquares(); says(); })];
  return () => stop.forEach((end) => end());
}

export default { render };
