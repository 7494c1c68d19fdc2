// A random search beside the rule: what to expect of the best of k trials, what it costs, and all the trials themselves.

const NAMES = { base_lr: "learning rate", steps: "steps", crop: "crop (px)", alpha: "MixUp α", weight_decay: "weight decay" };
const percent = (v) => (100 * v).toFixed(1);
const plain = (v) => String(+v.toPrecision(3));
const text = (x, y, words, more = {}) => node("svg:text", { x, y, ...more }, words);
const clamp = (v, low, high) => Math.min(high, Math.max(low, v));

// The mean, over all choices of k trials, of the value of the one with the best place: of all choices, the share k / count
// holds the first place, and so on from place to place.
export function expected(byPlace, k) {
  const count = byPlace.length;
  let share = k / count, sum = 0;
  for (let place = 0; place <= count - k; place++) {
    sum += share * byPlace[place];
    share *= (count - place - k) / (count - 1 - place);
  }
  return sum;
}

// Even steps between two shares, at most five of them.
function steps(low, high) {
  const by = [0.01, 0.02, 0.05, 0.1, 0.2].find((s) => (high - low) / s <= 5.001) ?? 0.25, first = Math.ceil(low / by - 1e-9);
  return Array.from({ length: Math.floor(high / by + 1e-9) - first + 1 }, (_, i) => (first + i) * by);
}

function render({ model, el }) {
  const get = (name) => model.get(name), tasks = get("tasks"), limits = get("limits");
  const now = () => tasks[get("task")], all = () => now().held[get("held")] ?? now().held[0];
  const images = () => (get("held") in now().held && get("held") ? get("held") : now().images);
  const chance = (what, k = get("trials")) => expected(all()[what], k);
  const price = (k) => k * mean(now().trials.map((each) => each.cost));
  const count = limits.trials[1];

  const curve = node("svg:svg", { role: "group", "aria-label": "Accuracy to expect of the best of k trials" });
  const ground = node("svg:g"), grip = node("svg:g", { class: "bl-x-handle" });
  const zone = node("svg:rect", { class: "bl-x-zone" }), pole = node("svg:line", { class: "bl-x-now" });
  const knobs = ["validation", "test"].map((what) => node("svg:circle", { r: what === "test" ? 7 : 4.5, class: `bl-x-knob bl-search-${what}` }));
  grip.append(zone, pole, ...knobs);
  curve.append(ground, grip);
  const scatter = node("svg:svg", { role: "group", "aria-label": "All trials" });
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" }), about = node("p", { class: "bl-search-about", "aria-live": "polite" });
  el.append(node("div", { class: "bl-x bl-x-search" },
    node("div", { class: "bl-x-controls" },
      ...(Object.keys(tasks).length > 1 ? [choice(model, "task", "Task", Object.keys(tasks).map((n) => [n, n]))] : []),
      choice(model, "held", "Validation images", limits.held.of.map((n) => [n, n || "all"]))),
    curve, answer,
    node("div", { class: "bl-x-controls" }, choice(model, "by", "Trials by", limits.by.of.map((n) => [n, NAMES[n]]))),
    scatter, about));

  const left = 44;
  let atX = (x) => x;
  const set = (k) => put(model, { trials: clamp(Math.round(k), 1, count) });
  draggable(grip, {
    moved: (x) => set(atX(x)),
    keyed: (dx, dy) => set(Math.abs(dx) === Infinity ? (dx < 0 ? 1 : count) : get("trials") + dx + dy),
    aria: { "aria-label": "Number of trials", "aria-valuemin": 1, "aria-valuemax": count },
  });

  const drawCurve = fitted(curve, (width) => {
    const right = width - 12, top = 30, foot = 226, rule = now().rule.test;
    const each = Array.from({ length: count }, (_, i) => i + 1);
    const lines = Object.fromEntries(["validation", "test"].map((what) => [what, each.map((k) => chance(what, k))]));
    const values = [...lines.validation, ...lines.test, rule], low = Math.floor(20 * Math.min(...values)) / 20;
    const high = Math.max(low + 0.05, Math.min(1, Math.ceil(20 * Math.max(...values)) / 20));
    const x = (k) => left + 10 + (right - left - 20) * (k - 1) / Math.max(1, count - 1);
    const y = (v) => foot - (foot - top) * (v - low) / (high - low);
    atX = (at) => 1 + (at - left - 10) / (right - left - 20) * (count - 1);
    ground.replaceChildren(
      ...steps(low, high).flatMap((v) => gridline(y(v), right, String(Math.round(100 * v)))),
      node("svg:line", { x1: left, x2: right, y1: y(rule), y2: y(rule), class: "bl-search-rule", "data-test": rule }),
      ...["validation", "test"].map((what) => node("svg:polyline", { class: `bl-search-line bl-search-${what}`,
        points: lines[what].map((v, i) => `${x(i + 1)},${y(v)}`).join(" ") })),
      yLabel(4, 14, "accuracy (%)"), xLabel((left + right) / 2, foot + 36, "trials, of which the best is taken"),
      ...each.filter((k) => k === 1 || k % (width < 480 ? 10 : 5) === 0).map((k) => text(x(k), foot + 18, k, { "text-anchor": "middle" })));
    const k = get("trials");
    knobs.forEach((knob, i) => {
      const what = ["validation", "test"][i], v = lines[what][k - 1];
      knob.setAttribute("cx", x(k));
      knob.setAttribute("cy", y(v));
      knob.dataset.value = v;
    });
    for (const [name, value] of Object.entries({ x1: x(k), x2: x(k), y1: top, y2: foot })) pole.setAttribute(name, value);
    for (const [name, value] of Object.entries({ x: left, y: top - 8, width: right - left, height: foot - top + 16 })) zone.setAttribute(name, value);
    grip.setAttribute("aria-valuenow", k);
    grip.setAttribute("aria-valuetext", `${k} ${k === 1 ? "trial" : "trials"}: ${percent(chance("test"))}\u00a0% of the test images`);
    return foot + 42;
  });

  const drawTrials = fitted(scatter, (width) => {
    const right = width - 12, top = 30, foot = 196, name = get("by"), { trials, rule } = now();
    const known = [...new Set([...trials.map((each) => each[name]), rule[name]])].sort((a, b) => a - b);
    const rates = name === "base_lr", logs = known.map(Math.log10), edges = [Math.floor(logs[0]), Math.ceil(logs.at(-1))];
    const x = rates ? (v) => left + 12 + (right - left - 24) * (Math.log10(v) - edges[0]) / Math.max(1, edges[1] - edges[0])
      : (v) => left + (right - left) * (known.indexOf(v) + 0.5) / known.length;
    const y = (v) => foot - (foot - top) * v;
    // Trials with the same setting stand side by side, in the order in which they were drawn.
    const aside = (i) => {
      if (rates) return 0;
      const same = trials.map((each, j) => [each[name], j]).filter(([v]) => v === trials[i][name]);
      return (same.findIndex(([, j]) => j === i) - (same.length - 1) / 2) * Math.min(9, 0.7 * (right - left) / known.length / same.length);
    };
    const ticks = rates ? Array.from({ length: edges[1] - edges[0] + 1 }, (_, i) => 10 ** (edges[0] + i)) : known;
    const dots = trials.map((each, i) => {
      const own = i === get("trial"), at = [x(each[name]) + aside(i), y(each.test)];
      const dot = node("svg:g", { class: `bl-search-dot${own ? " bl-search-own" : ""}`, "data-trial": i, "data-test": each.test,
        "aria-pressed": String(own) },
      node("svg:circle", { class: "bl-search-hit", cx: at[0], cy: at[1], r: 11 }), node("svg:circle", { cx: at[0], cy: at[1], r: own ? 6.5 : 4.5 }));
      return clickable(dot, `Trial ${i + 1}: ${percent(each.test)}\u00a0% of the test images`, () => {
        put(model, { trial: i });
        scatter.querySelector(`[data-trial="${i}"]`).focus();
      });
    });
    // One stop of the Tab key for all trials; the arrow keys go from one to the next.
    dots.forEach((dot, i) => {
      dot.tabIndex = i === get("trial") ? 0 : -1;
      dot.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
        if (!way) return;
        event.preventDefault();
        const to = clamp(i + way, 0, count - 1);
        put(model, { trial: to });
        scatter.querySelector(`[data-trial="${to}"]`).focus();
      });
    });
    scatter.replaceChildren(...[0, 0.25, 0.5, 0.75, 1].flatMap((v) => gridline(y(v), right, String(100 * v))),
      node("svg:line", { x1: left, x2: right, y1: y(rule.test), y2: y(rule.test), class: "bl-search-rule" }),
      node("svg:path", { d: `M${x(rule[name])} ${y(rule.test) - 8}l8 8l-8 8l-8 -8z`, class: "bl-search-mark", "data-value": rule[name] }),
      ...dots, yLabel(4, 14, "test accuracy (%)"), xLabel((left + right) / 2, foot + 36, NAMES[name]),
      ...ticks.map((v) => text(x(v), foot + 18, plain(v), { "text-anchor": "middle" })));
    return foot + 42;
  });

  function says() {
    const k = get("trials"), { rule, trials } = now(), found = { validation: chance("validation"), test: chance("test"), cost: price(k) };
    Object.assign(answer.dataset, found, { rule: rule.test });
    const gap = 100 * (found.test - rule.test), close = Math.abs(gap) < 0.05;
    answer.replaceChildren(node("strong", {}, k === 1 ? "One trial: " : `The best of ${k} trials: `),
      node("span", { class: "bl-search-words-test" }, `${percent(found.test)}\u00a0% of the test images`), ` are right, where `,
      node("span", { class: "bl-search-words-validation" }, `${images()} validation images promised ${percent(found.validation)}\u00a0%`), ". ",
      node("span", { class: "bl-search-words-rule" }, `The rule has ${percent(rule.test)}\u00a0%`),
      close ? ", which is the same. " : `, ${Math.abs(gap).toFixed(1)} points ${gap > 0 ? "less" : "more"}. `,
      `${k === 1 ? "The trial costs" : "The trials cost"} as much as ${plain(found.cost)} runs of the rule.`);
    const i = get("trial"), each = trials[i];
    Object.assign(about.dataset, { trial: i, cost: each.cost, validation: each.validation, test: each.test });
    about.textContent = `Trial ${i + 1}: rate ${plain(each.base_lr)}, ${each.steps} steps, ${each.alpha ? `MixUp with α = ${each.alpha}` : "no MixUp"}, `
      + `${each.weight_decay ? `weight decay ${each.weight_decay}` : "no weight decay"}, crops of ${each.crop} px. `
      + `${percent(each.validation)}\u00a0% of all ${now().images} validation images, ${percent(each.test)}\u00a0% of the test images, `
      + `at the price of ${plain(each.cost)} runs of the rule.`;
  }
  return watch(model, ["task", "held", "trials", "by", "trial"], () => { drawCurve(); drawTrials(); says(); });
}

export default { render };
