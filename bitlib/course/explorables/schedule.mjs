// When to lower the learning rate: SGD on a noisy quadratic, under the paper's staircase and the reader's.

// The stretches with one learning rate: [begin, end, rate], begin and end in epochs.
export function phases(run, first) {
  const peak = run.rate * (run.scaled === "yes" ? run.batch / 256 : 1);
  const ends = run.milestones.map((share) => first * share / run.milestones[0] * run.epochs).filter((end) => end < run.epochs - 1e-9);
  return [0, ...ends].map((begin, i) => [begin, [...ends, run.epochs][i], peak * 0.1 ** i]);
}

// Expected loss after an epoch: [what is left to learn, what noise keeps up]. Within a phase both follow a geometric series.
export function loss(run, first, epoch) {
  const left = [...run.start], kept = left.map(() => 0);
  for (const [begin, end, rate] of phases(run, first)) {
    const steps = Math.max(0, Math.min(epoch, end) - begin) * run.images / run.batch;
    run.curvature.forEach((h, i) => {
      const factor = (1 - rate * h) ** 2, shrunk = factor ** steps, added = rate ** 2 * run.noise * h * h / (2 * run.batch);
      left[i] *= shrunk;
      kept[i] = kept[i] * shrunk + added * (1 - shrunk) / (1 - factor);
    });
  }
  return [left, kept].map((parts) => parts.reduce((a, b) => a + b, 0));
}

const NAMES = ["curvature", "start", "rate", "noise", "images", "milestones", "batch", "epochs", "scaled"];
const clamp = (v, low, high) => (v < high ? Math.max(low, v) : high); // also of what is no number any more
const sum = ([a, b]) => a + b;
const short = (v) => (v < 100 ? String(+v.toPrecision(2)) : "beyond all bounds");
const whole = (v) => String(Math.round(v));

function render({ model, el }) {
  const get = (name) => model.get(name), limits = get("limits");
  const run = () => Object.fromEntries(NAMES.map((name) => [name, get(name)]));
  const text = (x, y, words, more = {}) => node("svg:text", { x, y, ...more }, words);
  const setFirst = (v) => put(model, { first: +clamp(Math.round(v * 100) / 100, limits.first[0], limits.first[1]).toFixed(2) });

  const svg = node("svg:svg", { role: "group", "aria-label": "Learning rate and loss over the epochs" });
  const still = node("svg:g"), handle = node("svg:g", { class: "bl-x-handle" });
  const zone = node("svg:rect", { class: "bl-x-zone" }), line = node("svg:path", { class: "bl-x-now" });
  const knob = node("svg:circle", { class: "bl-x-knob", r: 8 });
  handle.append(zone, line, knob);
  svg.append(still, handle);
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const key = (kind, words) => node("span", { class: `bl-schedule-key bl-schedule-${kind}` }, node("i"), words);
  el.append(node("div", { class: "bl-x bl-x-schedule" },
    node("div", { class: "bl-x-controls" },
      choice(model, "epochs", "Length", limits.epochs.of.map((v) => [v, `${v} epochs`])),
      choice(model, "scaled", "Learning rate", [["yes", "grows with the batch"], ["no", "stays as it is"]]),
      slider(model, "batch", "Batch", (v) => `${v.toLocaleString("en-US")} images`)),
    node("p", { class: "bl-schedule-keys" }, key("own", "your schedule"), key("paper", "the paper’s places"), key("left", "yours, without the noise: left to learn")),
    svg, answer));

  const left = 52, right = 12, top = 26, rates = 92, gap = 44, losses = 200, low = -2.5, high = 0.15;
  let fromX;
  const draw = fitted(svg, (width) => {
    const r = run(), first = get("first"), inner = width - left - right, own = phases(r, first), paper = phases(r, r.milestones[0]);
    const x = (epoch) => left + inner * epoch / r.epochs, peak = own[0][2];
    fromX = (px) => (px - left) / inner;
    const yRate = (v) => top + 6 + (rates - 12) * -Math.log10(v / peak) / 3;
    const begin = top + rates + gap, foot = begin + losses;
    const yLoss = (v) => foot - losses * (clamp(Math.log10(v), low, high) - low) / (high - low);
    const stairs = (list) => list.flatMap(([a, b, v]) => [`${x(a)},${yRate(v)}`, `${x(b)},${yRate(v)}`]).join(" ");
    const when = Array.from({ length: 181 }, (_, i) => r.epochs * (i / 180) ** 1.5); // denser where it falls fast
    const lines = (share) => {
      const corners = phases(r, share).map(([a]) => a);
      return [...when, ...corners].sort((a, b) => a - b).map((epoch) => [epoch, loss(r, share, epoch)]);
    };
    const path = (points, what) => points.map(([epoch, parts]) => `${x(epoch)},${yLoss(what(parts))}`).join(" ");
    const [mine, theirs] = [lines(first), lines(r.milestones[0])];
    const ticks = [0, 1, 2, 3].map((i) => r.epochs * i / 3);
    still.replaceChildren(
      yLabel(0, 12, "Learning rate, as a share of its peak"),
      ...[0, 1, 2, 3].flatMap((i) => gridline(yRate(peak * 0.1 ** i), width - right, ["1", "0.1", "0.01", "0.001"][i])),
      node("svg:polyline", { class: "bl-schedule-line bl-schedule-paper", points: stairs(paper) }),
      node("svg:polyline", { class: "bl-schedule-line bl-schedule-own", points: stairs(own) }),
      yLabel(0, begin - 12, "Loss, of 1 at the start"),
      ...[[0.01, "0.01"], [0.1, "0.1"], [1, "1"]].flatMap(([v, words]) => gridline(yLoss(v), width - right, words)),
      node("svg:polyline", { class: "bl-schedule-line bl-schedule-left", points: path(mine, (parts) => parts[0]) }),
      node("svg:polyline", { class: "bl-schedule-line bl-schedule-paper", points: path(theirs, sum) }),
      node("svg:polyline", { class: "bl-schedule-line bl-schedule-own", points: path(mine, sum) }),
      ...ticks.map((v, i) => text(x(v), foot + 17, whole(v), { "text-anchor": i === 3 ? "end" : i ? "middle" : "start" })),
      xLabel((left + width - right) / 2, foot + 35, "Epoch"));
    const at = x(first * r.epochs);
    for (const [name, v] of Object.entries({ x: left, y: top, width: inner, height: foot - top })) zone.setAttribute(name, v);
    line.setAttribute("d", `M${at} ${top}V${top + rates}M${at} ${begin}V${foot}`); // leaving out the name of the axis
    for (const [name, v] of Object.entries({ cx: at, cy: yRate(peak) })) knob.setAttribute(name, v);
    return foot + 40;
  });
  draggable(handle, {
    moved: (px) => setFirst(fromX(px)),
    keyed: (dx, dy) => {
      const way = dx || dy;
      setFirst(Math.abs(way) === Infinity ? limits.first[way < 0 ? 0 : 1] : get("first") + 0.01 * way);
    },
    aria: { "aria-label": "First decay, as a share of the run", "aria-valuemin": limits.first[0], "aria-valuemax": limits.first[1] },
  });
  handle.style.touchAction = "pan-y"; // a finger that goes up or down scrolls the page

  return watch(model, ["first", "batch", "epochs", "scaled"], () => {
    const r = run(), first = get("first"), usual = r.milestones[0], soon = Math.min(1, first + 0.05) * r.epochs;
    const both = (epoch) => [sum(loss(r, first, epoch)), sum(loss(r, usual, epoch))];
    const [mine, theirs] = both(r.epochs), [now, then] = both(soon);
    handle.setAttribute("aria-valuenow", first);
    handle.setAttribute("aria-valuetext", first < 1 ? `after epoch ${+(first * r.epochs).toPrecision(3)} of ${r.epochs}` : "never");
    Object.assign(answer.dataset, { mine, theirs, now, then, left: loss(r, first, r.epochs)[0] });
    const settled = Math.abs(mine / theirs - 1) < 0.02;
    answer.textContent = !(mine < 100 && theirs < 100)
      ? "At this rate the steepest direction overshoots further with every step, and the loss grows without end."
      : first >= 1 ? `The rate is never lowered. The loss ends at ${short(mine)}, nearly all of it noise; with the paper’s decays, at ${short(theirs)}.`
        : `Your first decay comes after epoch ${whole(first * r.epochs)}. At epoch ${whole(soon)} the loss is ${short(now)}, with the paper’s decays ${short(then)}. `
          + `At the end it is ${short(mine)} against ${short(theirs)}: `
          + (settled ? "no difference to speak of." : mine < theirs ? "yours is ahead." : now < then ? "ahead at first, behind for good." : "yours is behind.");
    draw();
  });
}

export default { render };
