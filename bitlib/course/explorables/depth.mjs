// Coloured digits on their way through a network: arranged by what each stage finds similar, from the pixels to the last stage.

export const NEAR = 5;
const GRAIN = 8; // pixels of a digit, each way
const title = (stage) => stage.replace(/(\d)$/, " $1");

// Where image i lies at a depth between two stages: {x, y} from -1 to 1. places: for each stage x and y of image 0, of image 1...
export function at(places, depth, i) {
  const low = Math.min(Math.floor(depth), places.length - 2), share = depth - low;
  const [x, y] = [0, 1].map((k) => places[low][2 * i + k] + share * (places[low + 1][2 * i + k] - places[low][2 * i + k]));
  return { x, y };
}

// The share of neighbours that have the image's own label. lists: the neighbours of image 0, of image 1...
export const share = (lists, labels) => mean(Array.from(lists, (n, k) => +(labels[n] === labels[Math.floor(k / NEAR)])));

// A digit in its ink, without paper, so that digits that lie on one another can all be seen: bytes [8 * 8 * (R, G, B, A)].
export const inked = (ink, colour) => Uint8ClampedArray.from(Array.from(ink, (a) => [...colour, a]).flat());

function render({ model, el }) {
  const digits = model.get("digits"), inks = model.get("inks"), names = model.get("names"), stages = model.get("stages");
  const count = digits.length, places = model.get("places"), networks = model.get("limits").network.of, words = model.get("networks");
  const lists = Object.fromEntries(networks.map((n) => [n, model.get("nearest")[n].map(decode)]));
  const shares = Object.fromEntries(networks.map((n) => [n, { digit: lists[n].map((l) => share(l, digits)), ink: lists[n].map((l) => share(l, inks)) }]));
  const alike = (labels) => mean(labels.map((own) => (labels.filter((v) => v === own).length - 1) / (count - 1)));
  const chance = { digit: alike(digits), ink: alike(inks) };
  const say = (i) => `a ${digits[i]} in ${names[inks[i]]} ink`;
  const clamp = (v, high) => Math.min(high, Math.max(0, v)), last = stages.length - 1;
  const nearby = (i) => Array.from(lists[model.get("network")][Math.round(model.get("depth"))].subarray(i * NEAR, (i + 1) * NEAR));

  // One small image for each digit.
  const all = decode(model.get("shapes")), canvas = node("canvas", { width: GRAIN, height: GRAIN }), context = canvas.getContext("2d");
  const addresses = digits.map((_, i) => {
    const ink = all.subarray(i * GRAIN ** 2, (i + 1) * GRAIN ** 2);
    context.putImageData(new ImageData(inked(ink, model.get("colours")[inks[i]]), GRAIN), 0, 0);
    return canvas.toDataURL();
  });

  const map = node("svg:svg", { class: "bl-depth-map" });
  const sheet = node("svg:rect", { fill: `rgb(${model.get("paper").join(" ")})`, rx: 6 }), lines = node("svg:g"), marks = node("svg:g");
  const thumbs = addresses.map((href, i) => node("svg:image", { href, "data-image": i }));
  map.append(sheet, lines, ...thumbs, marks);
  const chart = node("svg:svg", { class: "bl-depth-chart" }), ground = node("svg:g");
  const handle = node("svg:g", { class: "bl-x-handle" }), zone = node("svg:rect", { class: "bl-x-zone" });
  const pole = node("svg:line", { class: "bl-x-now" }), knob = node("svg:circle", { class: "bl-x-knob", r: 8 });
  handle.append(zone, pole, knob);
  chart.append(ground, handle);
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  el.append(node("div", { class: "bl-x bl-x-depth" },
    node("div", { class: "bl-x-controls" }, choice(model, "network", "Trained on", networks.map((n) => [n, words[n]]))),
    node("div", { class: "bl-depth-both" }, map, chart), answer));

  // --- the images ---
  let side = 320, size = 24;
  const spot = (i) => {
    const { x, y } = at(places[model.get("network")], model.get("depth"), i), half = (side - size) / 2 - 4;
    return { x: side / 2 + half * x, y: side / 2 - half * y };
  };
  const drawMap = fitted(map, (width) => {
    side = width;
    size = width > 360 ? 26 : 22;
    sheet.setAttribute("width", side);
    sheet.setAttribute("height", side);
    const spots = digits.map((_, i) => spot(i)), q = model.get("query");
    thumbs.forEach((image, i) => {
      const { x, y } = spots[i];
      for (const [key, v] of Object.entries({ x: x - size / 2, y: y - size / 2, width: size, height: size })) image.setAttribute(key, v);
    });
    const ring = (i, kind, r) => node("svg:circle", { cx: spots[i].x, cy: spots[i].y, r, class: kind, "data-image": i });
    const line = (i, kind) => node("svg:line", { x1: spots[q].x, y1: spots[q].y, x2: spots[i].x, y2: spots[i].y, class: kind });
    const near = nearby(q), twice = ["bl-depth-wide", "bl-depth-core"];
    lines.replaceChildren(...near.flatMap((i) => twice.map((kind) => line(i, kind))));
    marks.replaceChildren(...[...near, q].flatMap((i) => twice.map((kind) => ring(i, kind, size / 2 + (i === q ? 5 : 1)))));
    map.setAttribute("aria-valuenow", q);
    map.setAttribute("aria-valuetext", say(q));
    return side;
  });
  draggable(map, {
    moved: (x, y) => {
      const far = digits.map((_, i) => { const p = spot(i); return Math.hypot(p.x - x, p.y - y); });
      put(model, { query: far.indexOf(Math.min(...far)) });
    },
    keyed: (dx, dy) => put(model, { query: clamp(model.get("query") + (Math.abs(dx) === Infinity ? dx : dx - dy * (count / new Set(digits).size)), count - 1) }),
    aria: { "aria-label": "The image whose neighbours are shown", "aria-valuemin": 0, "aria-valuemax": count - 1 },
  });
  map.style.touchAction = "pan-y"; // a finger that goes up or down scrolls the page

  // --- the shares, and how deep we are ---
  let toDepth = (x) => x;
  const drawChart = fitted(chart, (width) => {
    const left = 44, right = width - 14, top = 52, bottom = 202, { network, depth } = { network: model.get("network"), depth: model.get("depth") };
    const x = (d) => left + 12 + d * (right - left - 24) / last, y = (v) => bottom - v * (bottom - top);
    toDepth = (px) => Math.round(20 * clamp((px - left - 12) / (right - left - 24) * last, last)) / 20;
    const curve = (what) => [
      node("svg:polyline", { class: `bl-x-line bl-depth-${what}`, points: shares[network][what].map((v, d) => `${x(d)},${y(v)}`).join(" ") }),
      ...shares[network][what].map((v, d) => node("svg:circle", { cx: x(d), cy: y(v), r: 3.5, class: `bl-depth-${what}`, "data-what": what, "data-share": v })),
      node("svg:line", { x1: x(0), x2: x(last), y1: y(chance[what]), y2: y(chance[what]), class: `bl-depth-${what} bl-depth-chance`, "data-chance": chance[what] })];
    const key = (what, at) => [node("svg:line", { x1: at, x2: at + 22, y1: 32, y2: 32, class: `bl-x-line bl-depth-${what}` }),
      node("svg:text", { x: at + 28, y: 36 }, what === "digit" ? "the same digit" : "the same ink")];
    ground.replaceChildren(yLabel(4, 14, `neighbours with … (%), all ${count} images`), ...key("digit", 8), ...key("ink", 138),
      ...[0, 0.5, 1].flatMap((v) => gridline(y(v), right, `${100 * v}`)),
      ...stages.map((s, d) => node("svg:text", { x: x(d), y: bottom + 18, "text-anchor": "middle", class: d === Math.round(depth) ? "bl-depth-here" : null },
        s.replace("stage", ""))),
      xLabel((left + right) / 2, bottom + 38, "after stage; dotted: chance"), ...curve("digit"), ...curve("ink"));
    for (const [name, v] of Object.entries({ x: x(0), y: top - 8, width: x(last) - x(0), height: bottom - top + 16 })) zone.setAttribute(name, v);
    for (const [name, v] of Object.entries({ x1: x(depth), x2: x(depth), y1: top - 8, y2: bottom })) pole.setAttribute(name, v);
    for (const [name, v] of Object.entries({ cx: x(depth), cy: bottom })) knob.setAttribute(name, v);
    handle.setAttribute("aria-valuenow", depth);
    handle.setAttribute("aria-valuetext", depth % 1 ? `between ${title(stages[Math.floor(depth)])} and ${title(stages[Math.ceil(depth)])}` : title(stages[depth]));
    return bottom + 46;
  });
  draggable(handle, {
    moved: (x) => { if (toDepth(x) !== model.get("depth")) put(model, { depth: toDepth(x) }); },
    keyed: (dx, dy) => put(model, { depth: clamp(Math.round(2 * model.get("depth") + (dx || dy)) / 2, last) }),
    aria: { "aria-label": "How far into the network", "aria-valuemin": 0, "aria-valuemax": last },
  });
  handle.style.touchAction = "pan-y";

  const stop = watch(model, ["query", "network", "depth"], () => {
    drawMap();
    drawChart();
    const q = model.get("query"), network = model.get("network"), stage = Math.round(model.get("depth")), near = nearby(q);
    const own = { digit: near.filter((i) => digits[i] === digits[q]).length, ink: near.filter((i) => inks[i] === inks[q]).length };
    const whole = { digit: shares[network].digit[stage], ink: shares[network].ink[stage] };
    Object.assign(answer.dataset, { digit: own.digit, ink: own.ink, digitShare: whole.digit, inkShare: whole.ink });
    const where = stages[stage] === "pixels" ? "By pixels" : `After ${stages[stage] === "root" ? "the root" : title(stages[stage])}`;
    const many = (n, one, more) => `${n || "none"} ${n === 1 ? one : more}`;
    answer.textContent = `${where}, of the ${NEAR} nearest to ${say(q)}, ${many(own.digit, "is", "are")} the same digit and `
      + `${many(own.ink, "has", "have")} the same ink. `
      + `Over all images: ${(100 * whole.digit).toFixed(0)} % and ${(100 * whole.ink).toFixed(0)} %.`;
  });
  return stop;
}

export default { render };
