// Which activations share a mean and a variance, and how much an image then depends on its companions in the batch.

const EPS = 1e-5, DRAWS = 40, CHANNELS = 8, SHADES = 6;
const NORMS = [["bn", "Batch norm"], ["ln", "Layer norm"], ["in", "Instance norm"], ["gn", "Group norm"]];

// Half-precision numbers in base64.
export function halves(text) {
  const bytes = decode(text), view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 2 }, (_, i) => {
    const bits = view.getUint16(2 * i, true), exponent = (bits >> 10) & 31, digits = (bits & 1023) / 1024;
    return (bits >> 15 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + digits) : 2 ** -14 * digits);
  });
}

// `count` of the images other than `watched`, drawn by the seed. The first of many are those of a smaller count.
export function companions(total, count, seed, watched) {
  const next = random(seed), drawn = new Set();
  while (drawn.size < count) drawn.add(Math.floor(next() * (total - 1)));
  return Array.from(drawn, (n) => (n < watched ? n : n + 1));
}

// The channels that share statistics with a channel, and the images that do with the first of `images`.
export function pool(kind, images, channel, groups) {
  const size = kind === "ln" ? CHANNELS : kind === "gn" ? CHANNELS / groups : 1, first = Math.floor(channel / size) * size;
  return { images: kind === "bn" ? images : images.slice(0, 1), channels: Array.from({ length: size }, (_, i) => first + i) };
}

// A channel's mean in the first of `images`, normalised. means, deviations: [image * CHANNELS + channel], over its pixels.
export function normalized(means, deviations, kind, images, channel, groups) {
  const shared = pool(kind, images, channel, groups), count = shared.images.length * shared.channels.length;
  let m = 0, variance = 0;
  for (const n of shared.images) for (const c of shared.channels) m += means[n * CHANNELS + c] / count;
  for (const n of shared.images) {
    for (const c of shared.channels) {
      const i = n * CHANNELS + c;
      variance += (deviations[i] ** 2 + (means[i] - m) ** 2) / count;
    }
  }
  return (means[images[0] * CHANNELS + channel] - m) / Math.sqrt(variance + EPS);
}

const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
const move = (element, to) => { for (const [name, value] of Object.entries(to)) element.setAttribute(name, value); };
const many = (count, what) => `${count} ${what}${count > 1 ? "s" : ""}`;
let figures = 0;

function render({ model, el }) {
  const means = halves(model.get("means")), deviations = halves(model.get("deviations")), total = means.length / CHANNELS;
  const sizes = model.get("limits").batch.of, most = sizes.at(-1), low = Math.min(...means), high = Math.max(...means);
  const get = (name) => model.get(name), id = `bl-x-sheet-${++figures}-${Math.floor(performance.now())}`;

  // All thumbnails are windows on one image, in units of a thumbnail.
  const source = node("svg:svg", { class: "bl-x-source", "aria-hidden": "true" }, node("svg:defs", {}, node("svg:image",
    { id, href: get("thumbnails"), width: 32, height: Math.ceil(total / 32), preserveAspectRatio: "none" })));
  const thumbnail = (n, x, y, side) => get("thumbnails")
    ? node("svg:svg", { x, y, width: side, height: side, viewBox: `${n % 32} ${Math.floor(n / 32)} 1 1` },
      node("svg:use", { href: "#" + id }))
    : node("svg:rect", { x, y, width: side, height: side, class: "bl-x-blank" });

  // What the traits say. The batch that is shown starts with image 0, unless the watched image would be missing from it.
  let subsets = [], drawn = "";
  let now;
  const read = () => {
    const batch = get("batch"), watched = get("image"), seed = 1000 * get("draw");
    const shown = [0, ...companions(total, batch - 1, seed, 0)];
    if (!shown.includes(watched)) shown[0] = watched;
    if (drawn !== `${seed} ${watched}`) {
      drawn = `${seed} ${watched}`;
      subsets = Array.from({ length: DRAWS }, (_, i) => companions(total, most - 1, seed + i, watched));
    }
    const draws = subsets.map((rest, i) =>
      [watched, ...(i ? rest.slice(0, batch - 1) : shown.filter((n) => n !== watched))]);
    now = { batch, shown, draws, column: shown.indexOf(watched), channel: get("channel"), groups: get("groups") };
  };
  const choose = (column, channel) => put(model, { image: now.shown[column], channel });

  // --- the batch, with a handle at its edge ---
  const row = node("svg:svg", { class: "bl-x-batch" }), images = node("svg:g");
  const edge = (batch, width) => (width - 14) * (Math.log2(batch) + 1) / (Math.log2(most) + 1);
  const lines = () => (now.batch > 16 ? 2 : 1);
  let rowWidth = 340, tall = 50, rowDrawn = "";
  const resize = (x) => {
    const off = (batch) => Math.abs(edge(batch, rowWidth) - x);
    put(model, { batch: sizes.reduce((a, b) => (off(b) < off(a) ? b : a)) });
  };
  const handle = draggable(node("svg:g", { class: "bl-x-handle" }), {
    moved: resize,
    keyed: (dx, dy) => put(model, { batch: sizes[clamp(sizes.indexOf(now.batch) + (dx || dy), 0, sizes.length - 1)] }),
    aria: { "aria-label": "Images in the batch", "aria-valuemin": 1, "aria-valuemax": most },
  });
  row.append(images, handle); // the handle stays in place: moved about, it would lose the pointer and the focus
  const drawRow = fitted(row, (width) => {
    rowWidth = width;
    tall = width < 450 ? 32 : 50;
    const right = edge(now.batch, width), rows = lines(), columns = now.batch / rows, cell = (right - 8) / columns;
    const side = Math.min((tall - 4) / rows - 1.5, cell - 1.5), x = (i) => 2 + (i % columns + 0.5) * cell - side / 2;
    const y = (i) => 2 + (Math.floor(i / columns) + 0.5) * (tall - 4) / rows - side / 2;
    const key = `${width} ${now.shown} ${now.column}`; // most changes leave the batch as it is
    if (key === rowDrawn) return tall + 40;
    rowDrawn = key;
    images.replaceChildren(
      node("svg:rect", { x: 0.5, y: 0.5, width: right, height: tall - 1, rx: 4, class: "bl-x-box" }),
      ...now.shown.map((n, i) => thumbnail(n, x(i), y(i), side)),
      node("svg:rect", { x: x(now.column) - 1, y: y(now.column) - 1, width: side + 2, height: side + 2,
        class: "bl-x-watched" }),
      ...sizes.map((b) => node("svg:text", { x: edge(b, width), y: tall + 16, "text-anchor": "middle",
        class: b === now.batch ? "bl-x-now" : "bl-x-label" }, b)),
      xLabel(width / 2, tall + 34, "images in the batch: drag its edge"));
    handle.replaceChildren(node("svg:rect", { x: right - 14, y: -4, width: 29, height: tall + 8, "fill-opacity": 0 }),
      node("svg:rect", { x: right - 4, y: 4, width: 9, height: tall - 8, rx: 4.5 }),
      node("svg:path", { d: `M${right - 1} ${tall / 2 - 5}v10M${right + 2} ${tall / 2 - 5}v10` }));
    move(handle, { "aria-valuenow": now.batch, "aria-valuetext": many(now.batch, "image") });
    return tall + 40;
  });
  row.addEventListener("click", (event) => {
    if (handle.contains(event.target)) return;
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(row.getScreenCTM().inverse());
    const columns = now.batch / lines(), column = Math.max(0, Math.floor(x / (edge(now.batch, rowWidth) - 8) * columns));
    if (y > tall) resize(x);
    else if (column < columns) choose(column + (y > tall / lines() ? columns : 0), now.channel);
  });

  // --- a norm: the cells that share a mean, and the watched cell among other companions ---
  const panels = NORMS.map(([kind, name]) => panel(kind, name));
  function panel(kind, name) {
    const svg = node("svg:svg", { class: "bl-x-norm" }), shares = node("p", { class: "bl-x-small" });
    const heads = node("svg:g"), grid = node("svg:g"), axes = node("svg:g"), strip = node("svg:g");
    const cover = node("svg:rect", { "fill-opacity": 0 }), band = node("svg:rect", { class: "bl-x-band" });
    const says = node("svg:text", { "text-anchor": "end", class: "bl-x-spread" });
    const dots = Array.from({ length: DRAWS }, (_, i) =>
      node("svg:circle", i ? { r: 2.2, class: "bl-x-value" } : { r: 4, class: "bl-x-value bl-x-this" }));
    strip.append(band, says, ...dots);
    svg.append(heads, grid, axes, strip, cover);
    const left = 24, top = 38, height = 10, below = top + CHANNELS * height + 34, plot = 100;
    let cell = 10, pointed = null; // pointed: [column, channel] under a mouse, whose pool shows as long as it stays there
    const within = (column, channel) => [clamp(column, 0, now.batch - 1), clamp(channel, 0, CHANNELS - 1)];
    const at = (x, y) => within(Math.floor((x - left) / cell), Math.floor((y - top) / height));
    draggable(cover, {
      moved: (x, y) => choose(...at(x, y)),
      // Home and End: the first and the last cell.
      keyed: (dx, dy) => choose(...within(now.column + dx, now.channel + (Number.isFinite(dy) ? -dy : dy))),
      aria: { "aria-label": `${name}: the chosen cell`, "aria-valuemin": 1 },
    });
    cover.style.touchAction = "pan-y"; // the page still scrolls under a finger
    cover.style.cursor = "crosshair";
    const point = (next) => {
      if (String(next) === String(pointed)) return;
      pointed = next;
      drawGrid();
    };
    cover.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse" || event.buttons) return;
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      point(at(x, y));
    });
    cover.addEventListener("pointerleave", () => point(null));
    cover.addEventListener("pointerdown", () => { pointed = null; });

    let width = 160, headed = "", ruled = 0; // what heads and axes were last drawn for: they seldom change
    function drawGrid() {
      const { batch, shown } = now, [column, channel] = pointed && pointed[0] < batch ? pointed : [now.column, now.channel];
      cell = Math.min(24, (width - left - 2) / batch);
      const shared = pool(kind, [shown[column], ...shown.filter((_, i) => i !== column)], channel, now.groups);
      const images = new Set(shared.images), channels = new Set(shared.channels);
      // One path for each shade of the cells that share, and of those that do not.
      const paths = Array.from({ length: 2 * SHADES }, () => "");
      const gap = cell > 4 ? 1 : 0.3;
      shown.forEach((n, i) => {
        for (let c = 0; c < CHANNELS; c++) {
          const shade = Math.min(SHADES - 1, Math.floor(SHADES * (means[n * CHANNELS + c] - low) / (high - low)));
          paths[shade + (images.has(n) && channels.has(c) ? SHADES : 0)]
            += `M${left + i * cell} ${top + c * height}h${cell - gap}v${height - 1}h${gap - cell}z`;
        }
      });
      if (headed !== `${width} ${shown}`) {
        headed = `${width} ${shown}`;
        const side = Math.min(20, cell - 1);
        heads.replaceChildren(...(cell < 9 ? []
          : shown.map((n, i) => thumbnail(n, left + i * cell + (cell - 1 - side) / 2, top - side - 2, side))));
      }
      grid.replaceChildren(...paths.map((d, i) => node("svg:path", { d, class: i < SHADES ? "bl-x-apart" : "bl-x-shared",
          "fill-opacity": i < SHADES ? 0.14 + 0.07 * i : 0.55 + 0.09 * (i - SHADES) })),
        node("svg:rect", { x: left + column * cell - 1, y: top + channel * height - 1, class: "bl-x-watched",
          width: Math.max(3, cell - gap + 2), height: height + 1 }));
      svg.dataset.images = shared.images.join(" ");
      svg.dataset.channels = shared.channels.join(" ");
      move(cover, { x: left, y: top, width: cell * batch, height: CHANNELS * height, "aria-valuemax": batch * CHANNELS,
        "aria-valuenow": now.column * CHANNELS + now.channel + 1,
        "aria-valuetext": `image ${now.column + 1} of ${batch}, channel ${now.channel + 1}` });
      const count = shared.images.length * shared.channels.length;
      shares.textContent = count > 1 ? `over ${count} cells` : "over itself alone";
    }
    const draw = fitted(svg, (w) => {
      width = w;
      drawGrid();
      const values = now.draws.map((images) => normalized(means, deviations, kind, images, now.channel, now.groups));
      const spread = deviation(values), m = mean(values), right = width - 2;
      const x = (i) => left + 4 + i * (right - left - 8) / (DRAWS - 1);
      const y = (v) => below + plot / 2 - plot / 4 * clamp(v, -2, 2);
      if (ruled !== width) {
        ruled = width;
        axes.replaceChildren(
          yLabel(0, 12, width < 125 ? "channel" : "channel ↓"),
          node("svg:text", { x: right, y: 12, "text-anchor": "end", class: "bl-x-label" }, "image →"),
          ...[1, CHANNELS].map((c) => node("svg:text", { x: left - 6, y: top + c * height - 1, "text-anchor": "end" }, c)),
          yLabel(0, below - 12, width < 125 ? "value" : "normalised"),
          ...[-2, -1, 0, 1, 2].flatMap((v) => [
          node("svg:line", { x1: left, x2: right, y1: y(v), y2: y(v), class: v ? "bl-x-gridline" : "bl-x-axis" }),
          v % 2 ? "" : node("svg:text", { x: left - 5, y: y(v) + 4.5, "text-anchor": "end" }, String(v).replace("-", "−"))]),
          xLabel((left + right) / 2, below + plot + 16, width < 125 ? "subset" : "random subset"));
      }
      says.textContent = `± ${spread.toFixed(2)}`;
      move(says, { x: right, y: below - 12 });
      move(band, { x: left, width: right - left, y: y(m + spread), height: Math.max(1, y(m - spread) - y(m + spread)) });
      values.forEach((v, i) => move(dots[i], { cx: x(i), cy: y(v), "data-value": v, "data-images": now.draws[i].join(" ") }));
      svg.dataset.spread = spread;
      return below + plot + 22;
    });
    const title = node("p", { class: "bl-x-name" }, name);
    return { svg, draw, element: node("div", { class: `bl-x-panel bl-x-${kind}` }, title, shares, svg) };
  }

  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  el.append(node("div", { class: "bl-x bl-x-norms" }, source, row,
    node("div", { class: "bl-x-controls" },
      button("Draw other companions", () => put(model, { draw: (get("draw") + 1) % 1000 })),
      choice(model, "groups", "Groups", [1, 2, 4, 8].map((g) => [g, g]))),
    node("p", { class: "bl-x-title" }, "Coloured: what shares a mean and a variance with the framed cell. Click any cell."),
    node("div", { class: "bl-x-four" }, ...panels.map((p) => p.element)), answer));

  return watch(model, ["batch", "groups", "image", "channel", "draw"], () => {
    read();
    drawRow();
    for (const p of panels) p.draw();
    answer.textContent = now.batch === 1
      ? "Alone in its batch, the image shares with itself: batch norm has become instance norm."
      : `Other companions move the framed activation by ± ${(+panels[0].svg.dataset.spread).toFixed(2)} under batch norm `
        + `(one standard deviation over ${DRAWS} random subsets), and not at all under the other three.`;
  });
}

export default { render };
