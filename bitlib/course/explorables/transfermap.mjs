// Measured accuracy over pictures a class, how much of the network is trained, and how much it saw before.

function render({ model, el }) {
  const { scales, depths, shots, accuracy, scratch } = model.get("results");
  const chart = node("svg:svg", { viewBox: "0 0 360 250", role: "img" });
  const table = node("tbody");
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const points = (v) => (100 * v).toFixed(1);
  const head = node("tr", {}, node("th", { scope: "col" }, "trained"), ...shots.map((k) => node("th", { scope: "col" }, k + "-shot")));
  el.append(node("div", { class: "bl-x bl-x-map" },
    node("div", { class: "bl-x-controls" },
      ...(scales.length > 1 ? [choice(model, "scale", "Pre-trained on", scales.map((s, i) => [i, s]))] : []),
      slider(model, "depth", "Trained", (i) => depths[i]), slider(model, "shot", "Pictures a class", (i) => String(shots[i]))),
    chart, node("div", { class: "bl-x-scroll", tabindex: 0, role: "region", "aria-label": "All cells of this network" },
      node("table", {}, node("thead", {}, head), table)), answer));

  return watch(model, ["scale", "depth", "shot", "results"], () => {
    const scale = model.get("scale"), depth = model.get("depth"), shot = model.get("shot");
    const cells = accuracy[scale], x = (j) => 52 + 286 * j / Math.max(1, shots.length - 1);
    const every = [...accuracy.flat(3), ...(scratch ?? []).flat()], floor = Math.max(0, Math.floor(10 * Math.min(...every) - 0.5) / 10);
    const y = (v) => 208 - 192 * (v - floor) / (1 - floor);
    const ticks = Array.from({ length: 11 }, (_, i) => i / 10).filter((t) => t >= floor - 1e-9 && Math.round(10 * t) % 2 === 0);
    const curve = (row, kind, mark) => node("svg:g", { class: kind },
      node("svg:polyline", { points: row.map((v, j) => `${x(j)},${y(mean(v))}`).join(" ") }),
      ...row.map((v, j) => node("svg:line", { x1: x(j), x2: x(j), y1: y(mean(v) - sample(v)), y2: y(mean(v) + sample(v)) })),
      ...(mark ? row.map((v, j) => node("svg:circle", { cx: x(j), cy: y(mean(v)), r: 3 })) : []));
    chart.replaceChildren(
      ...ticks.flatMap((t) => gridline(y(t), 350, String(Math.round(100 * t)))),
      ...shots.map((k, j) => node("svg:text", { x: x(j), y: 226, "text-anchor": "middle" }, String(k))),
      node("svg:text", { x: 195, y: 244, "text-anchor": "middle" }, "training pictures a class"),
      ...(scratch ? [curve(scratch, "bl-x-scratch", false)] : []),
      ...cells.map((row, i) => (i === depth ? null : curve(row, "bl-x-faint", false))).filter(Boolean),
      curve(cells[depth], "bl-x-chosen", true),
      ...cells[depth][shot].map((v) => node("svg:circle", { cx: x(shot) + 9, cy: y(v), r: 2.5, class: "bl-x-seed" })),
      node("svg:circle", { cx: x(shot), cy: y(mean(cells[depth][shot])), r: 8, class: "bl-x-ring",
        "data-value": mean(cells[depth][shot]), "data-spread": sample(cells[depth][shot]) }));
    chart.setAttribute("aria-label", `Test accuracy in per cent, trained: ${depths[depth]}. `
      + shots.map((k, j) => `${points(mean(cells[depth][j]))} at ${k}`).join(", ") + ".");
    table.replaceChildren(...[...cells.map((row, i) => [depths[i], row, i]), ...(scratch ? [["from scratch", scratch, -1]] : [])]
      .map(([name, row, i]) => node("tr", {}, node("th", { scope: "row" }, name), ...row.map((v, j) =>
        node("td", { class: i === depth && j === shot ? "bl-x-here" : null }, `${points(mean(v))} ± ${points(sample(v))}`)))));
    const here = mean(cells[depth][shot]), best = cells.reduce((b, row, i) => (mean(row[shot]) > mean(cells[b][shot]) ? i : b), 0);
    answer.textContent = `${shots[shot]} a class, trained: ${depths[depth]}: ${points(here)} ± ${points(sample(cells[depth][shot]))} %. `
      + (best === depth ? "No other choice is better on average here."
        : `Best on average here: ${depths[best]}, ${points(mean(cells[best][shot]) - here)} points more`
          + (mean(cells[best][shot]) - here < sample(cells[best][shot]) ? ", less than the spread." : "."));
  });
}

// Sample standard deviation, with n - 1.
const sample = (v) => deviation(v) * Math.sqrt(v.length / Math.max(1, v.length - 1));

export default { render };
