// Boxes found in a scene: drag one of them against the truth, move both thresholds, and see what average precision makes of it.

const clampTo = (v, low, high) => Math.min(high, Math.max(low, v));
const hundredths = (v) => v.toFixed(2);

// Area that two boxes (x1, y1, x2, y2) share, over the area that they cover together.
export function iou(a, b) {
  const w = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), h = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(0, w) * Math.max(0, h);
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared);
}

const byScore = (scores) => scores.map((_, i) => i).sort((i, j) => scores[j] - scores[i]);

// For each box the number of the true one that it found, or -1. The best score chooses first.
export function matched(truth, boxes, scores, least) {
  const found = boxes.map(() => -1), free = new Set(truth.map((_, j) => j));
  for (const i of byScore(scores)) {
    let best = -1;
    for (const j of [...free].sort((a, b) => a - b)) {
      const here = iou(boxes[i], truth[j]);
      if (here >= Math.min(least, 1 - 1e-10) && (best < 0 || here > iou(boxes[i], truth[best]))) best = j;
    }
    found[i] = best;
    free.delete(best);
  }
  return found;
}

// Recall and precision after each box, from the best score on.
export function curve(right, scores, truths) {
  let hits = 0;
  return byScore(scores).map((i, place) => {
    hits += right[i] ? 1 : 0;
    return [hits / truths, hits / (place + 1)];
  });
}

// The best precision that is still reached at this recall or beyond it.
export const reached = (points, at) => points.reduce((best, [r, p]) => (r >= at - 1e-12 ? Math.max(best, p) : best), 0);

// COCO's average precision: the mean of that at 101 recalls.
export const area = (points) => mean(Array.from({ length: 101 }, (_, i) => reached(points, i / 100)));

function render({ model, el }) {
  const get = (name) => model.get(name), limits = get("limits"), side = get("side"), truth = get("truth"), scores = get("scores");
  const mine = () => [get("left"), get("top"), get("left") + get("width"), get("top") + get("height")];
  const boxes = () => [mine(), ...get("boxes").slice(1)];
  const given = Object.fromEntries(["left", "top", "width", "height", "iou", "score"].map((name) => [name, get(name)]));

  // --- the scene ---
  const scene = node("svg:svg", { role: "group", "aria-label": "The scene, with true and found boxes" });
  const ground = node("svg:g"), whole = node("svg:g", { class: "bl-x-handle bl-boxes-mine" }), corner = node("svg:g", { class: "bl-x-handle" });
  const frame = node("svg:rect", { class: "bl-boxes-grab" }), grip = node("svg:circle", { r: 8, class: "bl-x-knob" });
  const zone = node("svg:circle", { r: 20, class: "bl-x-zone" });
  whole.append(frame);
  corner.append(zone, grip);
  scene.append(ground, whole, corner);
  let scale = 3;
  const place = (x, y) => put(model, {
    left: +clampTo(x, 0, side - get("width")).toFixed(1), top: +clampTo(y, 0, side - get("height")).toFixed(1) });
  const resize = (w, h) => put(model, {
    width: +clampTo(w, limits.width[0], side - get("left")).toFixed(1), height: +clampTo(h, limits.height[0], side - get("top")).toFixed(1) });
  let hold = null;
  draggable(whole, {
    moved: (x, y) => {
      hold ??= [x / scale - get("left"), y / scale - get("top")];
      place(x / scale - hold[0], y / scale - hold[1]);
    },
    keyed: (dx, dy) => Number.isFinite(dx) && place(get("left") + dx, get("top") - dy),
    aria: { "aria-label": "Box, to be moved", "aria-valuemin": 0, "aria-valuemax": 1 },
  });
  for (const over of ["pointerup", "pointercancel"]) whole.addEventListener(over, () => { hold = null; });
  draggable(corner, {
    moved: (x, y) => resize(x / scale - get("left"), y / scale - get("top")),
    keyed: (dx, dy) => Number.isFinite(dx) && resize(get("width") + dx, get("height") - dy),
    aria: { "aria-label": "Corner of the box", "aria-valuemin": 0, "aria-valuemax": 1 },
  });

  // --- the curve ---
  const chart = node("svg:svg", { role: "img" });
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" }), body = node("tbody");
  el.append(node("div", { class: "bl-x bl-x-boxes" },
    node("p", { class: "bl-x-title" }, "Drag the thick box, or its lower right corner. Broken lines: the truth. Thin lines: what else was found."),
    node("div", { class: "bl-boxes-two" }, node("div", {}, scene), node("div", {}, chart)),
    node("div", { class: "bl-x-controls" }, slider(model, "iou", "Least IoU", hundredths), slider(model, "score", "Least score", hundredths)),
    button("Start again", () => put(model, given)), answer,
    node("table", {}, node("thead", {}, node("tr", {}, ...["score", "best IoU", "counts as", "recall", "precision"].map((h) => node("th", { scope: "col" }, h)))), body)));

  const now = () => {
    const all = boxes(), matches = matched(truth, all, scores, get("iou")), points = curve(matches.map((m) => m >= 0), scores, truth.length);
    const order = byScore(scores), kept = order.filter((i) => scores[i] >= get("score")).length;
    return { all, matches, points, order, kept, ap: area(points), best: all.map((b) => Math.max(...truth.map((true_) => iou(b, true_)))) };
  };

  const drawScene = fitted(scene, (width) => {
    scale = width / side;
    const { all, matches, best } = now();
    const rect = (b, more) => node("svg:rect", { x: b[0] * scale, y: b[1] * scale, width: (b[2] - b[0]) * scale, height: (b[3] - b[1]) * scale, ...more });
    ground.replaceChildren(
      node("svg:image", { href: get("image"), x: 0, y: 0, width, height: width, "aria-hidden": "true" }),
      ...truth.flatMap((b) => [rect(b, { class: "bl-boxes-under" }), rect(b, { class: "bl-boxes-true" })]),
      ...all.map((b, i) => rect(b, {
        class: `bl-boxes-found ${matches[i] >= 0 ? "bl-boxes-hit" : "bl-boxes-miss"}${scores[i] >= get("score") ? "" : " bl-boxes-off"}`,
        "data-match": matches[i], "data-iou": best[i] })));
    const b = all[0];
    for (const [name, value] of Object.entries({ x: b[0] * scale, y: b[1] * scale, width: (b[2] - b[0]) * scale, height: (b[3] - b[1]) * scale })) frame.setAttribute(name, value);
    for (const round of [grip, zone]) {
      round.setAttribute("cx", b[2] * scale);
      round.setAttribute("cy", b[3] * scale);
    }
    for (const handle of [whole, corner]) {
      handle.setAttribute("aria-valuenow", +best[0].toFixed(3));
      handle.setAttribute("aria-valuetext", `IoU ${hundredths(best[0])} with the nearest true box`);
    }
    return width;
  });

  const drawChart = fitted(chart, (width) => {
    const right = width - 14, left = 44, top = 28, foot = Math.max(190, width - 62), { points, kept, ap } = now();
    const x = (v) => left + (right - left) * v, y = (v) => foot - (foot - top) * v;
    const steps = Array.from({ length: 101 }, (_, i) => `${x(i / 100)},${y(reached(points, i / 100))}`);
    const at = kept ? points[kept - 1] : null;
    chart.setAttribute("aria-label", `Precision over recall; the area is ${hundredths(ap)}`);
    chart.replaceChildren(
      ...[0, 0.5, 1].flatMap((v) => gridline(y(v), right, String(v))),
      node("svg:polygon", { class: "bl-boxes-area", points: [`${x(0)},${y(0)}`, ...steps, `${x(1)},${y(0)}`].join(" ") }),
      node("svg:polyline", { class: "bl-x-line", points: points.map(([r, p]) => `${x(r)},${y(p)}`).join(" ") }),
      ...points.map(([r, p], i) => node("svg:circle", { cx: x(r), cy: y(p), r: 4, class: i < kept ? "bl-boxes-kept" : "bl-boxes-left", "data-recall": r, "data-precision": p })),
      at && node("svg:circle", { cx: x(at[0]), cy: y(at[1]), r: 8, class: "bl-boxes-now" }) || "",
      yLabel(4, 14, "precision"), xLabel((left + right) / 2, foot + 34, "recall"),
      ...[0, 0.5, 1].map((v) => node("svg:text", { x: x(v), y: foot + 17, "text-anchor": v === 1 ? "end" : "middle" }, String(v))));
    return foot + 40;
  });

  function says() {
    const { matches, points, order, kept, ap, best } = now(), at = kept ? points[kept - 1] : [0, 1];
    const hits = order.slice(0, kept).filter((i) => matches[i] >= 0).length;
    Object.assign(answer.dataset, { ap, iou: best[0], recall: at[0], precision: at[1], kept });
    answer.replaceChildren(node("strong", {}, `Average precision ${hundredths(ap)} at IoU ${hundredths(get("iou"))}. `),
      kept ? `With the ${kept} box${kept === 1 ? "" : "es"} that score ${hundredths(get("score"))} or more, ${hits} of ${truth.length} digits are found: recall ${hundredths(at[0])}, precision ${hundredths(at[1])}. `
        : "No box scores that much. ",
      `The thick box overlaps the nearest truth by ${hundredths(best[0])}, and ${matches[0] >= 0 ? "counts as found" : best[0] >= get("iou") ? "comes too late: a better score has that digit" : "counts as a false alarm"}.`);
    body.replaceChildren(...order.map((i, row) => node("tr", { class: row < kept ? "" : "bl-boxes-off", "aria-current": i === 0 ? "true" : false },
      ...[hundredths(scores[i]), hundredths(best[i]), matches[i] >= 0 ? "found" : "false alarm", hundredths(points[row][0]), hundredths(points[row][1])].map((v) => node("td", {}, v)))));
  }
  return watch(model, ["left", "top", "width", "height", "iou", "score"], () => { drawScene(); drawChart(); says(); });
}

export default { render };
