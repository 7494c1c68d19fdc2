// Which activations share a mean and a variance, and how much a picture then depends on its companions.

const EPS = 1e-5, DRAWS = 40, CHANNEL = 1;

// The companions of picture 0 in one draw: `batch` picture numbers, 0 first.
export function companions(total, batch, seed) {
  const next = random(seed), rest = Array.from({ length: total - 1 }, (_, i) => i + 1);
  for (let i = 0; i < batch - 1; i++) {
    const j = i + Math.floor(next() * (rest.length - i));
    [rest[i], rest[j]] = [rest[j], rest[i]];
  }
  return [0, ...rest.slice(0, batch - 1)];
}

// The [picture, channel] cells that share statistics with picture 0 and a channel.
export function pool(kind, pictures, channels, groups, channel) {
  const size = kind === "ln" ? channels : kind === "gn" ? channels / groups : 1;
  const first = Math.floor(channel / size) * size;
  const own = Array.from({ length: size }, (_, i) => first + i);
  return kind === "bn" ? pictures.map((n) => [n, channel]) : own.map((c) => [0, c]);
}

// Normalised mean of picture 0 in a channel. means, squares: [picture][channel] averages of x and of x squared.
export function normalized(means, squares, cells, channel) {
  const m = mean(cells.map(([n, c]) => means[n][c]));
  const variance = mean(cells.map(([n, c]) => squares[n][c])) - m * m;
  return (means[0][channel] - m) / Math.sqrt(variance + EPS);
}

function render({ model, el }) {
  const means = model.get("means"), squares = model.get("squares"), channels = means[0].length;
  const grid = node("svg:svg", { class: "bl-x-grid", role: "img", viewBox: "0 0 360 128" });
  const strip = node("svg:svg", { class: "bl-x-strip", role: "img", viewBox: "0 0 360 74" });
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const groupSlider = slider(model, "groups", "Groups");
  el.append(node("div", { class: "bl-x bl-x-norms" },
    node("div", { class: "bl-x-controls" },
      choice(model, "kind", "Norm", [["bn", "batch"], ["ln", "layer"], ["in", "instance"], ["gn", "group"]]),
      slider(model, "batch", "Batch"), groupSlider,
      button("Draw other companions", () => put(model, { draw: (model.get("draw") + 1) % 1000 }))),
    node("p", { class: "bl-x-title" }, "The batch: a column for each picture, a row for each channel"), grid,
    node("p", { class: "bl-x-title" }, `The first picture, normalised, in ${DRAWS} draws of its companions`), strip, answer));

  const flat = means.flat(), low = Math.min(...flat), high = Math.max(...flat);
  const bottom = 120, row = bottom / channels;

  return watch(model, ["kind", "batch", "groups", "draw"], () => {
    const kind = model.get("kind"), batch = model.get("batch"), groups = model.get("groups");
    groupSlider.classList.toggle("bl-x-off", kind !== "gn");
    groupSlider.querySelector("input").disabled = kind !== "gn";
    const draws = Array.from({ length: DRAWS }, (_, i) => companions(means.length, batch, 1000 * model.get("draw") + i));
    const values = draws.map((pictures) =>
      normalized(means, squares, pool(kind, pictures, channels, groups, CHANNEL), CHANNEL));

    const shown = draws[0], width = Math.min(36, 352 / batch);
    const pooled = new Set(pool(kind, shown, channels, groups, CHANNEL).map(String));
    grid.replaceChildren(...shown.flatMap((n, i) => means[n].map((v, c) => {
      const inside = pooled.has(String([n, c]));
      return node("svg:rect", { x: 4 + i * width, y: 4 + c * row, width: width - (width > 4 ? 1 : 0.3), height: row - 1,
        class: inside ? "bl-x-in" : "bl-x-out", "fill-opacity": 0.12 + 0.88 * (v - low) / (high - low) });
    })), node("svg:rect", { x: 3, y: 3 + CHANNEL * row, width: width + (width > 4 ? 1 : 1.7), height: row + 1, class: "bl-x-frame" }));
    grid.setAttribute("aria-label", `${pooled.size} of ${batch * channels} cells share their mean and variance with `
      + `the framed one, picture 1 in channel ${CHANNEL + 1}.`);

    const x = (v) => 180 + 80 * Math.max(-2.1, Math.min(2.1, v));
    strip.replaceChildren(node("svg:line", { x1: 8, x2: 352, y1: 50, y2: 50, class: "bl-x-axis" }),
      ...[-2, -1, 0, 1, 2].map((t) => node("svg:text", { x: x(t), y: 68, "text-anchor": "middle" }, String(t).replace("-", "−"))),
      ...values.map((v, i) => node("svg:circle", { cx: x(v), cy: 12 + (i * 7 % 5) * 7, r: 3.5, class: "bl-x-dot", "data-value": v,
        "data-pictures": draws[i].join(" ") })));
    const spread = deviation(values);
    strip.setAttribute("aria-label", `Between ${Math.min(...values).toFixed(2)} and ${Math.max(...values).toFixed(2)}.`);
    answer.dataset.spread = spread;
    const why = { bn: `It shares its statistics with ${batch} ${batch > 1 ? "pictures" : "picture"}.`,
      ln: "It uses all channels of its own picture, and no companion.", in: "It uses one channel of its own picture.",
      gn: `It uses ${channels / groups} of the ${channels} channels of its own picture, and no companion.` }[kind];
    answer.textContent = `Other companions move it by ${spread.toFixed(3)} (one standard deviation). ${why}`;
  });
}

export default { render };
