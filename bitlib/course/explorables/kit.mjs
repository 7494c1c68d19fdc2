// What the figures and the playground share. The playground imports a copy. A figure cannot: a live widget is loaded from
// one blob, so this file is put in front of the figure's own text. It imports nothing, and on loading touches no document.

// node("svg:rect", {x: 1}, child...): an element with attributes and children; false, null and undefined are left out.
export function node(tag, attributes = {}, ...children) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// --- a figure's traits and the controls that move them ---
export function put(model, changes) {
  for (const [name, value] of Object.entries(changes)) model.set(name, value);
  model.save_changes();
}

// A labelled slider for a trait whose limits stand in the trait "limits": [low, high, step], or a list {of: [...]} to choose from.
// show(value) is the text beside it, and what a screen reader says.
export function slider(model, name, label, show = String) {
  const limits = model.get("limits")[name], list = limits.of;
  const [min, max, step] = list ? [0, list.length - 1, 1] : limits;
  const input = node("input", { type: "range", min, max, step, "data-trait": name });
  const output = node("output");
  input.addEventListener("input", () => put(model, { [name]: list ? list[+input.value] : +input.value }));
  const place = () => {
    input.value = list ? nearest(list, model.get(name)) : model.get(name);
    output.textContent = show(model.get(name));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  model.on("change:" + name, place);
  place();
  return node("label", { class: "bl-x-slider" }, node("span", {}, label), input, output);
}

const nearest = (list, v) => list.reduce((best, x, i) => (Math.abs(x - v) < Math.abs(list[best] - v) ? i : best), 0);

// The nearest value that reads well on a logarithmic scale: three digits, and no finer than the step of the limits.
export function snap(v, [low, high, step]) {
  const grain = Math.max(step, 10 ** (Math.floor(Math.log10(v)) - 2));
  return Math.min(high, Math.max(low, +(Math.round(v / grain) * grain).toPrecision(12)));
}

let groups = 0;

// A row of radio buttons for a trait; options: [value, text] pairs.
export function choice(model, name, label, options) {
  const group = `bl-x-${++groups}-${Math.floor(performance.now())}`;
  const inputs = options.map(([value]) => node("input", { type: "radio", name: group, value, "data-trait": name }));
  inputs.forEach((input, i) => input.addEventListener("change", () => put(model, { [name]: options[i][0] })));
  const place = () => inputs.forEach((input, i) => { input.checked = options[i][0] === model.get(name); });
  model.on("change:" + name, place);
  place();
  return node("fieldset", { class: "bl-x-choice" }, node("legend", {}, label),
    ...inputs.map((input, i) => node("label", {}, input, node("span", {}, options[i][1]))));
}

// A button that does something.
export function button(text, act) {
  const b = node("button", { type: "button", class: "bl-x-button" }, text);
  b.addEventListener("click", act);
  return b;
}

// Draw now, and again whenever one of the traits changes. Returns what stops it.
export function watch(model, names, draw) {
  for (const name of names) model.on("change:" + name, draw);
  draw();
  return () => { for (const name of names) model.off("change:" + name, draw); };
}

// Something in a picture that can be dragged: by mouse and finger anywhere near it, and by the arrow keys when it has the focus.
// moved(x, y) gets the pointer's place in the SVG's own units; keyed(dx, dy) gets one step per arrow key (ten with Shift, and
// Home and End as minus and plus infinity). The element gets the focus, a role of "slider" and whatever else is in `aria`.
export function draggable(element, { moved, keyed, aria = {} }) {
  for (const [name, value] of Object.entries({ tabindex: 0, role: "slider", ...aria })) element.setAttribute(name, value);
  element.style.touchAction = "none";
  element.style.cursor = "grab";
  const place = (event) => {
    const svg = element.ownerSVGElement ?? element, at = new DOMPoint(event.clientX, event.clientY);
    const { x, y } = at.matrixTransform(svg.getScreenCTM().inverse());
    moved(x, y);
  };
  element.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    element.focus({ preventScroll: true });
    element.setPointerCapture(event.pointerId);
    place(event);
  });
  element.addEventListener("pointermove", (event) => { if (element.hasPointerCapture(event.pointerId)) place(event); });
  element.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step],
      Home: [-Infinity, -Infinity], End: [Infinity, Infinity] }[event.key];
    if (!way) return;
    event.preventDefault();
    keyed(...way);
  });
  return element;
}

// Something in a picture that can be chosen: a click, a tap, Enter or Space does `act`.
export function clickable(element, label, act) {
  for (const [name, value] of Object.entries({ tabindex: 0, role: "button", "aria-label": label })) element.setAttribute(name, value);
  element.style.cursor = "pointer";
  element.addEventListener("click", act);
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    act();
  });
  return element;
}

// An SVG that is drawn at the width it has, so that its text is never scaled: draw(width) returns the height and fills it.
// Called at once, whenever the width changes, and by the function that comes back.
export function fitted(svg, draw) {
  let width = 0;
  const redraw = () => {
    const height = draw(width || 340);
    svg.setAttribute("viewBox", `0 0 ${width || 340} ${height}`);
    svg.setAttribute("height", height);
  };
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now && now !== width) { width = now; redraw(); }
  }).observe(svg);
  return redraw;
}

// The name of an axis: of the horizontal one below its middle, of the vertical one above its upper end, where it can be read.
export const xLabel = (x, y, ...text) => node("svg:text", { x, y, "text-anchor": "middle", class: "bl-x-label" }, ...text);
export const yLabel = (x, y, ...text) => node("svg:text", { x, y, class: "bl-x-label" }, ...text);

// --- numbers ---
export const encode = (bytes) => btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(""));
export const decode = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

// Numbers from 0 to 1 that depend on the seed alone (mulberry32).
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
export const deviation = (values, m = mean(values)) => Math.sqrt(mean(values.map((v) => (v - m) ** 2)));

export function softmax(scores, temperature = 1) {
  const top = Math.max(...scores), e = scores.map((s) => Math.exp((s - top) / temperature)), sum = e.reduce((a, b) => a + b, 0);
  return e.map((v) => v / sum);
}

// --- what both draw ---
// A table cell with a bar. share: of the cell, 0 to 1; text: the number beside it.
export function barCell(share, text) {
  return node("td", { "data-p": share }, node("span", { class: "bl-x-bar", style: `width:${100 * share}%` }),
    node("span", { class: "bl-x-number" }, text));
}

// A horizontal line of a chart's grid, with its label to the left.
export function gridline(y, right, ...label) {
  return [node("svg:line", { x1: 44, x2: right, y1: y, y2: y, class: "bl-x-gridline" }),
    node("svg:text", { x: 38, y: y + 4, "text-anchor": "end" }, ...label)];
}

// Pixels [3, side, side] from 0 to 255 on a canvas. label: what a screen reader says, unless something around it speaks.
export function paint(canvas, pixels, label) {
  const plane = pixels.length / 3, side = canvas.width = canvas.height = Math.round(Math.sqrt(plane));
  if (label) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }
  const context = canvas.getContext("2d"), data = context.createImageData(side, side);
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) data.data[4 * i + c] = Math.round(pixels[c * plane + i]);
    data.data[4 * i + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}
