// Weight standardisation of one real filter: whatever is added to it or multiplied with it, the network uses the same.

const EPS = 1e-10;

export function standardize(w) {
  const m = mean(w), variance = mean(w.map((v) => (v - m) ** 2));
  return w.map((v) => (v - m) / Math.sqrt(variance + EPS));
}

function render({ model, el }) {
  const filters = model.get("filters"), side = Math.round(Math.sqrt(filters[0].length / 3));
  const names = ["red", "green", "blue"];
  const rows = ["stored", "used"].map((name) => ({
    name, canvas: node("canvas", { class: "bl-x-patch" }), strip: node("svg:svg", { viewBox: "0 0 280 66", role: "img" }),
    numbers: node("p", { class: "bl-x-small" }) }));
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const percent = (v) => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(2);
  el.append(node("div", { class: "bl-x bl-x-standardize" },
    node("div", { class: "bl-x-controls" }, slider(model, "filter", "Filter", (v) => `${v + 1} of ${filters.length}`),
      slider(model, "shift", "Add to every weight", percent), slider(model, "scale", "Multiply by", (v) => "× " + v.toPrecision(3))),
    ...rows.map((r) => node("div", { class: "bl-x-row" }, r.canvas, node("div", {},
      node("p", { class: "bl-x-title" }, r.name === "stored" ? "Stored weights" : "What the network uses: standardised"),
      r.strip, r.numbers))), answer));

  return watch(model, ["filter", "shift", "scale"], () => {
    const raw = filters[model.get("filter")].map((v) => v * model.get("scale") + model.get("shift"));
    const both = { stored: raw, used: standardize(raw) };
    for (const { name, canvas, strip, numbers } of rows) {
      const w = both[name], m = mean(w), d = deviation(w, m);
      paint(canvas, w.map((v) => Math.max(0, Math.min(255, 127.5 + 42 * v))), `the filter, ${name}, as a picture`);
      const x = (v) => 140 + 40 * Math.max(-3.4, Math.min(3.4, v));
      strip.replaceChildren(node("svg:line", { x1: 4, x2: 276, y1: 46, y2: 46, class: "bl-x-axis" }),
        ...[-3, -2, -1, 0, 1, 2, 3].map((t) => node("svg:text", { x: x(t), y: 62, "text-anchor": "middle" }, String(t).replace("-", "−"))),
        // One row a colour channel, so that colour alone carries nothing.
        ...w.map((v, i) => node("svg:circle", { cx: x(v), cy: 10 + 13 * Math.floor(i / side ** 2), r: 4, "data-value": v,
          class: "bl-x-c" + Math.floor(i / side ** 2) })));
      strip.setAttribute("aria-label", `${w.length} weights, rows ${names.join(", ")}, mean ${m.toFixed(2)}, deviation ${d.toFixed(2)}`);
      numbers.textContent = `mean ${m.toFixed(2).replace("-", "−")}, standard deviation ${d.toFixed(2)}`;
    }
    const before = standardize(filters[model.get("filter")]);
    const change = Math.max(...both.used.map((v, i) => Math.abs(v - before[i])));
    answer.dataset.change = change;
    answer.textContent = "Largest change of a weight that the network uses: " + (change < 5e-7 ? "0.000000" : change.toFixed(6)) + ".";
  });
}

export default { render };
