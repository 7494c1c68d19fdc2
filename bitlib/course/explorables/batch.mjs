// Batch norm of five numbers, forward and backward: what the loss asks of the outputs, and what of it reaches the inputs.

const EPS = 1e-5, COUNT = 5, SPAN = 4, LANE = 34;

// Forward. deviation: of the batch, with epsilon under the root.
export function forward(x, gamma, beta) {
  const m = mean(x), deviation = Math.sqrt(mean(x.map((v) => (v - m) ** 2)) + EPS), hat = x.map((v) => (v - m) / deviation);
  return { mean: m, deviation, hat, y: hat.map((v) => gamma * v + beta) };
}

// Backward: pushes on the outputs, which are minus the gradient, become pushes on the inputs.
export function backward(push, { hat, deviation }, gamma) {
  const all = mean(push), along = mean(push.map((p, i) => p * hat[i]));
  return push.map((p, i) => gamma / deviation * (p - all - hat[i] * along));
}

// The shares of a push, by squared length: the same for all, along the normalised values, and the rest.
export function shares(push, hat) {
  const square = (v) => v.reduce((sum, p) => sum + p * p, 0), whole = square(push), apart = square(hat);
  if (!whole) return [0, 0, 0];
  const along = push.reduce((sum, p, i) => sum + p * hat[i], 0);
  const two = [push.length * mean(push) ** 2 / whole, apart ? along ** 2 / apart / whole : 0];
  return [...two, Math.max(0, 1 - two[0] - two[1])];
}

const COUNTED = ["none", "one", "two", "three", "four", "all five"];
const INDEX = Array.from({ length: COUNT }, (_, i) => i);
const clamp = (v, [low, high]) => Math.max(low, Math.min(high, v));
const fixed = (v, digits = 2) => v.toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1");
const percent = (v) => `${Math.round(100 * v)} %`;

function render({ model, el }) {
  const get = (name) => model.get(name), limits = get("limits"), thumbs = get("images");
  const all = (kind) => INDEX.map((i) => get(kind + (i + 1)));
  const set = (kind, values) => put(model, Object.fromEntries(values.map((v, i) => [kind + (i + 1), v])));
  const given = { x: all("x"), push: all("push"), rest: { gamma: get("gamma"), beta: get("beta") } };

  // --- two panels: the values before the norm and after it, an image to a lane ---
  function panel(kind, title, axis) {
    const svg = node("svg:svg", { role: "group", class: `bl-batch-${kind}` }), ground = node("svg:g"), marks = node("svg:g");
    const handles = INDEX.map((i) => node("svg:g", { class: "bl-x-handle" }));
    svg.append(ground, marks, ...handles);
    const left = 46, top = 44;
    let width = 340;
    const right = () => width - 14;
    const toX = (v) => left + (clamp(v, [-SPAN, SPAN]) + SPAN) / (2 * SPAN) * (right() - left);
    const toValue = (at) => (at - left) / (right() - left) * 2 * SPAN - SPAN;
    const lane = (i) => top + (i + 0.5) * LANE;
    const trait = (i) => (kind === "x" ? "x" : "push") + (i + 1);
    handles.forEach((handle, i) => {
      const name = trait(i), to = (v) => put(model, { [name]: +clamp(v, limits[name]).toFixed(2) });
      draggable(handle, {
        moved: (at) => to(toValue(at) - (kind === "x" ? 0 : panels.y.values[i])),
        keyed: (dx, dy) => to(get(name) + 0.1 * (dx || dy)),
        aria: { "aria-label": `${kind === "x" ? "Input" : "What the loss asks"} of image ${i + 1}`,
          "aria-valuemin": limits[name][0], "aria-valuemax": limits[name][1] },
      });
    });
    // An arrow on the left stands below its dot, which would hide a short one.
    const arrow = (i, from, by, name) => {
      const y = lane(i) + (kind === "x" ? 12 : 0), a = toX(from), b = toX(from + by), way = Math.sign(b - a), tip = Math.min(7, Math.abs(b - a));
      return node("svg:path", { class: name, "data-by": by,
        d: Math.abs(b - a) < 0.5 ? "" : `M${a} ${y}H${b - way * tip}M${b} ${y}l${-way * tip} -4v8z` });
    };
    const self = { svg, values: [], arrows: [] };
    self.draw = fitted(svg, (now) => {
      const bottom = top + COUNT * LANE;
      width = now;
      ground.replaceChildren(
        yLabel(0, 14, "image"),
        ...[-4, -2, 0, 2, 4].flatMap((v) => [
          node("svg:line", { x1: toX(v), x2: toX(v), y1: top - 8, y2: bottom, class: v ? "bl-x-gridline" : "bl-x-axis" }),
          node("svg:text", { x: toX(v), y: bottom + 16, "text-anchor": "middle" }, String(v).replace("-", "−"))]),
        xLabel((left + right()) / 2, bottom + 35, axis),
        ...INDEX.map((i) => (thumbs[i]
          ? node("svg:image", { href: thumbs[i], x: 8, y: lane(i) - 13, width: 26, height: 26, "aria-hidden": "true" })
          : node("svg:text", { x: 20, y: lane(i) + 4, "text-anchor": "middle" }, i + 1))));
      self.move();
      return bottom + 42;
    });
    self.move = () => {
      const { values, arrows } = self, m = mean(values), d = deviation(values, m), label = `mean ${fixed(m)}, deviation ${fixed(d)}`;
      const middle = Math.max(left + 66, Math.min(right() - 66, toX(m)));
      marks.replaceChildren(
        node("svg:text", { x: middle, y: 14, "text-anchor": "middle", class: "bl-batch-told" }, label),
        node("svg:line", { x1: toX(m), x2: toX(m), y1: 22, y2: lane(COUNT - 1) + LANE / 2, class: "bl-batch-mean" }),
        node("svg:line", { x1: toX(m - d), x2: toX(m + d), y1: 28, y2: 28, class: "bl-batch-mean" }),
        ...values.flatMap((v, i) => [
          ...(kind === "y" ? [node("svg:circle", { cx: toX(v), cy: lane(i), r: 5.5, class: "bl-batch-dot", "data-value": v })] : []),
          arrow(i, v, arrows[i], kind === "x" ? "bl-batch-arrives" : "bl-batch-asked")]));
      handles.forEach((handle, i) => {
        const at = toX(values[i] + (kind === "x" ? 0 : arrows[i])), v = kind === "x" ? values[i] : arrows[i];
        handle.replaceChildren(node("svg:rect", { x: at - 15, y: lane(i) - LANE / 2, width: 30, height: LANE, class: "bl-x-zone" }),
          node("svg:circle", { cx: at, cy: lane(i), r: kind === "x" ? 6.5 : 5, class: "bl-x-knob", "data-value": v }));
        handle.setAttribute("aria-valuenow", v);
        handle.setAttribute("aria-valuetext", kind === "x" ? fixed(v) : `${fixed(v)}, the output is ${fixed(values[i])}`);
      });
      svg.setAttribute("aria-label", `${title}: five values, ${label}`);
    };
    self.element = node("div", {}, node("p", { class: "bl-batch-name" }, title), svg);
    return self;
  }
  const panels = { x: panel("x", "Before the norm", "x"), y: panel("y", "After the norm", "y = γ x̂ + β") };

  // --- what was asked, in three parts ---
  const PARTS = ["shift all alike", "spread or squeeze", "everything else"];
  const body = node("tbody"), answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const heads = ["The loss asks of y to", "share of what it asks", "reaches x"];
  el.append(node("div", { class: "bl-x bl-x-batch" },
    node("p", { class: "bl-x-title" }, "Drag the inputs on the left, and on the right the tips of what the loss asks of each output. "
      + "The arrows on the left are what arrives."),
    node("div", { class: "bl-batch-two" }, panels.x.element, panels.y.element),
    node("div", { class: "bl-batch-buttons" },
      button("Raise one", () => set("push", INDEX.map((i) => (i === 1 ? 1.5 : 0)))),
      button("Raise all alike", () => set("push", INDEX.map(() => 1))),
      button("Spread them", () => set("push", forward(all("x"), 1, 0).hat.map((v) => +v.toFixed(4)))),
      button("Start again", () => {
        set("x", given.x);
        set("push", given.push);
        put(model, given.rest);
      })),
    node("div", { class: "bl-x-controls" }, slider(model, "gamma", "scale γ", (v) => fixed(v)),
      slider(model, "beta", "shift β", (v) => fixed(v))),
    node("table", {}, node("thead", {}, node("tr", {}, ...heads.map((h) => node("th", { scope: "col" }, h)))), body), answer));

  const told = (push, parts, factor, arrives) => {
    if (!push.some((p) => p)) return "The loss asks for nothing, and nothing arrives.";
    if (Math.abs(factor) > 50) return `The inputs are all but equal, so what is left is multiplied by γ/s = ${fixed(factor, 0)}.`;
    if (!factor) return "With γ = 0 the outputs do not depend on the inputs, and nothing arrives.";
    if (parts[2] < 1e-4) return "Nothing arrives. Whatever it did to the inputs, batch norm would take away again.";
    const moved = arrives.filter((v) => Math.abs(v) > 0.005).length, asked = push.filter((p) => p).length;
    return `Asked of ${asked === 1 ? "one image" : `${asked === COUNT ? "all" : COUNTED[asked]} images`}, it pushes ${COUNTED[moved]}: the pushes on x `
      + `sum to ${fixed(arrives.reduce((a, b) => a + b, 0))}, and they do not spread the batch.`;
  };

  const names = [...INDEX.flatMap((i) => [`x${i + 1}`, `push${i + 1}`]), "gamma", "beta"];
  return watch(model, names, () => {
    const x = all("x"), push = all("push"), gamma = get("gamma"), now = forward(x, gamma, get("beta"));
    const arrives = backward(push, now, gamma), parts = shares(push, now.hat), factor = gamma / now.deviation;
    Object.assign(panels.x, { values: x, arrows: arrives });
    Object.assign(panels.y, { values: now.y, arrows: push });
    panels.x.draw();
    panels.y.draw();
    body.replaceChildren(...PARTS.map((name, i) => node("tr", {}, node("th", { scope: "row" }, name),
      barCell(parts[i], percent(parts[i])), node("td", {}, i < 2 ? "nothing" : `× γ/s = ${fixed(factor)}`))));
    answer.textContent = told(push, parts, factor, arrives);
  });
}

export default { render };
