// How large a BiT is: what every unit costs in parameters and in multiply-adds, and all sizes on one map.

const half = (n) => Math.ceil(n / 2);

// Stem, units and head of a network. macs: multiply-adds of convolutions and head for one image of side x side pixels;
// parameters: all of them, with norms and biases; channels and to: shape of the output.
export function parts(units, width, side, classes) {
  const root = 64 * width, stem = half(side);
  let at = half(stem), cin = root; // behind the pool
  const found = [{ part: "stem", channels: root, to: at, parameters: 147 * root, macs: 147 * root * stem ** 2 }];
  units.forEach((count, s) => {
    const cout = 4 * root * 2 ** s, mid = cout / 4;
    for (let u = 0; u < count; u++) {
      const to = u === 0 && s ? half(at) : at, behind = 9 * mid * mid + mid * cout + (u ? 0 : cin * cout);
      found.push({ part: `stage ${s + 1}`, channels: cout, to, parameters: cin * mid + behind + 2 * (cin + 2 * mid),
        macs: cin * mid * at ** 2 + behind * to ** 2 });
      [at, cin] = [to, cout];
    }
  });
  found.push({ part: "head", channels: classes, to: 1, parameters: 2 * cin + (cin + 1) * classes, macs: cin * classes });
  return found;
}
export const total = (list, what) => list.reduce((sum, part) => sum + part[what], 0);

const WHAT = [["macs", "Multiply-adds"], ["parameters", "Parameters"]];
const plain = (v) => v.toLocaleString("en-US");
const digits = (v, n = 3) => plain(v >= 10 ** (n - 1) ? Math.round(v) : +v.toPrecision(n));
const spoken = (v) => (v >= 1e9 ? `${digits(v / 1e9)} billion` : `${digits(v / 1e6)} million`);
const short = (v) => { // for the axes
  const [unit, letter] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([u]) => v >= u) ?? [1, ""];
  return `${digits(v / unit)} ${letter}`.trim();
};
// The smallest of 1, 2, 5, 10, 20 … that is not below v.
const above = (v) => {
  const ten = 10 ** Math.floor(Math.log10(v));
  return ten * [1, 2, 5, 10].find((s) => s * ten >= v * (1 - 1e-9));
};

function render({ model, el }) {
  const get = (name) => model.get(name), depths = get("units"), official = get("official"), limits = get("limits");
  const at = (depth, width) => parts(depths[depth], width, get("side"), get("classes"));
  const now = () => at(get("depth"), get("width"));
  const named = (depth, width) => `R${depth}x${width}`;
  const published = (depth, width) => official.includes(named(depth, width));
  const text = (x, y, words, more = {}) => node("svg:text", { x, y, ...more }, words);

  const bars = node("svg:svg", { class: "bl-sizes-bars", role: "img" });
  const chart = node("svg:svg", { role: "group", "aria-label": "All sizes: multiply-adds over parameters" });
  const table = node("table"), answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  el.append(node("div", { class: "bl-x bl-x-sizes" },
    node("div", { class: "bl-x-controls" },
      choice(model, "depth", "Depth", limits.depth.of.map((d) => [d, `${d} layers`])),
      choice(model, "width", "Width", limits.width.of.map((w) => [w, `× ${w}`])),
      choice(model, "classes", "Classes", limits.classes.of.map((c) => [c, plain(c)])),
      slider(model, "side", "Side of the image", (v) => `${v} px`)),
    answer, bars, node("div", { class: "bl-sizes-both" }, node("div", { class: "bl-sizes-table" }, table), chart)));

  // --- one bar per unit: multiply-adds upwards, parameters downwards ---
  const left = 46, gap = 7, tall = 92;
  const drawBars = fitted(bars, (width) => {
    const list = now(), inner = width - left - 4, changes = list.filter((p, i) => i && p.part !== list[i - 1].part).length;
    const thick = (inner - gap * changes) / list.length, middle = 24 + tall, below = middle + 24, shapes = [], spans = {};
    for (const [k, [what, words]] of WHAT.entries()) {
      const most = above(Math.max(...list.map((p) => p[what]))), y = (v) => (k ? below + tall * v / most : middle - tall * v / most);
      for (const v of [most / 2, most]) shapes.push(...gridline(y(v), width - 4, short(v)));
      let x = left;
      list.forEach((p, i) => {
        if (i && p.part !== list[i - 1].part) x += gap;
        spans[p.part] = [spans[p.part]?.[0] ?? x, x + thick];
        const from = Math.min(y(0), y(p[what]));
        shapes.push(node("svg:rect", { class: `bl-sizes-${what}`, x, y: from, width: Math.max(1, thick - 1),
          height: Math.abs(y(p[what]) - y(0)), [`data-${what}`]: p[what] }));
        x += thick;
      });
      shapes.push(yLabel(0, k ? below + tall + 34 : 12, `${words} per unit`));
    }
    for (const [part, [from, to]] of Object.entries(spans)) {
      const words = part.startsWith("stage") && to - from < 52 ? part.slice(6) : part, end = part === "head";
      // No room beside the name of the first or of the last stage.
      if (part === "stem" ? spans["stage 1"][1] < left + 60 : end && to - (spans["stage 4"][0] + spans["stage 4"][1]) / 2 < 58) continue;
      shapes.push(text(part === "stem" ? from : end ? to : (from + to) / 2, middle + 16, words,
        { "text-anchor": part === "stem" ? "start" : end ? "end" : "middle" }));
    }
    bars.replaceChildren(...shapes);
    bars.setAttribute("aria-label", `Bars for the stem, ${list.length - 2} units and the head of ${named(get("depth"), get("width"))}. `
      + "The units need nearly the same multiply-adds throughout; their parameters grow fourfold from stage to stage.");
    return below + tall + 42;
  });

  // --- the same by stage, in numbers ---
  function drawTable() {
    const groups = Object.entries(Object.groupBy(now(), (p) => p.part)), share = (list) => node("td", {}, list);
    const row = (name, shape, list) => node("tr", { "data-part": name, "data-parameters": total(list, "parameters"), "data-macs": total(list, "macs") },
      node("th", { scope: "row" }, name), share(shape), share(digits(total(list, "parameters") / 1e6)), share(digits(total(list, "macs") / 1e9)));
    table.replaceChildren(
      node("thead", {}, node("tr", {}, ...["Part", "Output", "Param. (M)", "M.-adds (G)"].map((h) => node("th", { scope: "col" }, h)))),
      node("tbody", {}, ...groups.map(([name, list]) => {
        const { channels, to } = list.at(-1);
        return row(name, to > 1 || name !== "head" ? `${plain(channels)} × ${to} × ${to}` : plain(channels), list);
      }), row("all", "", now())));
  }

  // --- all depths and widths ---
  const LEFTWARDS = ["R152x2", "R152x4"];
  const drawMap = fitted(chart, (width) => {
    const all = limits.depth.of.flatMap((depth) => limits.width.of.map((w) => ({ depth, width: w, list: at(depth, w) })))
      .map((n) => ({ ...n, x: total(n.list, "parameters"), y: total(n.list, "macs") }));
    const high = 250, top = 26, foot = top + high, [x, y] = ["x", "y"].map((k) => {
      const logs = all.map((n) => Math.log10(n[k])), [low, up] = [Math.min(...logs) - 0.12, Math.max(...logs) + 0.12];
      const share = (v) => (Math.log10(v) - low) / (up - low);
      const place = k === "x" ? (v) => left + (width - left - 12) * share(v) : (v) => foot - high * share(v);
      place.ticks = [1, 3].flatMap((s) => Array.from({ length: 9 }, (_, i) => s * 10 ** (i + 5)))
        .filter((v) => Math.log10(v) > low && Math.log10(v) < up).sort((a, b) => a - b);
      return place;
    });
    const lines = limits.width.of.map((w) => node("svg:polyline", { class: "bl-sizes-way",
      points: all.filter((n) => n.width === w).map((n) => `${x(n.x)},${y(n.y)}`).join(" ") }));
    const grid = y.ticks.flatMap((v) => gridline(y(v), width - 12, short(v)));
    const dots = all.map((n) => {
      const name = named(n.depth, n.width), own = n.depth === get("depth") && n.width === get("width"), known = published(n.depth, n.width);
      const leftwards = LEFTWARDS.includes(name) || x(n.x) > width - 70;
      const dot = node("svg:g", { class: `bl-sizes-dot${own ? " bl-sizes-own" : ""}${known ? " bl-sizes-known" : ""}`, "data-name": name,
        "data-parameters": n.x, "data-macs": n.y, "aria-pressed": String(own) },
      node("svg:circle", { class: "bl-sizes-hit", cx: x(n.x), cy: y(n.y), r: 13 }), node("svg:circle", { cx: x(n.x), cy: y(n.y), r: own ? 7 : 5 }),
      ...(known || own ? [text(x(n.x) + (leftwards ? -11 : 11), y(n.y) + (known ? 4 : 17), name,
        { "text-anchor": leftwards ? "end" : "start" })] : []));
      return clickable(dot, `${name}${known ? "" : ", not published"}: ${spoken(n.x)} parameters, ${spoken(n.y)} multiply-adds`,
        () => { put(model, { depth: n.depth, width: n.width }); chart.querySelector(`[data-name=${name}]`).focus(); });
    });
    chart.replaceChildren(...grid, ...lines, ...dots, yLabel(0, 12, "Multiply-adds"),
      ...x.ticks.map((v) => text(x(v), foot + 16, short(v), { "text-anchor": "middle" })),
      xLabel((left + width - 12) / 2, foot + 34, "Parameters"));
    return foot + 40;
  });

  function says() {
    const list = now(), [depth, width] = [get("depth"), get("width")], base = parts(depths[50], 1, get("side"), get("classes"));
    const sums = Object.fromEntries(WHAT.map(([what]) => [what, total(list, what)]));
    Object.assign(answer.dataset, sums);
    const times = ([what]) => `${digits(sums[what] / total(base, what), 2)} times the ${what === "macs" ? "multiply-adds" : "parameters"}`;
    answer.replaceChildren(node("strong", {}, `${named(depth, width)}${published(depth, width) ? "" : ", not one of the published sizes"}: `),
      `${spoken(sums.parameters)} parameters, ${spoken(4 * sums.parameters).replace(/ billion$/, " GB").replace(/ million$/, " MB")} in 32 bits, and `
      + `${spoken(sums.macs)} multiply-adds for one image of ${get("side")} × ${get("side")} pixels. `
      + (depth === 50 && width === 1 ? "This is the smallest one." : `That is ${times(WHAT[1])} and ${times(WHAT[0])} of R50x1.`));
  }
  return watch(model, ["depth", "width", "classes", "side"], () => { drawBars(); drawTable(); drawMap(); says(); });
}

export default { render };
