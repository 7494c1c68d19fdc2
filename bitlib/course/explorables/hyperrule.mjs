// The BiT-HyperRule as a calculator: from the size of a task to every setting of its fine-tuning.

const STEPS = { // end of warm-up, three decays, end
  code: [[100, 200, 300, 400, 500], [500, 3000, 6000, 9000, 10000], [500, 6000, 12000, 18000, 20000]],
  paper: [[0, 150, 300, 450, 500], [0, 3000, 6000, 9000, 10000], [0, 6000, 12000, 18000, 20000]] };
const BATCH = 512, RATE = 0.003;

export function rule(examples, height, width, variant) {
  const size = examples < 20000 ? 0 : examples < 500000 ? 1 : 2;
  const [warmup, a, b, c, steps] = STEPS[variant][size];
  const [resize, crop] = height * width < 96 * 96 ? [160, 128] : variant === "code" ? [512, 480] : [448, 384];
  return { task: ["small", "medium", "large"][size], warmup, boundaries: [a, b, c], steps, resize, crop,
    alpha: size ? 0.1 : 0, epochs: steps * BATCH / examples };
}

// The code's decays take effect one step after their boundary; the paper's at it.
export function rate(r, step, variant) {
  if (step < r.warmup) return RATE * step / r.warmup;
  return r.boundaries.reduce((lr, b) => (b < step || (b === step && variant === "paper") ? lr / 10 : lr), RATE);
}

function render({ model, el }) {
  const count = (v) => v.toLocaleString("en-US");
  const table = node("tbody");
  const chart = node("svg:svg", { viewBox: "0 0 360 150", role: "img" });
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  el.append(node("div", { class: "bl-x bl-x-hyperrule" },
    node("div", { class: "bl-x-controls" },
      slider(model, "examples", "Training pictures", count), slider(model, "classes", "Classes", count),
      slider(model, "side", "Picture size", (v) => `${v} × ${v} px`),
      choice(model, "variant", "Rule of the", [["code", "released code"], ["paper", "paper"]]),
      slider(model, "at", "Look at", (v) => `${v} % of the run`)),
    node("table", { class: "bl-x-settings" }, table),
    node("p", { class: "bl-x-title" }, "Learning rate over the steps"), chart, answer));

  return watch(model, ["examples", "classes", "side", "variant", "at"], () => {
    const [examples, classes, side, variant] = ["examples", "classes", "side", "variant"].map((n) => model.get(n));
    const r = rule(examples, side, side, variant), step = Math.min(r.steps - 1, Math.round(r.steps * model.get("at") / 100));
    const lr = rate(r, step, variant);
    const rows = [["task", r.task, r.task], ["steps", count(r.steps), r.steps], ["batch", count(BATCH), BATCH],
      ["each picture is seen", count(+r.epochs.toPrecision(3)) + " times", r.epochs],
      ["pictures a class", count(+(examples / classes).toPrecision(3)), examples / classes],
      ["warm-up", r.warmup ? `${r.warmup} steps` : "none", r.warmup],
      ["rate divided by ten after", r.boundaries.map(count).join(", "), r.boundaries.join(" ")],
      ["resize, then crop", `${r.resize}, ${r.crop} px`, `${r.resize} ${r.crop}`],
      ["MixUp", r.alpha ? `α = ${r.alpha}` : "off", r.alpha]];
    table.replaceChildren(...rows.map(([name, text, value]) =>
      node("tr", {}, node("th", { scope: "row" }, name), node("td", { "data-value": value, "data-name": name }, text))));
    // A logarithmic axis from 1e-6 to 1e-2 shows all four levels; the ramp starts at 0, which lies below it.
    const x = (s) => 44 + 304 * s / r.steps, y = (v) => 120 - 26 * Math.max(0, Math.log10(Math.max(v, 1e-12)) + 6.3);
    const points = Array.from({ length: 401 }, (_, i) => Math.min(r.steps - 1, Math.round(r.steps * i / 400)));
    chart.replaceChildren(...[-3, -4, -5, -6].flatMap((e) =>
      gridline(y(10 ** e), 348, "10", node("svg:tspan", { dy: -5, "font-size": 9 }, "−" + -e))),
      ...[0, 0.5, 1].map((f) => node("svg:text", { x: x(f * r.steps), y: 140, "text-anchor": ["start", "middle", "end"][2 * f] }, count(f * r.steps))),
      node("svg:polyline", { class: "bl-x-line", points: points.map((s) => `${x(s)},${y(rate(r, s, variant))}`).join(" ") }),
      node("svg:circle", { cx: x(step), cy: y(lr), r: 4.5, class: "bl-x-dot", "data-step": step, "data-value": lr }));
    chart.setAttribute("aria-label", `${r.steps} steps; the rate rises for ${r.warmup} steps to ${RATE}, and is divided by ten after steps ${r.boundaries.join(", ")}.`);
    answer.textContent = `Step ${count(step)}: learning rate ${lr === 0 ? "0" : lr.toPrecision(3)}. `
      + (r.epochs < 1 ? "Most pictures are never seen." : "The rule does not ask for the number of classes.");
  });
}

export default { render };
