// What each stage of a network finds similar: an image, and its nearest neighbours at the pixels and after each stage.

export const NEAR = 6;
const title = (stage) => stage.replace(/(\d)$/, " $1");
const TAUGHT = { "glyphs-L": "characters", "photos-L": "photographs" };

// The share of neighbours that are of the image's own class, over all images. lists: the neighbours of image 0, of image 1...
export const share = (lists, copies) =>
  mean(Array.from(lists, (n, at) => +(Math.floor(n / copies) === Math.floor(Math.floor(at / NEAR) / copies))));

function render({ model, el }) {
  const classes = model.get("classes"), copies = model.get("copies"), stages = model.get("stages");
  const count = classes.length * copies;
  const networks = model.get("limits").network.of, own = (i) => Math.floor(i / copies);
  const lists = Object.fromEntries(networks.map((n) => [n, model.get("nearest")[n].map(decode)]));
  const shares = Object.fromEntries(networks.map((n) => [n, lists[n].map((list) => share(list, copies))]));
  const say = (i) => `letter ${own(i) + 1}, ${classes[own(i)]}, drawing ${i % copies + 1}`;
  const place = (thumb, i) => {
    const share = (at, of) => `${100 * at / Math.max(1, of - 1)}%`;
    thumb.style.backgroundPosition = `${share(own(i), classes.length)} ${share(i % copies, copies)}`;
    thumb.dataset.image = i;
  };

  // A short address: with the data themselves in it each thumbnail would carry them along, which takes 60 ms a redraw.
  const sheet = URL.createObjectURL(new Blob([decode(model.get("sheet").split(",")[1])], { type: "image/png" }));

  // All images; the query is dragged over them.
  const map = node("svg:svg", { class: "bl-near-map" });
  const picture = node("svg:image", { href: sheet, preserveAspectRatio: "none" });
  const marks = node("svg:g"), names = node("svg:g");
  map.append(picture, marks, names);
  let cell = 16;
  const choose = (column, row) => {
    const inside = (v, n) => Math.min(n - 1, Math.max(0, v));
    put(model, { query: inside(column, classes.length) * copies + inside(row, copies) });
  };
  draggable(map, {
    moved: (x, y) => choose(Math.floor(x / cell), Math.floor(y / cell)),
    keyed: (dx, dy) => {
      const i = model.get("query");
      if (Math.abs(dx) === Infinity) put(model, { query: dx < 0 ? 0 : count - 1 });
      else choose(own(i) + dx, i % copies - dy);
    },
    aria: { "aria-label": "The image whose neighbours are shown", "aria-valuemin": 0, "aria-valuemax": count - 1 },
  });

  // A row for each stage. One stop of the Tab key for all neighbours; the arrow keys move among them.
  const rows = stages.map((stage, r) => {
    const name = clickable(node("span", { class: "bl-near-stage" }, title(stage)), title(stage), () => put(model, { stage }));
    const thumbs = Array.from({ length: NEAR }, () => node("span", { class: "bl-near-thumb" }));
    thumbs.forEach((b, c) => {
      clickable(b, "", () => put(model, { query: +b.dataset.image, stage }));
      b.tabIndex = r || c ? -1 : 0;
      b.addEventListener("focus", () => rows.flatMap((row) => row.thumbs).forEach((t) => { t.tabIndex = t === b ? 0 : -1; }));
      b.addEventListener("keydown", (event) => {
        const [dr, dc] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key] ?? [0, 0];
        if (!dr && !dc) return;
        event.preventDefault();
        rows[r + dr]?.thumbs[c + dc]?.focus();
      });
    });
    return { stage, name, thumbs, all: node("div", { class: "bl-near-row", "data-stage": stage }, name, ...thumbs) };
  });
  const query = node("span", { class: "bl-near-thumb bl-near-query", role: "img" });
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const chart = node("svg:svg", { class: "bl-near-chart", role: "img" });
  const root = node("div", { class: "bl-x bl-x-neighbors" },
    node("div", { class: "bl-x-controls" }, choice(model, "network", "Trained on",
      networks.map((n) => [n, TAUGHT[n] ? `${TAUGHT[n]} (${n})` : n]))),
    map,
    node("div", { class: "bl-near-both" },
      node("div", { class: "bl-near-rows" },
        node("div", { class: "bl-near-head" }, query, node("p", {}, `The ${NEAR} nearest to this image, nearest first. `,
          node("span", { class: "bl-near-framed" }, "Framed:"), " the same letter.")),
        ...rows.map((row) => row.all)),
      chart),
    answer);
  root.style.setProperty("--near-sheet", `url("${sheet}")`);
  root.style.setProperty("--near-size", `${100 * classes.length}% ${100 * copies}%`);
  el.append(root);

  const drawMarks = () => {
    const q = model.get("query"), list = lists[model.get("network")][stages.indexOf(model.get("stage"))];
    const frame = (i, kind, out = 0) => node("svg:rect", { x: own(i) * cell - out, y: (i % copies) * cell - out,
      width: cell + 2 * out, height: cell + 2 * out, rx: 2, class: kind, "data-image": i });
    const near = Array.from(list.subarray(q * NEAR, (q + 1) * NEAR));
    marks.replaceChildren(...near.map((i) => frame(i, own(i) === own(q) ? "bl-near-same" : "bl-near-other")),
      frame(q, "bl-near-at", 1.5));
    map.setAttribute("aria-valuenow", q);
    map.setAttribute("aria-valuetext", say(q));
  };
  const drawMap = fitted(map, (width) => {
    cell = width / classes.length;
    const bottom = cell * copies;
    picture.setAttribute("width", width);
    picture.setAttribute("height", bottom);
    names.replaceChildren(xLabel(width / 2, bottom + 17, `${classes.length} letters, ${copies} drawings of each`));
    drawMarks();
    return bottom + 24;
  });
  const drawChart = fitted(chart, (width) => {
    const left = 44, right = width - 74, top = 34, bottom = 176;
    const now = model.get("network"), at = stages.indexOf(model.get("stage"));
    const x = (i) => left + 14 + i * (right - left - 14) / (stages.length - 1), y = (v) => bottom - v * (bottom - top);
    const chance = (copies - 1) / (count - 1);
    const line = (n) => {
      const back = n !== now && "bl-near-back";
      const points = shares[n].map((v, i) => `${x(i)},${y(v)}`).join(" ");
      return [node("svg:polyline", { class: `bl-x-line ${back || ""}`, points }),
        ...shares[n].map((v, i) => node("svg:circle", { cx: x(i), cy: y(v), r: !back && i === at ? 6 : 3.5, "data-network": n,
          "data-stage": stages[i], "data-share": v, class: `bl-near-point ${back || (i === at ? "bl-near-now" : "")}` })),
        node("svg:text", { x: right + 10, y: y(shares[n].at(-1)) + 2, class: back ? "bl-x-label" : "bl-near-name" }, n)];
    };
    chart.replaceChildren(
      ...[0, 0.25, 0.5, 0.75, 1].flatMap((v) => gridline(y(v), right, `${100 * v}`)),
      yLabel(4, 14, `same letter, all ${count} images (%)`),
      xLabel((left + right) / 2, bottom + 38, "features after stage"),
      ...stages.map((s, i) => node("svg:text", { x: x(i), y: bottom + 18, "text-anchor": "middle",
        class: i === at && "bl-near-here" }, s.replace("stage", ""))),
      node("svg:line", { x1: x(0), x2: right, y1: y(chance), y2: y(chance), class: "bl-near-chance" }),
      node("svg:text", { x: right + 10, y: y(chance) + 10, class: "bl-x-label" }, "chance"),
      ...networks.filter((n) => n !== now).flatMap(line), ...line(now));
    chart.setAttribute("aria-label", `The share of neighbours that are the same letter. ${networks.map((n) =>
      `${n}: ` + stages.map((s, i) => `${title(s)} ${(100 * shares[n][i]).toFixed(0)} %`).join(", ")).join(". ")}.`);
    return bottom + 46;
  });

  drawMap();
  const stop = watch(model, ["network", "stage"], drawChart);
  const stopRows = watch(model, ["query", "network", "stage"], () => {
    const q = model.get("query"), network = model.get("network"), stage = model.get("stage");
    place(query, q);
    query.setAttribute("aria-label", say(q));
    rows.forEach((row, r) => {
      row.all.classList.toggle("bl-near-chosen", row.stage === stage);
      row.name.setAttribute("aria-pressed", row.stage === stage);
      row.thumbs.forEach((b, c) => {
        const i = lists[network][r][q * NEAR + c], same = own(i) === own(q);
        place(b, i);
        b.classList.toggle("bl-near-same", same);
        b.setAttribute("aria-label", `${title(row.stage)}, neighbour ${c + 1}: ${say(i)}${same ? ", the same letter" : ""}`);
      });
    });
    const r = stages.indexOf(stage), whole = shares[network][r];
    const same = lists[network][r].subarray(q * NEAR, (q + 1) * NEAR).filter((i) => own(i) === own(q)).length;
    Object.assign(answer.dataset, { same, share: whole });
    const where = stage === "pixels" ? "By pixels" : `After ${title(stage)} of ${network}`;
    answer.textContent = `${where}, ${same} of the ${NEAR} nearest are the same letter; `
      + `${(100 * whole).toFixed(0)} % over all ${count} images.`;
    drawMarks();
  });
  return () => { stop(); stopRows(); URL.revokeObjectURL(sheet); };
}

export default { render };
