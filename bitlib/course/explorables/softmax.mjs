// Softmax with a temperature: what a teacher says of one image. Apart: how strong a student's gradient is at each temperature.

export const entropy = (p) => -p.reduce((sum, v) => sum + (v > 0 ? v * Math.log(v) : 0), 0);

// Minus the gradient, at the student's logits, of T^2 KL(teacher || student); without the factor T^2 where not scaled.
export function pull(teacher, student, T, scaled) {
  const p = softmax(teacher, T), q = softmax(student, T);
  return p.map((v, i) => (v - q[i]) * (scaled ? T : 1 / T));
}
const norm = (v) => Math.hypot(...v);

const TICKS = [0.5, 1, 2, 5, 10, 20];
const set = (element, attributes) => Object.entries(attributes).forEach(([name, v]) => element.setAttribute(name, v));
const show = (T) => "T = " + (T < 10 ? T.toFixed(2) : T.toFixed(1)).replace(/\.?0+$/, "");
const times = (v) => (+v.toPrecision(2)).toLocaleString("en") + " times";

// What to see in the bars at this temperature.
function remark(p, labels) {
  const order = p.map((_, i) => i).sort((a, b) => p[b] - p[a]);
  const [first, second, last] = [order[0], order[1], order.at(-1)].map((i) => ({ p: p[i], name: `“${labels[i]}”` }));
  if (first.p > 0.97) return `Nearly everything is on ${first.name}: the teacher says little more than a hard label.`;
  if (first.p < 1.3 / p.length) return "Nearly the same for every class: what the teacher knows is still there, but faint.";
  const ratio = times(second.p / last.p);
  return `The teacher says ${first.name}, and also that ${second.name} is ${ratio} as likely as ${last.name}. `
    + "No hard label says that: it is dark knowledge.";
}

function render({ model, el }) {
  const [low, high] = model.get("limits").temperature, own = (name, ...inside) => node("svg:g", { class: name }, ...inside);
  const share = (T) => Math.log(T / low) / Math.log(high / low);
  const setTo = (T) => put(model, { temperature: snap(Math.min(high, Math.max(low, T)), model.get("limits").temperature) });

  // A handle that moves the temperature along an axis from left to right: of the scale, and of the curves.
  function handle(label, axis, ...inside) {
    const element = draggable(own("bl-x-handle", ...inside), {
      moved: (x) => setTo(low * (high / low) ** ((x - axis.left) / (axis.right - axis.left))),
      // Five per cent a step is more than the grain of any temperature, so that no press is lost.
      keyed: (dx, dy) => setTo(model.get("temperature") * 1.05 ** (dx || dy)),
      aria: { "aria-label": label, "aria-valuemin": low, "aria-valuemax": high, "data-trait": "temperature" },
    });
    element.style.touchAction = "pan-y"; // a finger that goes up or down scrolls the page
    return element;
  }
  const along = (p) => rows.left + (rows.right - rows.left) * p / rows.most;
  const place = (T, axis) => axis.left + (axis.right - axis.left) * share(T);

  // --- the bars, under a scale of temperatures ---
  const scale = { left: 0, right: 0, y: 44 }, rows = { left: 0, right: 0, top: 108, each: 26, most: 1 };
  const ground = own("bl-x-ground"), bars = own("bl-x-bars"), zone = node("svg:rect", { y: 0, height: 66, class: "bl-x-zone" });
  const knob = node("svg:circle", { cy: scale.y, r: 10, class: "bl-x-knob" });
  const value = node("svg:text", { y: scale.y - 19, "text-anchor": "middle", class: "bl-x-strong" });
  const main = handle("Temperature", scale, zone, knob, value);
  const chart = node("svg:svg", { role: "group", "aria-label": "Probabilities at a temperature" }, ground, bars, main);

  // --- the norm of the gradient against the temperature ---
  const axis = { left: 46, right: 0, top: 46, bottom: 160, most: 1 };
  const up = (v) => axis.bottom - (axis.bottom - axis.top) * v / axis.most;
  const plot = own("bl-x-ground"), cover = node("svg:rect", { class: "bl-x-zone" });
  const line = node("svg:line", { class: "bl-x-now" });
  const ends = ["with", "without"].map((curve) => node("svg:circle", { r: 5, class: "bl-x-end", "data-curve": curve }));
  const grip = node("svg:circle", { r: 10, class: "bl-x-knob" });
  const marker = handle("Temperature, under the curves", axis, cover, line, ...ends, grip);
  const curves = node("svg:svg", { role: "group", "aria-label": "Norm of the gradient against the temperature" }, plot, marker);

  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" }), why = node("p", { class: "bl-x-answer" });
  const spread = node("p", { class: "bl-x-small" });
  const picture = model.get("image")
    ? [node("img", { src: model.get("image"), alt: model.get("image_alt"), class: "bl-x-digit" })] : [];
  el.append(node("div", { class: "bl-x bl-x-softmax" },
    node("div", { class: "bl-x-said" }, ...picture, answer), chart, spread,
    node("div", { class: "bl-x-why" }, node("p", { class: "bl-x-heading" }, "And why the loss carries T²"), why, curves)));

  // The name of the marks, to whichever side of one there is room.
  function named(end, once, y) {
    const right = once > end + 1 && once < rows.right - 34, left = !right && once > end + 46;
    return right || left ? [node("svg:text",
      { x: once + (right ? 6 : -6), y, "text-anchor": right ? "start" : "end", class: "bl-x-label" }, "T = 1")] : [];
  }

  // What changes with the temperature; all else is drawn when the width or the logits change.
  function move() {
    const [teacher, student, labels, T] = ["logits", "student", "labels", "temperature"].map((name) => model.get(name));
    const p = softmax(teacher, T), plain = softmax(teacher), top = p.indexOf(Math.max(...p));
    bars.replaceChildren(...p.flatMap((v, i) => {
      const y = rows.top + i * rows.each, middle = y + rows.each / 2 + 4.5;
      const end = along(v), once = along(plain[i]);
      return [
        node("svg:rect",
          { x: rows.left, y: y + 3, width: end - rows.left, height: rows.each - 6, rx: 2, class: "bl-x-p", "data-p": v }),
        node("svg:line", { x1: once, x2: once, y1: y + 2, y2: y + rows.each - 2, class: "bl-x-once" }),
        node("svg:text", { x: rows.right + 40, y: middle, "text-anchor": "end", class: "bl-x-value" }, v.toFixed(2)),
        ...(i === top ? named(end, once, middle) : []),
      ];
    }));
    set(knob, { cx: place(T, scale) });
    // Beside the name of the scale, and inside of the picture.
    set(value, { x: Math.min(scale.right - 10, Math.max(place(T, scale), 112)) });
    value.textContent = show(T);
    answer.dataset.entropy = entropy(p);
    answer.textContent = remark(p, labels);
    spread.textContent = `Entropy: ${entropy(p).toFixed(2)} of at most ${Math.log(p.length).toFixed(2)} nats.`;

    const norms = [true, false].map((scaled) => norm(pull(teacher, student, T, scaled))), now = place(T, axis);
    set(line, { x1: now, x2: now, y1: axis.top - 10, y2: axis.bottom });
    ends.forEach((end, i) => set(end, { cx: now, cy: up(norms[i]), "data-norm": norms[i] }));
    set(grip, { cx: now, cy: axis.top - 10 });
    const [kept, lost] = norms.map((v) => v.toPrecision(2));
    why.textContent = T === 1 ? "At T = 1 the factor T² is 1. Raise the temperature, and see what it is for."
      : `Without the factor T², the student’s gradient at ${show(T)} is ${times(T > 1 ? T * T : 1 / (T * T))} `
        + `${T > 1 ? "smaller" : "larger"}: ${lost} instead of ${kept}.`;
    set(main, { "aria-valuenow": T, "aria-valuetext": show(T) });
    set(marker, { "aria-valuenow": T, "aria-valuetext": `${show(T)}: norm ${kept} with T², ${lost} without` });
  }

  const drawBars = fitted(chart, (width) => {
    const labels = model.get("labels"), widest = Math.max(...labels.map((label) => label.length));
    rows.left = Math.max(30, Math.min(0.32 * width, 12 + 7.5 * widest));
    rows.right = width - 42;
    // The axis ends above the largest probability that the lowest temperature gives.
    rows.most = Math.min(1, Math.ceil(5 * Math.max(...softmax(model.get("logits"), low))) / 5);
    scale.left = rows.left;
    scale.right = width - 16;
    set(zone, { x: rows.left - 14, width: width - rows.left + 14 });
    const bottom = rows.top + rows.each * labels.length;
    ground.replaceChildren(
      node("svg:line", { x1: scale.left, x2: scale.right, y1: scale.y, y2: scale.y, class: "bl-x-track" }),
      ...TICKS.flatMap((T) => [
        node("svg:line", { x1: place(T, scale), x2: place(T, scale), y1: scale.y - 5, y2: scale.y + 5, class: "bl-x-axis" }),
        node("svg:text", { x: place(T, scale), y: scale.y + 25, "text-anchor": "middle", class: "bl-x-label" }, String(T))]),
      yLabel(0, scale.y - 19, "temperature"), yLabel(0, rows.top - 8, "class"),
      ...[0, 0.2, 0.4, 0.6, 0.8, 1].filter((v) => v <= rows.most).flatMap((v) => [
        node("svg:line", { x1: along(v), x2: along(v), y1: rows.top, y2: bottom, class: "bl-x-gridline" }),
        node("svg:text", { x: along(v), y: bottom + 17, "text-anchor": "middle" }, String(v))]),
      ...labels.map((label, i) => node("svg:text",
        { x: rows.left - 8, y: rows.top + (i + 0.5) * rows.each + 5, "text-anchor": "end", class: "bl-x-class" }, label)),
      xLabel((rows.left + rows.right) / 2, bottom + 37, "probability"));
    move();
    return bottom + 44;
  });

  const drawCurves = fitted(curves, (width) => {
    const teacher = model.get("logits"), student = model.get("student");
    axis.right = width - 16;
    const at = Array.from({ length: 81 }, (_, i) => low * (high / low) ** (i / 80));
    const [scaled, plain] = [true, false].map((factor) => at.map((T) => norm(pull(teacher, student, T, factor))));
    const grain = 10 ** Math.floor(Math.log10(Math.max(...scaled, ...plain, 1e-9)));
    axis.most = grain * Math.ceil(Math.max(...scaled, ...plain) / grain * 2) / 2;
    const path = (values) => values.map((v, i) => `${place(at[i], axis).toFixed(1)},${up(v).toFixed(1)}`).join(" ");
    const height = axis.bottom - axis.top;
    set(cover, { x: axis.left - 14, y: axis.top - 24, width: axis.right - axis.left + 28, height: height + 30 });
    plot.replaceChildren(
      ...[0, 0.5, 1].flatMap((v) => gridline(up(v * axis.most), axis.right, String(+(v * axis.most).toPrecision(3)))),
      ...TICKS.map((T) => node("svg:text", { x: place(T, axis), y: axis.bottom + 20, "text-anchor": "middle" }, String(T))),
      ...[[scaled, "with T²", "bl-x-with"], [plain, "without", "bl-x-without"]].flatMap(([values, name, kind]) => [
        node("svg:polyline", { points: path(values), class: kind }),
        // The name stands above the highest point of that stretch.
        node("svg:text", { x: axis.right - 8, y: up(Math.max(...values.slice(-20))) - 9, "text-anchor": "end",
          class: "bl-x-student" }, name)]),
      yLabel(0, 14, "norm of the student’s gradient"),
      xLabel((axis.left + axis.right) / 2, axis.bottom + 41, "temperature T"));
    move();
    return axis.bottom + 48;
  });

  const stop = watch(model, ["temperature"], move);
  const forget = watch(model, ["logits", "student", "labels"], () => { drawBars(); drawCurves(); });
  return () => { stop(); forget(); };
}

export default { render };
