// MixUp of two pictures and of their labels, and the Beta distribution that the weight comes from.

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
export const mix = (a, b, weight) => Array.from(a, (v, i) => weight * v + (1 - weight) * b[i]);

function render({ model, el }) {
  const labels = model.get("labels"), pictures = model.get("pictures").map(decode);
  const canvases = [0, 1, 2].map(() => node("canvas", { class: "bl-x-patch" }));
  const bars = node("tbody");
  const chart = node("svg:svg", { viewBox: "0 0 360 132", role: "img" });
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const again = button("Draw a weight", () => {
    const draws = (model.get("draws") + 1) % 10000;
    put(model, { draws, weight: Math.round(1000 * drawWeight(model.get("alpha"), draws)) / 1000 });
  });
  el.append(node("div", { class: "bl-x bl-x-mixup" },
    node("div", { class: "bl-x-controls" }, slider(model, "weight", "Weight λ", (v) => v.toFixed(3)),
      slider(model, "alpha", "α of the distribution", (v) => "α = " + v.toPrecision(2)), again),
    node("div", { class: "bl-x-triple" }, ...[0, 2, 1].map((i) => node("div", {}, canvases[i],
      node("p", { class: "bl-x-small" }, [labels[0], labels[1], "mixed"][i])))),
    node("table", {}, node("thead", {}, node("tr", {}, node("th", { scope: "col" }, "class"),
      node("th", { scope: "col" }, "label of the mixture"))), bars),
    node("p", { class: "bl-x-title" }, "Where the weights of training come from: Beta(α, α)"), chart, answer));
  pictures.forEach((p, i) => paint(canvases[i], p, labels[i]));

  return watch(model, ["weight", "alpha"], () => {
    const weight = model.get("weight"), alpha = model.get("alpha");
    const mixed = mix(pictures[0], pictures[1], weight);
    paint(canvases[2], mixed, `${(100 * weight).toFixed(0)} % ${labels[0]} and ${(100 - 100 * weight).toFixed(0)} % ${labels[1]}`);
    canvases[2].dataset.mean = mean(mixed);
    bars.replaceChildren(...[weight, 1 - weight].map((v, i) => node("tr", {}, node("th", { scope: "row" }, labels[i]),
      barCell(v, v.toFixed(3)))));
    const x = (v) => 16 + 328 * v, top = 3, y = (v) => 108 - 100 * Math.min(top, v) / top;
    const points = Array.from({ length: 199 }, (_, i) => (i + 1) / 200);
    const at = Math.min(0.999, Math.max(0.001, weight)), here = density(at, alpha);
    chart.replaceChildren(node("svg:line", { x1: 16, x2: 344, y1: 108, y2: 108, class: "bl-x-axis" }),
      ...[0, 0.25, 0.5, 0.75, 1].map((t) => node("svg:text", { x: x(t), y: 126, "text-anchor": "middle" }, String(t))),
      node("svg:polyline", { class: "bl-x-line", points: points.map((v) => `${x(v)},${y(density(v, alpha))}`).join(" ") }),
      node("svg:line", { x1: x(weight), x2: x(weight), y1: 108, y2: y(here), class: "bl-x-mark" }),
      node("svg:circle", { cx: x(weight), cy: y(here), r: 4.5, class: "bl-x-dot", "data-at": at, "data-value": here }));
    chart.setAttribute("aria-label", `Density of the weight for alpha ${alpha.toPrecision(2)}; at ${at.toFixed(3)} it is ${here.toFixed(2)}.`);
    const light = Math.min(weight, 1 - weight);
    answer.textContent = light < 0.05 ? "Almost a plain picture: the other one weighs less than 5 %."
      : `The lighter picture weighs ${(100 * light).toFixed(0)} %.`;
  });
}

export default { render };
