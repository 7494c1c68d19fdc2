// What will it cost? Memory over the number of images at once, for every official network, beside that of a graphics card.

const half = (n) => Math.ceil(n / 2);
const GB = 1e9;

// What training needs; the twin of `account` in explore/cost.py. image: bytes that the backward pass keeps of one image.
export function account(units, width, side, classes, bits) {
  const root = 64 * width, first = half(side), stem = 147 * root;
  let at = half(first), cin = root, body = stem, filters = root, norms = 1, parameters = stem, forward = stem * first ** 2;
  let values = 3 * side ** 2 + root * (first + 2) ** 2;
  const indices = root * at ** 2;
  units.forEach((count, s) => {
    const cout = 4 * root * 2 ** s, mid = cout / 4;
    for (let u = 0; u < count; u++) {
      const to = u === 0 && s ? half(at) : at, projected = cin !== cout || to !== at;
      const behind = 9 * mid * mid + mid * cout + (projected ? cin * cout : 0);
      body += cin * mid + behind;
      filters += 2 * mid + cout + (projected ? cout : 0);
      parameters += cin * mid + behind + 2 * (cin + 2 * mid);
      forward += cin * mid * at ** 2 + behind * to ** 2;
      values += 2 * cin * at ** 2 + 2 * mid * at ** 2 + 2 * mid * to ** 2;
      norms += 3;
      [at, cin] = [to, cout];
    }
  });
  values += 2 * cin * at ** 2 + cin;
  parameters += 2 * cin + (cin + 1) * classes;
  forward += cin * classes;
  return { parameters, body, filters, image: values * bits / 8 + 8 * indices + norms * 2 * 32 * 4, macs: 3 * forward - stem * first ** 2 };
}

// Bytes by purpose, for so many images at once out of a batch.
export function needed(found, images, batch, bits) {
  const split = images < batch, each = 4 * found.parameters;
  const kept = found.body * (bits === 32 || !split ? bits / 8 : 6) + found.filters * 8 + (split ? 4 * found.body : 0);
  return { weights: each, gradients: each, momentum: each, standardised: kept, activations: images * found.image };
}
const total = (parts) => Object.values(parts).reduce((a, b) => a + b, 0);

export function most(found, batch, bits, room) {
  if (total(needed(found, batch, batch, bits)) <= room) return batch;
  return Math.max(0, Math.min(batch - 1, Math.floor((room - total(needed(found, 0, batch, bits))) / found.image)));
}

const digits = (v, n = 2) => (v >= 10 ** (n - 1) ? Math.round(v).toLocaleString("en-US") : String(+v.toPrecision(n)));
const gb = (v) => `${digits(v / GB)} GB`;
const counted = (n, one) => `${n.toLocaleString("en-US")} ${one}${n === 1 ? "" : "s"}`;

function render({ model, el }) {
  const get = (name) => model.get(name), limits = get("limits"), names = limits.network.of;
  const text = (x, y, words, more = {}) => node("svg:text", { x, y, ...more }, words);
  const bits = () => get("bits"), room = () => (1 - get("spare")) * get("card") * GB;
  const of = (name) => {
    const [depth, width] = name.slice(1).split("x");
    return account(get("units")[depth], +width, get("side"), get("classes"), bits());
  };
  const bytes = (found, images) => total(needed(found, Math.min(images, get("batch")), get("batch"), bits()));

  const chart = node("svg:svg", { role: "group", "aria-label": "Memory over the number of images at once" });
  const still = node("svg:g"), handle = node("svg:g", { class: "bl-x-handle" }), knob = node("svg:circle", { class: "bl-x-knob", r: 8 });
  const zone = node("svg:rect", { class: "bl-x-zone" }), line = node("svg:path", { class: "bl-x-now" });
  handle.append(zone, line, knob);
  chart.append(still, handle);
  const table = node("table"), answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const key = (kind, words) => node("span", { class: `bl-cost-key bl-cost-${kind}` }, node("i"), words);
  el.append(node("div", { class: "bl-x bl-x-cost" },
    node("div", { class: "bl-x-controls" },
      choice(model, "network", "Network", names.map((n) => [n, n])),
      choice(model, "side", "Side of the image", limits.side.of.map((s) => [s, `${s} px`])),
      choice(model, "batch", "Batch", limits.batch.of.map((b) => [b, `${b} images`])),
      choice(model, "bits", "Precision", limits.bits.of.map((b) => [b, `${b} bits`])),
      choice(model, "card", "Memory of the card", limits.card.of.map((c) => [c, `${c} GB`]))),
    answer, node("p", { class: "bl-cost-keys" }, key("own", "your network"), key("other", "the others"), key("card", "what the card has, less a tenth")),
    chart, node("div", { class: "bl-cost-table", tabindex: 0, role: "group", "aria-label": "All networks" }, table)));

  const list = limits.images.of, atMost = () => list.filter((n) => n <= get("batch"));
  const setImages = (i) => put(model, { images: atMost()[Math.max(0, Math.min(atMost().length - 1, i))] });
  const left = 52, right = 12, top = 26, high = 220;
  let placeOf;
  const draw = fitted(chart, (width) => {
    const counts = atMost(), inner = width - left - right, foot = top + high, low = Math.log10(0.1 * GB), up = Math.log10(2000 * GB);
    const x = (n) => left + inner * Math.log2(n) / Math.log2(counts.at(-1));
    const y = (v) => foot - high * Math.max(0, Math.min(1, (Math.log10(v) - low) / (up - low)));
    placeOf = (px) => Math.round((px - left) / inner * (counts.length - 1));
    const path = (name) => { const found = of(name); return counts.map((n) => `${x(n)},${y(bytes(found, n))}`).join(" "); };
    const own = get("network"), edge = y(room()), few = width < 480;
    still.replaceChildren(
      yLabel(0, 12, "Memory (GB)"),
      node("svg:rect", { class: "bl-cost-beyond", x: left, y: top, width: inner, height: Math.max(0, edge - top) }),
      ...[0.1, 1, 10, 100, 1000].flatMap((v) => gridline(y(v * GB), width - right, v.toLocaleString("en-US"))),
      ...names.filter((n) => n !== own).map((n) => node("svg:polyline", { class: "bl-cost-line bl-cost-other", points: path(n) })),
      node("svg:polyline", { class: "bl-cost-line bl-cost-own", points: path(own) }),
      node("svg:line", { class: "bl-cost-line bl-cost-card", x1: left, x2: width - right, y1: edge, y2: edge }),
      text(left + 6, (y(1000 * GB) + y(100 * GB)) / 2 + 4, "does not fit"),
      ...counts.filter((_, i) => !few || i % 2 === 0).map((n) => text(x(n), foot + 17, String(n), { "text-anchor": "middle" })),
      xLabel(left + inner / 2, foot + 35, "Images at once"));
    const n = Math.min(get("images"), get("batch")), at = x(n);
    for (const [name, v] of Object.entries({ x: left, y: top, width: inner, height: high })) zone.setAttribute(name, v);
    line.setAttribute("d", `M${at} ${top}V${foot}`);
    knob.setAttribute("cx", at);
    knob.setAttribute("cy", y(bytes(of(own), n)));
    return foot + 40;
  });
  draggable(handle, {
    moved: (px) => setImages(placeOf(px)),
    keyed: (dx, dy) => {
      const way = dx || dy, now = atMost().indexOf(Math.min(get("images"), get("batch")));
      setImages(Math.abs(way) === Infinity ? (way < 0 ? 0 : list.length) : now + Math.sign(way));
    },
    aria: { "aria-label": "Images at once", "aria-valuemin": list[0] },
  });
  handle.style.touchAction = "pan-y"; // a finger that goes up or down scrolls the page

  function drawTable() {
    const head = ["Network", "Without any image (GB)", "Per image (MB)", "At most at once", "ImageNet (%)"];
    table.replaceChildren(
      node("thead", {}, node("tr", {}, ...head.map((h) => node("th", { scope: "col" }, h)))),
      node("tbody", {}, ...names.map((name) => {
        const found = of(name), fixed = bytes(found, 0), fit = most(found, get("batch"), bits(), room());
        return node("tr", { "data-name": name, "data-fixed": fixed, "data-image": found.image, "data-most": fit,
          "data-macs": found.macs * get("batch") * get("steps"), class: name === get("network") ? "bl-cost-chosen" : false },
        node("th", { scope: "row" }, name), node("td", {}, (fixed / GB).toFixed(2)), node("td", {}, digits(found.image / 1e6)),
        node("td", {}, fit ? String(fit) : "–"), node("td", {}, get("imagenet")[name].toFixed(1)));
      })));
  }

  function says() {
    const name = get("network"), found = of(name), batch = get("batch"), n = Math.min(get("images"), batch), need = bytes(found, n);
    const fit = most(found, batch, bits(), room()), fits = need <= room(), parts = fit ? Math.ceil(batch / fit) : 0;
    Object.assign(answer.dataset, { bytes: need, most: fit, parts, macs: found.macs * batch * get("steps") });
    const first = `${name} with ${counted(n, "image")} of ${get("side")} px at once needs ${gb(need)}, `
      + `${gb(n * found.image)} of it for what the backward pass keeps of the images. `;
    const second = fits ? "That fits. " : `That does not fit into ${get("card")} GB. `;
    const third = !fit ? "Not even one image does."
      : fit >= batch ? `A batch of ${batch} fits in one piece.`
        : `At most ${fit} fit, so a batch of ${batch} goes in ${parts} parts, with the same gradient up to rounding.`;
    answer.textContent = first + second + third;
    handle.setAttribute("aria-valuemax", batch);
    handle.setAttribute("aria-valuenow", n);
    handle.setAttribute("aria-valuetext", `${counted(n, "image")} at once: ${gb(need)}, ${fits ? "fits" : "does not fit"}`);
  }

  return watch(model, ["network", "side", "batch", "bits", "card", "images"], () => { draw(); drawTable(); says(); });
}

export default { render };
