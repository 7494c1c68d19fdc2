// Measured accuracies: a map of what is trained, what came before and how many images there are; one cell looked at closely.

const TITLES = { cifar10: "CIFAR-10 photographs", tiles: "tiles of photographs", digits: "digits" };
const UPSTREAM = { glyphs: "printed characters", photos: "photographs" };
const COLOR = { fitted: "frozen", head: "frozen", stage4: "partly", stage3: "partly", everything: "finetuned", scratch: "scratch" };

// Sample standard deviation, with n - 1.
const sample = (v) => deviation(v) * Math.sqrt(v.length / Math.max(1, v.length - 1));
const points = (v) => (100 * v).toFixed(1);
const signed = (v) => (v < -0.0005 ? "−" : "+") + points(Math.abs(v));
const count = (v) => v.toLocaleString("en-US");
const list = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
const text = (x, y, words, more = {}) => node("svg:text", { x, y, ...more }, words);

// The row that a row is compared with: freezing with fine-tuning from the same start, or with no start at all.
export function companion(rows, row) {
  const same = (...parts) => parts.map((part) => rows.find((r) => r.part === part && r.model === row.model)).find(Boolean);
  const found = row.part === "scratch" ? rows.findLast((r) => r.part === "everything")
    : row.part === "fitted" || row.part === "head" ? same("everything") : same("fitted", "head");
  return found ?? rows.find((r) => r.part === "scratch" && r !== row);
}

// Paired by draw: both trained on the same images. Mean and deviation of the differences, and in how many draws it is higher.
export function gain(cell, other) {
  const each = cell.map((v, i) => v - other[i]);
  return { each, mean: mean(each), spread: sample(each), higher: each.filter((v) => v > 0).length };
}

// About n round steps from low to high.
function ticks(low, high, n) {
  const step = [1, 2, 5, 10, 20, 50].find((s) => (high - low) * 100 / s <= n) ?? 100;
  const first = Math.ceil(low * 100 / step - 1e-9), last = Math.floor(high * 100 / step + 1e-9);
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step / 100);
}

function render({ model, el }) {
  const tasks = model.get("tasks"), models = model.get("models"), parts = model.get("parts");
  const grid = node("table", { role: "grid", class: "bl-x-heat", "aria-label": "Test accuracy in per cent; the arrow keys choose a cell" });
  const scale = node("p", { class: "bl-x-scale" }), upstream = node("p", { class: "bl-x-small" });
  const answer = node("p", { class: "bl-x-answer" });
  const strip = node("svg:svg", { role: "img" }), gains = node("svg:svg", { role: "group", "aria-label": "Gain by images per class" });
  const ground = node("svg:g"), grip = node("svg:g", { class: "bl-x-grip" });
  const hit = node("svg:rect", { fill: "transparent" }), pole = node("svg:line", { class: "bl-x-pole" }), knob = node("svg:circle", { r: 6 });
  grip.append(hit, pole, knob);
  gains.append(ground, grip);
  const names = Object.keys(tasks);
  el.append(node("div", { class: "bl-x bl-x-map" },
    node("div", { class: "bl-x-controls" },
      ...(names.length > 1 ? [choice(model, "task", "Task", names.map((n) => [n, TITLES[n] ?? n]))] : [])),
    grid, scale, upstream, answer, node("div", { class: "bl-x-pair" }, strip, gains)));

  const short = (row, rows) => (!row.model ? "" : new Set(rows.map((r) => r.model.split("-")[0]).filter(Boolean)).size > 1
    ? row.model : row.model.split("-").slice(1).join("-"));
  const name = (row) => parts[row.part] + (row.model ? `, ${row.model}` : "");
  // The chosen cell, or the nearest that this task has.
  function chosen() {
    const { rows, shots } = tasks[model.get("task")], wanted = model.get("row"), part = wanted.split("/")[0];
    const row = rows.find((r) => r.id === wanted) ?? rows.findLast((r) => r.part === part) ?? rows[0];
    const j = shots.reduce((best, k, i) => (Math.abs(Math.log(k / model.get("shot"))) < Math.abs(Math.log(shots[best] / model.get("shot"))) ? i : best), 0);
    return { rows, shots, row, i: rows.indexOf(row), j, other: companion(rows, row) };
  }
  const choose = (row, shot) => put(model, { row: row.id, shot });

  // --- the map ---
  let cells = [];
  function drawMap() {
    const { rows, shots } = chosen(), means = rows.map((r) => r.cells.map(mean));
    const low = Math.min(...means.flat()), high = Math.max(...means.flat());
    const groups = Object.groupBy(rows, (r) => r.part);
    cells = rows.map((row, i) => row.cells.map((cell, j) => {
      const td = node("td", { "data-value": means[i][j], "data-row": row.id, "data-shot": shots[j], tabindex: -1,
        style: `--share:${((means[i][j] - low) / (high - low)).toFixed(3)}` }, points(means[i][j]));
      td.addEventListener("click", () => choose(row, shots[j]));
      return td;
    }));
    const lines = rows.map((row, i) => {
      const group = groups[row.part], first = row === group[0], tail = short(row, rows);
      return node("tr", { class: first && i ? "bl-x-first" : null },
        ...(first ? [node("th", { scope: "rowgroup", rowspan: group.length, colspan: tail ? null : 2 }, parts[row.part])] : []),
        ...(tail ? [node("th", { scope: "row" }, tail)] : []), ...cells[i]);
    });
    grid.replaceChildren(node("thead", {},
      node("tr", {}, node("th", { scope: "col", rowspan: 2 }, "Trained part"), node("th", { scope: "col", rowspan: 2, style: `width:${rows.some((r) => short(r, rows).length > 1) ? 22 : 11}%` }, "From"),
        node("th", { scope: "colgroup", colspan: shots.length }, "Training images per class")),
      node("tr", {}, ...shots.map((k) => node("th", { scope: "col" }, k)))), node("tbody", {}, ...lines));
    scale.replaceChildren("Test accuracy (%)", node("span", {}, points(low)), node("i"), node("span", {}, points(high)));
    const used = Object.keys(models).filter((m) => rows.some((r) => r.model === m))
      .sort((a, b) => models[a].classes - models[b].classes || models[a].images - models[b].images);
    const sets = Object.entries(Object.groupBy(used, (m) => m.split("-")[0])).map(([family, own]) => {
      const about = own.map((m) => models[m]), classes = [...new Set(about.map((a) => a.classes))];
      const size = about.every((a) => a.images) ? `${list(about.map((a) => count(a.images)))} ${UPSTREAM[family] ?? family} of ${count(classes[0])} classes`
        : `${list(classes.map(count))} classes of ${UPSTREAM[family] ?? family}`;
      return `${own.join(", ")}: pre-trained on ${size}.`;
    });
    upstream.textContent = sets.join(" ");
  }
  grid.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -99], End: [0, 99] }[event.key];
    if (!way) return;
    event.preventDefault();
    const { rows, shots, i, j } = chosen(), to = (v, n) => Math.min(n - 1, Math.max(0, v));
    const [a, b] = [to(i + way[0], rows.length), to(j + way[1], shots.length)];
    choose(rows[a], shots[b]);
    cells[a][b].focus();
  });

  function mark() {
    const { i, j } = chosen();
    cells.forEach((row, a) => row.forEach((td, b) => {
      const on = a === i && b === j;
      td.classList.toggle("bl-x-here", on);
      td.setAttribute("aria-selected", on);
      td.tabIndex = on ? 0 : -1;
    }));
  }

  // --- every draw of the cell, beside what it is compared with ---
  const drawStrip = fitted(strip, (width) => {
    const { rows, row, j, other } = chosen(), scratch = rows.find((r) => r.part === "scratch");
    const shown = [...new Set([row, other, scratch].filter(Boolean))], all = shown.flatMap((r) => r.cells[j]);
    const low = Math.min(...all), high = Math.max(...all), room = Math.max(0.01, 0.06 * (high - low));
    const x = (v) => 8 + (width - 16) * (v - low + room) / (high - low + 2 * room), y = (i) => 52 + 52 * i, foot = y(shown.length - 1) + 22;
    const draws = (r, i) => node("svg:g", { class: "bl-x-draws", "data-row": r.id, style: `--c:var(--bl-${COLOR[r.part]})` },
      text(0, y(i) - 14, name(r), { class: r === row ? "bl-x-strong" : null }),
      node("svg:line", { x1: x(mean(r.cells[j]) - sample(r.cells[j])), x2: x(mean(r.cells[j]) + sample(r.cells[j])), y1: y(i), y2: y(i) }),
      node("svg:line", { class: "bl-x-mean", x1: x(mean(r.cells[j])), x2: x(mean(r.cells[j])), y1: y(i) - 9, y2: y(i) + 9 }),
      ...r.cells[j].map((v) => node("svg:circle", { cx: x(v), cy: y(i), r: 4.5, "data-value": v })));
    const joined = shown.includes(other) && other.cells[j].length === row.cells[j].length
      ? row.cells[j].map((v, s) => node("svg:line", { class: "bl-x-join", x1: x(v), x2: x(other.cells[j][s]), y1: y(0), y2: y(1) })) : [];
    strip.replaceChildren(yLabel(0, 14, "Each draw of the training images"),
      ...ticks(low - room, high + room, width / 50).flatMap((v) => [node("svg:line", { class: "bl-x-gridline", x1: x(v), x2: x(v), y1: 24, y2: foot }),
        text(x(v), foot + 16, Math.round(100 * v), { "text-anchor": "middle" })]),
      ...joined, ...shown.map(draws), xLabel(width / 2, foot + 35, "Test accuracy (%)"));
    strip.setAttribute("aria-label", shown.map((r) => `${name(r)}: ${points(mean(r.cells[j]))} ± ${points(sample(r.cells[j]))} %`).join("; ") + ".");
    return foot + 40;
  });

  // --- the difference to the row that it is compared with, for all columns ---
  let toShot;
  const drawGains = fitted(gains, (width) => {
    const { row, other, shots, j } = chosen(), left = 34, top = 32, tall = 128;
    const all = shots.map((_, k) => gain(row.cells[k], other.cells[k])), every = all.flatMap((g) => g.each);
    const low = Math.min(0, ...every), high = Math.max(0, ...every), room = 0.08 * Math.max(0.02, high - low);
    const x = (k) => left + (width - left - 10) * (k + 0.5) / shots.length, y = (v) => top + tall * (high + room - v) / (high - low + 2 * room);
    toShot = (px) => shots[Math.min(shots.length - 1, Math.max(0, Math.floor((px - left) / (width - left - 10) * shots.length)))];
    ground.replaceChildren(yLabel(0, 14, `Gain over “${parts[other.part]}” (points)`),
      ...ticks(low - room, high + room, 5).flatMap((v) => [node("svg:line", { class: v ? "bl-x-gridline" : "bl-x-axis", x1: left, x2: width - 10, y1: y(v), y2: y(v) }),
        text(left - 6, y(v) + 4, (v < 0 ? "−" : "") + Math.round(100 * Math.abs(v)), { "text-anchor": "end" })]),
      ...shots.map((k, i) => text(x(i), top + tall + 18, k, { "text-anchor": "middle", class: i === j ? "bl-x-strong" : null })),
      node("svg:polyline", { class: "bl-x-line", points: all.map((g, k) => `${x(k)},${y(g.mean)}`).join(" ") }),
      ...all.flatMap((g, k) => g.each.map((v) => node("svg:circle", { class: "bl-x-seed", cx: x(k), cy: y(v), r: 3.5, "data-value": v, "data-shot": shots[k] }))),
      xLabel(left + (width - left - 10) / 2, top + tall + 37, "Training images per class"));
    for (const [key, v] of Object.entries({ x: left, y: top, width: width - left - 10, height: tall + 24 })) hit.setAttribute(key, v);
    for (const [key, v] of Object.entries({ x1: x(j), x2: x(j), y1: top, y2: top + tall })) pole.setAttribute(key, v);
    for (const [key, v] of Object.entries({ cx: x(j), cy: y(all[j].mean), "data-value": all[j].mean })) knob.setAttribute(key, v);
    for (const [key, v] of Object.entries({ "aria-valuenow": shots[j], "aria-valuemin": shots[0], "aria-valuemax": shots.at(-1),
      "aria-valuetext": `${shots[j]} images per class: ${signed(all[j].mean)} points` })) grip.setAttribute(key, v);
    return top + tall + 42;
  });
  draggable(grip, {
    moved: (x) => { if (toShot(x) !== model.get("shot")) put(model, { shot: toShot(x) }); },
    keyed: (dx, dy) => {
      const { shots, j } = chosen();
      put(model, { shot: shots[Math.min(shots.length - 1, Math.max(0, j + (Math.abs(dx) === Infinity ? dx : Math.sign(dx || dy))))] });
    },
    aria: { "aria-label": "Training images per class" },
  });
  grip.style.touchAction = "pan-y"; // a finger that goes up or down scrolls the page

  function says() {
    const { rows, shots, row, j, other } = chosen(), cell = row.cells[j], scratch = rows.find((r) => r.part === "scratch");
    const against = (r) => {
      const g = gain(cell, r.cells[j]), up = g.mean >= 0;
      return `${signed(g.mean)} ± ${points(g.spread)} points against “${r.model === row.model ? parts[r.part] : name(r)}”, ${up ? "higher" : "lower"} in `
        + `${up ? g.higher : g.each.filter((v) => v < 0).length} of ${g.each.length} draws`;
    };
    const g = gain(cell, other.cells[j]);
    for (const [key, v] of Object.entries({ value: mean(cell), spread: sample(cell), gain: g.mean, gainSpread: g.spread, row: row.id, shot: shots[j], other: other.id })) answer.dataset[key] = v;
    answer.replaceChildren(node("strong", {}, `${name(row)}, ${shots[j]} per class: ${points(mean(cell))} ± ${points(sample(cell))} %. `),
      [...new Set([other, scratch].filter((r) => r && r !== row))].map(against).join("; ") + ".");
  }
  const close = () => { mark(); drawStrip(); drawGains(); says(); };
  const stop = [watch(model, ["task", "tasks"], () => { drawMap(); close(); }), watch(model, ["row", "shot"], close)];
  return () => stop.forEach((end) => end());
}

export default { render };
