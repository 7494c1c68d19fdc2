// Predict, then look: the reader guesses on an axis, among options or by drawing a line; only then the answer is decoded and
// drawn beside the guess.

const show = (v) => (+v.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 }).replace("-", "−");
const withUnit = (words, unit) => (unit ? `${words} ${unit}` : words);
const quantity = (v, spread, unit) => withUnit(spread === null ? show(v) : `${show(v)} ± ${show(spread)}`, unit);

// A difference: that of two percentages is no percentage; "1 images" and "2 ×" would be no English.
function difference(v, unit) {
  if (unit === "%") return `${show(v)} percentage ${v === 1 ? "point" : "points"}`;
  return withUnit(show(v), v !== 1 && /\p{L}/u.test(unit) ? unit : "");
}

// The smallest of 1, 2, 5, 10, 20, ... that is no smaller than v.
export function nice(v) {
  const unit = 10 ** Math.floor(Math.log10(v) + 1e-9);
  return unit * [1, 2, 5, 10].find((m) => m * unit >= v * (1 - 1e-9));
}

function ticks(low, high, most) {
  const step = nice((high - low) / most), all = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) all.push(+(i * step).toPrecision(6));
  return all;
}

// A guess has the grain that a hand has: a hundredth of the axis.
export function settle(v, { low, high }) {
  const step = nice((high - low) / 100);
  return Math.min(high, Math.max(low, +(Math.round(v / step) * step).toPrecision(6)));
}

// Nodes for text with `code` and *emphasis*, as predict.py reads it.
export const marked = (text) => text.split(/`([^`]+)`|\B\*([^*\s](?:[^*]*[^*\s])?)\*\B/)
  .map((piece, i) => piece && (i % 3 ? node(i % 3 === 1 ? "code" : "em", {}, piece) : piece)).filter(Boolean);

const onAxis = (v, { low, high }) => Number.isFinite(v) && v >= low && v <= high;
const label = (x, y, text) => node("svg:text", { x, y, "text-anchor": "middle" }, text);

// Strong words left of x (side -1), right of it (1) or across it (0), moved as far as it needs to stay inside the picture.
const wide = (text) => text.length * 8.8; // in a wide font

function words(x, y, text, side, width, kind = "") {
  const size = wide(text), [before, after] = [size * (1 - side) / 2, size * (1 + side) / 2];
  return node("svg:text", { x: Math.max(before, Math.min(width - after, x)), y, class: `bl-x-words ${kind}`,
    "text-anchor": ["end", "middle", "start"][side + 1] }, text);
}

const diamond = (x, y, r, value) =>
  node("svg:path", { d: `M${x} ${y - r}l${r} ${r}l${-r} ${r}l${-r} ${-r}z`, class: "bl-x-seen", "data-value": value });

// What a guess is beside the answer, as a sentence without its beginning.
function verdict(guess, answer, spread, { low, high, unit }) {
  const off = +(guess - answer).toPrecision(4), by = `too ${off > 0 ? "high" : "low"} by ${difference(Math.abs(off), unit)}.`;
  if (off === 0) return "is exactly that.";
  if (spread !== null && Math.abs(off) <= spread) return `lies within the spread of ± ${show(spread)}.`;
  return Math.abs(off) <= (high - low) / 20 ? `is close: ${by}` : `is ${by}`;
}

// Each kind of question: its element; what counts as a guess, and as a whole one; update(guess, what the seal hid or null).

function numberAxis(question, change) {
  const { low, high, unit, xlabel, measured } = question, step = nice((high - low) / 100), side = 16, axis = 62;
  const middle = settle((low + high) / 2, question), name = measured ? "measured" : "answer";
  const title = xlabel && unit ? `${xlabel} (${unit})` : xlabel || unit;
  let width = 340, guess = null, seal = null, before = null;
  const scale = node("svg:g"), handle = node("svg:g", { class: "bl-x-handle" });
  const seen = node("svg:g", { class: "bl-x-appears" }), element = node("svg:svg", { role: "group" }, scale, handle, seen);

  // A finger that turns out to scroll the page has guessed nothing.
  handle.addEventListener("pointerdown", () => { before = guess; });
  handle.addEventListener("pointercancel", () => change(before));
  draggable(handle, {
    moved: (x) => change(settle(low + (x - side) / (width - 2 * side) * (high - low), question)),
    keyed: (dx, dy) => change(settle((guess ?? middle) + step * (dx + dy), question)),
    aria: { "aria-label": "Your guess", "aria-valuemin": low, "aria-valuemax": high },
  });
  handle.style.touchAction = "pan-y";

  const redraw = fitted(element, (w) => {
    width = w;
    const x = (v) => side + (v - low) / (high - low) * (width - 2 * side), at = x(guess ?? middle);
    scale.replaceChildren(node("svg:line", { x1: side, x2: width - side, y1: axis, y2: axis, class: "bl-x-axis" }),
      ...ticks(low, high, width < 420 ? 5 : 10).flatMap((v) => [
        node("svg:line", { x1: x(v), x2: x(v), y1: axis, y2: axis + 5, class: "bl-x-axis" }), label(x(v), axis + 26, show(v))]),
      title && xLabel(width / 2, axis + 46, title));
    const own = guess === null ? "drag to your guess" : `your guess ${withUnit(show(guess), unit)}`;
    // With the answer, the words stand away from each other; those that have no room there stand above the other ones.
    const away = seal && guess !== null ? Math.sign(guess - seal.answer) || 1 : 0;
    const said = seal && `${name} ${quantity(seal.answer, seal.spread, unit)}`, there = seal && x(seal.answer);
    const above = away && (away > 0 ? there : width - there) < wide(said), [mine, its] = above ? [37, 15] : [15, 37];
    handle.classList.toggle("bl-x-unset", guess === null);
    handle.replaceChildren(
      node("svg:rect", { x: 0, y: axis - 40, width, height: 64, class: "bl-x-reach" }),
      node("svg:line", { x1: at, x2: at, y1: mine + 6, y2: axis - 10, class: "bl-x-stem" }),
      node("svg:circle", { cx: at, cy: axis, r: 10, class: "bl-x-ring-of-guess" }),
      words(at, mine, own, away, width));
    handle.style.display = seal && guess === null ? "none" : "";
    if (seal) {
      const { answer, spread } = seal;
      const ends = spread === null ? [] : [answer - spread, answer + spread].map((v) => x(Math.max(low, Math.min(high, v))));
      seen.replaceChildren(node("svg:line", { x1: there, x2: there, y1: its + 6, y2: axis - 6, class: "bl-x-stem" }),
        ...(ends.length ? [node("svg:path", { class: "bl-x-error", "data-spread": spread,
          d: `M${ends[0]} ${axis}H${ends[1]}M${ends[0]} ${axis - 6}v12M${ends[1]} ${axis - 6}v12` })] : []),
        diamond(there, axis, 7, answer), words(there, its, said, -away, width));
    } else seen.replaceChildren();
    return axis + (title ? 54 : 34);
  });

  return {
    element,
    valid: (v) => onAxis(v, question),
    hint: () => "Place your guess first.",
    whole: (v) => v !== null,
    update(newGuess, newSeal) {
      [guess, seal] = [newGuess, newSeal];
      lock(handle, seal);
      handle.setAttribute("aria-valuenow", guess ?? middle);
      handle.setAttribute("aria-valuetext", guess === null ? "no guess yet" : withUnit(show(guess), unit));
      element.setAttribute("aria-label", !seal ? "Axis of your guess"
        : `${guess === null ? "" : `Your guess ${show(guess)}, `}${name} ${quantity(seal.answer, seal.spread, unit)}`);
      redraw();
    },
    result: (v, { answer, spread }) => [`${measured ? "Measured" : "The answer"}: ${quantity(answer, spread, unit)}.`,
      v === null ? "" : `Your guess of ${withUnit(show(v), unit)} ${verdict(v, answer, spread, question)}`],
  };
}

function optionList({ options, measured }, change) {
  const group = `bl-predict-${Math.random().toString(36).slice(2)}`;
  const inputs = options.map((_, value) => node("input", { type: "radio", name: group, value }));
  const tags = options.map(() => node("span", { class: "bl-x-tag" }));
  const labels = options.map((text, i) =>
    node("label", { class: "bl-x-option" }, inputs[i], node("span", {}, ...marked(text)), tags[i]));
  inputs.forEach((input, i) => input.addEventListener("change", () => change(i)));
  const element = node("fieldset", { class: "bl-x-options" }, ...labels);
  return {
    element,
    valid: (v) => Number.isInteger(v) && v >= 0 && v < options.length,
    hint: () => "Choose one first.",
    whole: (v) => v !== null,
    update(guess, seal) {
      element.disabled = Boolean(seal);
      labels.forEach((label, i) => {
        inputs[i].checked = i === guess;
        const right = seal && i === seal.answer, wrong = seal && i === guess && !right;
        label.dataset.verdict = right ? "right" : wrong ? "wrong" : "";
        tags[i].textContent = right ? `✓ ${i === guess ? "your guess, and right" : "this is it"}` : wrong ? "✗ your guess" : "";
      });
    },
    result: (v, { answer }) => [v === answer ? "You guessed right: " : measured ? "Measured: " : "The answer is: ",
      ...marked(options[answer]), "."],
  };
}

function drawnLine(question, change) {
  const { x: names, low, high, xlabel, ylabel, unit, given, measured } = question, count = names.length;
  const left = 44, top = 58, bottom = 240, step = nice((high - low) / 100), middle = settle((low + high) / 2, question);
  const name = measured ? "measured" : "answer", free = names.map((_, i) => i).filter((i) => given[i] === null);
  let width = 340, guess = given, seal = null, last = null;
  const cell = () => (width - 8 - left) / count, x = (i) => left + cell() * (i + 0.5);
  const y = (v) => bottom - (v - low) / (high - low) * (bottom - top);
  const value = (height) => settle(low + (bottom - height) / (bottom - top) * (high - low), question);

  // One stroke sets every point that it passes; a fast one jumps over some, which then lie on its straight way.
  function stroke(px, py) {
    const [fromX, fromY] = last ?? [px, py], under = Math.max(0, Math.min(count - 1, Math.floor((px - left) / cell())));
    last = [px, py];
    change(guess.map((v, i) => {
      if (given[i] !== null) return given[i];
      if (i === under) return value(py);
      return (x(i) - fromX) * (x(i) - px) < 0 ? value(fromY + (x(i) - fromX) / (px - fromX) * (py - fromY)) : v;
    }));
  }

  const scale = node("svg:g"), path = node("svg:path", { class: "bl-x-line-of-guess" });
  const fixed = node("svg:g", { class: "bl-x-given" }), seen = node("svg:g", { class: "bl-x-appears" });
  const points = free.map((i) => {
    const point = node("svg:g", { class: "bl-x-handle" });
    point.addEventListener("pointerdown", () => { last = null; });
    return draggable(point, {
      moved: stroke,
      keyed: (dx, dy) => change(Object.assign([...guess], { [i]: settle((guess[i] ?? middle) + step * (dx + dy), question) })),
      aria: { "aria-label": `Your guess at ${names[i]} (${xlabel})`, "aria-orientation": "vertical", "aria-valuemin": low,
        "aria-valuemax": high },
    });
  });
  const element = node("svg:svg", { role: "group" }, scale, path, fixed, ...points, seen);

  const redraw = fitted(element, (w) => {
    width = w;
    scale.replaceChildren(yLabel(0, 14, ylabel), ...ticks(low, high, 5).flatMap((v) => gridline(y(v), width - 8, show(v))),
      ...names.map((text, i) => label(x(i), bottom + 20, text)), xLabel((left + width - 8) / 2, bottom + 42, xlabel));
    const linked = (i) => i > 0 && guess[i - 1] !== null;
    path.setAttribute("d", guess.map((v, i) => (v === null ? "" : `${linked(i) ? "L" : "M"}${x(i)} ${y(v)}`)).join(""));
    fixed.replaceChildren(...given.flatMap((v, i) => (v === null ? [] : [
      node("svg:rect", { x: x(i) - 6, y: y(v) - 6, width: 12, height: 12 }), label(x(i), y(v) - 14, `given ${show(v)}`)])));
    const begun = free.some((i) => guess[i] !== null);
    points.forEach((point, n) => {
      const i = free[n], v = guess[i], at = y(v ?? middle);
      point.classList.toggle("bl-x-unset", v === null);
      // It is reached in its column, and in those of given points before it, where a stroke begins (or after the last one).
      const from = n ? free[n - 1] + 1 : 0, to = n === free.length - 1 ? count : i + 1;
      point.replaceChildren(node("svg:rect", { x: left + from * cell(), y: top - 16, width: (to - from) * cell(),
        height: bottom - top + 32, class: "bl-x-reach" }),
        node("svg:circle", { cx: x(i), cy: at, r: seal ? 6 : 9, class: "bl-x-ring-of-guess", "data-value": v ?? "" }),
        ...(seal || v === null ? [] : [words(x(i), at - 16, show(v), 0, width)]));
      point.style.display = seal && v === null ? "none" : "";
    });
    seen.replaceChildren(...(seal ? result() : begun ? [] : [words(width - 8, 32, "drag across to draw your line", -1, width,
      "bl-x-invitation")]));
    return bottom + 50;
  });

  // The measured line. The numbers of both lines stand outside the gap between the two.
  function result() {
    const { answer, spread } = seal;
    const beside = (i, v, above, of) => words(x(i), y(v) + (above ? -14 : 23), show(v), 0, width, of);
    return [
      node("svg:path", { class: "bl-x-line-seen", d: answer.map((v, i) => `${i ? "L" : "M"}${x(i)} ${y(v)}`).join("") }),
      ...(spread ?? []).flatMap((s, i) => {
        if (given[i] !== null) return [];
        const [from, to] = [answer[i] - s, answer[i] + s].map((v) => y(Math.max(low, Math.min(high, v))));
        const d = `M${x(i)} ${from}V${to}m-6 0h12M${x(i) - 6} ${from}h12`;
        return [node("svg:path", { class: "bl-x-error", "data-spread": s, d })];
      }),
      ...answer.flatMap((v, i) => (v === given[i] ? [] : [diamond(x(i), y(v), 5, v)])),
      ...free.flatMap((i) => {
        const above = guess[i] === null || answer[i] >= guess[i];
        return [beside(i, answer[i], above, ""), ...(guess[i] === null ? [] : [beside(i, guess[i], !above, "bl-x-of-guess")])];
      }),
      words(width - 8, 32, `◆ ${name}`, -1, width),
      ...(guess.includes(null) ? [] : [words(width - 8 - wide(`${name}     `), 32, "○ your guess", -1, width, "bl-x-of-guess")]),
    ];
  }

  const complete = (v) => v ?? given;
  return {
    element,
    valid: (all) => Array.isArray(all) && all.length === count && all.every((v) => v === null || onAxis(v, question)),
    hint: (v) => {
      const open = complete(v).filter((p) => p === null).length;
      return open === free.length ? "Draw your line first." : `${open} ${open > 1 ? "points" : "point"} to go.`;
    },
    whole: (v) => !complete(v).includes(null),
    update(newGuess, newSeal) {
      [guess, seal] = [complete(newGuess), newSeal];
      points.forEach((point, n) => {
        const v = guess[free[n]];
        lock(point, seal);
        point.setAttribute("aria-valuenow", v ?? middle);
        point.setAttribute("aria-valuetext", v === null ? "no guess yet" : withUnit(show(v), unit));
      });
      element.setAttribute("aria-label", !seal ? `${ylabel} against ${xlabel}: your guess` : `${ylabel} against ${xlabel}. `
        + names.map((text, i) => `At ${text}: ${guess[i] === null ? "" : `your guess ${show(guess[i])}, `}${name} `
          + quantity(seal.answer[i], seal.spread ? seal.spread[i] : null, unit)).join(". "));
      redraw();
    },
    result(all, { answer, spread }) {
      const v = complete(all);
      if (v.includes(null) || !free.length) return [`${measured ? "Measured" : "The answer"}: the line with the diamonds.`];
      const off = free.map((i) => v[i] - answer[i]), sizes = off.map((d) => +Math.abs(d).toPrecision(4));
      if (!Math.max(...sizes)) return ["Your line is exactly that."];
      if (spread && sizes.every((d, n) => d <= spread[free[n]])) return ["All of your line lies within the spread."];
      const most = sizes.indexOf(Math.max(...sizes)), average = +mean(sizes).toPrecision(3);
      return [`Your line is off by ${difference(average, unit)} on average.`,
        `It is furthest off at ${names[free[most]]} (${xlabel}): too ${off[most] > 0 ? "high" : "low"} by `
          + `${difference(sizes[most], unit)}.`];
    },
  };
}

// After the answer a guess stays what it was.
function lock(handle, locked) {
  handle.setAttribute("aria-disabled", Boolean(locked));
  handle.setAttribute("tabindex", locked ? -1 : 0);
  handle.style.pointerEvents = locked ? "none" : ""; // so that a finger there scrolls the page
}

// Where the browser keeps the guess: one place for each page and question (FNV-1a of what is asked).
function keeper(asked) {
  const hash = Array.from(asked).reduce((h, c) => Math.imul(h ^ c.codePointAt(0), 16777619) >>> 0, 2166136261);
  const key = `bl-predict:${location.pathname}:${hash.toString(36)}`;
  return {
    recall() { try { return JSON.parse(localStorage.getItem(key)); } catch { return null; } },
    keep(guess, revealed) {
      try {
        if (guess === null && !revealed) localStorage.removeItem(key);
        else localStorage.setItem(key, JSON.stringify({ guess, revealed }));
      } catch { /* a browser that keeps nothing */ }
    },
  };
}

function render({ model, el }) {
  const kind = model.get("kind"), question = model.get("question"), prompt = model.get("prompt");
  const store = keeper(JSON.stringify([kind, prompt, question]));
  const change = (guess) => model.get("revealed") || put(model, { guess });
  const input = { number: numberAxis, choice: optionList, line: drawnLine }[kind](question, change);
  const id = `bl-predict-${Math.random().toString(36).slice(2)}`;
  input.element.setAttribute("aria-describedby", id);
  if (kind === "choice") input.element.setAttribute("aria-labelledby", id);

  const hint = node("span", { class: "bl-x-small" });
  const reveal = button(question.measured ? "Show what was measured" : "Show the answer", () => {
    put(model, { revealed: true });
    result.focus({ preventScroll: true }); // the button is gone
  });
  const again = button("Guess again", () => {
    put(model, { guess: null, revealed: false });
    input.element.querySelector("input, [tabindex]")?.focus({ preventScroll: true });
  });
  reveal.classList.add("bl-x-reveal");
  again.classList.add("bl-x-again");
  const result = node("div", { class: "bl-x-result", "aria-live": "polite", tabindex: -1 });
  el.append(node("div", { class: "bl-x bl-x-predict" },
    node("p", { class: "bl-x-prompt", id }, node("strong", { class: "bl-x-predict-mark" }, "Predict"), " ", ...marked(prompt)),
    input.element, node("div", { class: "bl-x-buttons" }, reveal, hint), result, again));

  // What Python has set counts more than what the browser has kept.
  const kept = model.get("guess") === null && !model.get("revealed") && store.recall();
  if (kept && (kept.guess === null || input.valid(kept.guess))) put(model, { guess: kept.guess, revealed: !!kept.revealed });

  let shown = null;
  return watch(model, ["guess", "revealed"], () => {
    const given = model.get("guess"), guess = input.valid(given) ? given : null, revealed = model.get("revealed");
    const seal = revealed ? JSON.parse(new TextDecoder().decode(decode(model.get("sealed")))) : null;
    input.update(guess, seal);
    reveal.hidden = revealed;
    again.hidden = !revealed;
    reveal.disabled = !input.whole(guess);
    hint.textContent = revealed || !reveal.disabled ? "" : input.hint(guess);
    store.keep(guess, revealed);
    const key = revealed && JSON.stringify(guess);
    if (key === shown) return;
    shown = key; // said once, and not at every movement
    const [first, ...rest] = seal ? input.result(guess, seal) : [];
    result.replaceChildren(...(seal ? [node("p", {}, node("strong", {}, first), " ", ...rest),
      seal.why && node("p", { class: "bl-x-why" }, ...marked(seal.why))].filter(Boolean) : []));
  });
}

export default { render };
