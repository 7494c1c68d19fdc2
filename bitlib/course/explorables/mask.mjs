// Hidden words: tap words of a sentence to hide them, and see what the network guesses from both sides and from the left alone.

const NONE = -1;
const SIDES = [["both", "from both sides"], ["left", "from the left alone"]];
const percent = (p) => `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)}\u00a0%`;

// The hidden places after a tap on one: it is shown again if it was hidden; of three, the oldest is shown again.
export function tapped(hidden, place) {
  return hidden.includes(place) ? hidden.filter((i) => i !== place) : [...hidden, place].slice(-2);
}

function render({ model, el }) {
  const all = model.get("sentences"), now = () => all[model.get("sentence")];
  const able = (i) => Number.isInteger(i) && /^[a-z]+$/.test(now().words[i] ?? "");
  const hidden = () => [model.get("first"), model.get("second")].filter((i, at, both) => able(i) && both.indexOf(i) === at);
  const line = node("div", { class: "bl-mask-line", role: "group", "aria-label": "The words of the sentence" });
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" }), tables = node("div", { class: "bl-mask-tables" });
  el.append(node("div", { class: "bl-x bl-x-mask" },
    node("div", { class: "bl-x-controls" }, choice(model, "sentence", "Sentence", all.map((_, i) => [i, String(i + 1)]))),
    line, answer, tables));

  let shown = null, words = [];
  const tap = (i) => {
    const [first = NONE, second = NONE] = tapped(hidden(), i);
    put(model, { first, second });
  };
  // One stop of the Tab key for all words; the arrow keys go from one to the next.
  const spell = () => {
    shown = now();
    words = shown.words.map((word, i) => {
      const span = node("span", { class: "bl-mask-word", "data-place": i }, word);
      return able(i) ? clickable(span, word, () => tap(i)) : span;
    });
    const open = words.filter((_, i) => able(i));
    open.forEach((span, at) => {
      span.tabIndex = at ? -1 : 0;
      span.addEventListener("focus", () => open.forEach((other) => { other.tabIndex = other === span ? 0 : -1; }));
      span.addEventListener("keydown", (event) => {
        const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: open.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        open[to]?.focus();
      });
    });
    line.replaceChildren(...words);
  };

  function list(place, guesses, title) {
    const row = ([word, p]) => node("tr", { class: word === now().words[place] ? "bl-mask-true" : false },
      node("th", { scope: "row" }, word), barCell(p, percent(p)));
    return node("table", {}, node("thead", {}, node("tr", {}, node("th", { scope: "col", colspan: 2 }, title))),
      node("tbody", {}, ...guesses.map(row)));
  }

  function draw() {
    if (shown !== now()) spell();
    const places = hidden().sort((a, b) => a - b), key = places.join(",");
    words.forEach((span, i) => {
      if (!able(i)) return;
      const off = places.includes(i);
      span.textContent = off ? "[MASK]" : now().words[i];
      span.setAttribute("aria-pressed", String(off));
      span.setAttribute("aria-label", off ? `hidden: ${now().words[i]}` : now().words[i]);
    });
    answer.dataset.hidden = key;
    if (!places.length) {
      answer.textContent = "Nothing is hidden. Tap a word.";
      return tables.replaceChildren();
    }
    answer.replaceChildren(...places.flatMap((place, i) => {
      const word = now().words[place], [[[both]], [[left]]] = SIDES.map(([side]) => [now()[side][key][i][0]]);
      return [node("strong", {}, `${word}: `), `from both sides the best guess is ${both}${both === word ? ", which is right" : ""}; `
        + `from the left alone ${both === left ? "it is the same" : `it is ${left}`}${left === word && both !== left ? ", which is right" : ""}. `];
    }));
    tables.replaceChildren(...places.map((place, i) => node("section", { class: "bl-mask-place", "data-place": place },
      node("p", { class: "bl-x-title" }, "Guesses for ", node("em", {}, now().words[place])),
      node("div", { class: "bl-mask-sides" }, ...SIDES.map(([side, title]) => {
        const made = list(place, now()[side][key][i], title);
        made.dataset.side = side;
        return made;
      })))));
  }

  model.on("change:sentence", () => put(model, { first: now().start, second: NONE }));
  return watch(model, ["sentence", "first", "second"], draw);
}

export default { render };
