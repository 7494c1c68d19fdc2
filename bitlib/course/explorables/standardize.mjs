// Weight standardisation, seen in a filtered image: add what you like to a filter or multiply it, the network sees the same.

const EPS = 1e-10, NAMES = ["R", "G", "B"], SPAN = 4;

export function standardize(w) {
  const m = mean(w), variance = mean(w.map((v) => (v - m) ** 2));
  return w.map((v) => (v - m) / Math.sqrt(variance + EPS));
}

// One channel of a convolution that keeps the size, zeros outside. x: [3, side, side], w: [3, k, k], k odd, both flat.
export function convolve(x, side, w) {
  const k = Math.round(Math.sqrt(w.length / 3)), reach = (k - 1) / 2, out = new Float64Array(side * side);
  w.forEach((weight, at) => {
    const plane = Math.floor(at / (k * k)) * side * side, dy = Math.floor(at / k) % k - reach, dx = at % k - reach;
    const left = Math.max(0, -dx), right = Math.min(side, side - dx);
    for (let row = Math.max(0, -dy); row < Math.min(side, side - dy); row++) {
      const to = row * side, from = plane + (row + dy) * side + dx;
      for (let column = left; column < right; column++) out[to + column] += weight * x[from + column];
    }
  });
  return out;
}

const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
const fixed = (v, digits = 2) => v.toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1");

function render({ model, el }) {
  const get = (name) => model.get(name), filters = get("filters"), limits = get("limits");
  const pixels = decode(get("pixels")), plane = pixels.length / 3, side = Math.round(Math.sqrt(plane));
  const x = Float64Array.from(pixels, (p) => p / 127.5 - 1);
  const onGrid = (v, [low, high, step]) => clamp(+(Math.round(v / step) * step).toFixed(6), low, high);

  const photo = node("canvas", { class: "bl-x-photo" });
  paint(photo, pixels, "the image");
  const thumbs = filters.map((w, i) => {
    const canvas = node("canvas", { class: "bl-x-thumb" });
    clickable(canvas, `Filter ${i + 1} of ${filters.length}`, () => put(model, { filter: i }));
    paint(canvas, standardize(w).map((v) => clamp(127.5 + 50 * v, 0, 255)));
    return canvas;
  });

  // --- the two sides: what came out, and the weights it came out of ---
  const sides = ["stored", "used"].map((name) => ({ name, canvas: node("canvas", { class: "bl-x-output" }),
    svg: node("svg:svg", { role: name === "used" ? "img" : "group" }), w: [] }));
  const start = 22, top = 62;
  let width = 320; // of a chart
  const toX = (v) => start + (clamp(v, -SPAN, SPAN) + SPAN) / (2 * SPAN) * (width - start - 8);
  const toValue = (at) => (at - start) / (width - start - 8) * 2 * SPAN - SPAN;
  const own = () => ({ m: mean(filters[get("filter")]), d: deviation(filters[get("filter")]) });
  const handle = (trait, label, toTrait) => {
    const set = (v) => put(model, { [trait]: onGrid(v, limits[trait]) });
    return draggable(node("svg:g", { class: "bl-x-handle" }), {
      moved: (at) => set(toTrait(toValue(at) - own().m * get("scale"))),
      keyed: (dx, dy) => set(get(trait) + 0.05 * (dx || dy)),
      aria: { "aria-label": label, "aria-valuemin": limits[trait][0], "aria-valuemax": limits[trait][1] },
    });
  };
  const handles = {
    shift: handle("shift", "Mean of the stored weights", (v) => v),
    scale: handle("scale", "Standard deviation of the stored weights", (v) => (v - get("shift")) / own().d),
  };
  for (const s of sides) {
    const chart = node("svg:g"), movable = s.name === "stored";
    s.svg.append(chart, ...(movable ? Object.values(handles) : [])); // moved about, they would lose the pointer
    s.draw = fitted(s.svg, (now) => {
      width = now;
      const m = mean(s.w), d = deviation(s.w, m), k2 = s.w.length / 3, bottom = top + 3 * 15;
      const centre = toX(m), end = toX(m + d);
      const arrow = node("svg:path", { d: `M${centre - 7} 18h14l-7 12z`, class: "bl-x-grip" });
      const knob = node("svg:circle", { cx: end, cy: 44, r: 6, class: "bl-x-grip" });
      const wide = width > 230;
      // To the right of a mark if there is room, else to the left of where it begins.
      const says = (from, to, y, ...text) => node("svg:text",
        to < width - (wide ? 110 : 50) ? { x: to + 11, y } : { x: from - 9, y, "text-anchor": "end" }, ...text);
      chart.replaceChildren(
        yLabel(0, 11, "channel"),
        node("svg:line", { x1: start, x2: width - 8, y1: bottom, y2: bottom, class: "bl-x-axis" }),
        ...[-4, -2, 0, 2, 4].flatMap((v) => [
          node("svg:line", { x1: toX(v), x2: toX(v), y1: top - 6, y2: bottom, class: "bl-x-gridline" }),
          node("svg:text", { x: toX(v), y: bottom + 15, "text-anchor": "middle" }, String(v).replace("-", "−"))]),
        xLabel((start + width) / 2, bottom + 31, "weight"),
        node("svg:line", { x1: centre, x2: centre, y1: 26, y2: bottom, class: "bl-x-mean" }),
        node("svg:line", { x1: toX(m - d), x2: end, y1: 44, y2: 44, class: "bl-x-sd" }),
        says(centre, centre, 28, wide ? "mean " : "", fixed(m)),
        says(toX(m - d), end, 48, wide ? "deviation " : "", fixed(d)),
        ...NAMES.map((name, c) => node("svg:text", { x: 2, y: top + 15 * c + 8, class: "bl-x-c" + c }, name)),
        ...s.w.map((v, i) => node("svg:circle", { cx: toX(v), cy: top + 4 + 15 * Math.floor(i / k2), r: 4, "data-value": v,
          class: "bl-x-c" + Math.floor(i / k2) })),
        ...(movable ? [] : [arrow, knob]));
      if (movable) {
        const reach = (at, y) => node("svg:rect", { x: at - 16, y, width: 32, height: 25, "fill-opacity": 0 }); // for fingers
        handles.shift.replaceChildren(reach(centre, 8), arrow);
        handles.scale.replaceChildren(reach(end, 33), knob);
      }
      s.svg.setAttribute("aria-label",
        `${s.w.length} weights, rows ${NAMES.join(", ")}, mean ${fixed(m)}, standard deviation ${fixed(d)}`);
      return bottom + 36;
    });
  }

  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  el.append(node("div", { class: "bl-x bl-x-standardize" },
    node("div", { class: "bl-x-top" }, photo, node("div", {}, node("p", { class: "bl-x-title" }, "Choose a filter"),
      node("div", { class: "bl-x-thumbs" }, ...thumbs))),
    node("p", { class: "bl-x-title" }, "The image, filtered with these weights…"),
    node("div", { class: "bl-x-two" }, ...sides.map((s) => node("div", {},
      node("p", { class: "bl-x-name" }, s.name === "stored" ? "as stored" : "standardised"), s.canvas, s.svg))),
    node("p", { class: "bl-x-title" }, "Drag the stored weights: ▼ is their mean, ● one standard deviation more."),
    button("Back to the trained weights", () => put(model, { shift: 0, scale: 1 })), answer));

  // What the trained filter gives, standardised: the grey scale of both sides, and what the right one is compared with.
  let trained, limit, of = -1;
  const grey = new Float64Array(3 * plane);
  return watch(model, ["filter", "shift", "scale"], () => {
    if (of !== get("filter")) {
      of = get("filter");
      trained = convolve(x, side, standardize(filters[of]));
      limit = trained.map(Math.abs).sort()[Math.floor(0.98 * plane)];
      thumbs.forEach((t, i) => t.setAttribute("aria-pressed", i === of));
    }
    const raw = filters[of].map((v) => v * get("scale") + get("shift"));
    [sides[0].w, sides[1].w] = [raw, standardize(raw)];
    for (const s of sides) {
      const out = convolve(x, side, s.w);
      let lost = 0, change = 0;
      for (let i = 0; i < plane; i++) {
        grey[i] = grey[i + plane] = grey[i + 2 * plane] = clamp(127.5 + 127.5 * out[i] / limit, 0, 255);
        lost += Math.abs(out[i]) > 2 * limit;
        change = Math.max(change, Math.abs(out[i] - trained[i]));
      }
      paint(s.canvas, grey, `the image, filtered with the ${s.name === "stored" ? "stored" : "standardised"} weights`);
      const m = mean(out);
      Object.assign(s.canvas.dataset, {
        mean: m, deviation: deviation(out, m), limit, lost: lost / plane, change: change / limit });
      s.draw();
    }
    for (const [trait, text] of [["shift", "shifted by"], ["scale", "times"]]) {
      handles[trait].setAttribute("aria-valuenow", get(trait));
      handles[trait].setAttribute("aria-valuetext", `${text} ${fixed(get(trait))}`);
    }
    const { lost } = sides[0].canvas.dataset, { change } = sides[1].canvas.dataset, shift = get("shift");
    answer.textContent = `Stored weights × ${fixed(get("scale"))} ${shift < 0 ? "−" : "+"} ${fixed(Math.abs(shift))}. `
      + `Left: ${Math.round(100 * lost)}% of the pixels are far out of range. Right: no pixel changes by more than `
      + `${change < 1e-6 ? "a millionth" : fixed(+change, 6)} of the range.`;
  });
}

export default { render };
