// Who is right, the model or the label? A blind vote on the images about which they disagree, and a tally of it.

export const NONE = -1, NEITHER = 2;

// Of the model's mistakes, the votes for the model, for the label and for neither; of the planted labels, those caught.
export function tally(items, votes) {
  const found = { model: 0, label: 0, neither: 0, voted: 0, planted: 0, caught: 0 };
  items.forEach((item, i) => {
    const vote = votes[i];
    if (vote === NONE) return;
    if (item.planted) {
      found.planted++;
      found.caught += vote === 1 - item.label ? 1 : 0;
      return;
    }
    found.voted++;
    found[vote === NEITHER ? "neither" : vote === item.label ? "label" : "model"]++;
  });
  return found;
}

const SIDES = [["model", "for the model"], ["neither", "cannot tell, or neither"], ["label", "for the label"]];

function render({ model, el }) {
  const get = (name) => model.get(name), items = get("items"), last = items.length - 1;
  const votes = () => (get("votes").length === items.length ? get("votes") : items.map(() => NONE));
  const left = () => votes().filter((v) => v === NONE).length;
  const go = (to) => put(model, { at: Math.min(last, Math.max(0, to)) });

  const vote = (choice) => {
    if (get("shown")) return; // once the labels are on the table, the ballot is closed
    const now = votes().slice(), at = get("at");
    now[at] = choice;
    const open = [...now.keys()].map((i) => (at + 1 + i) % now.length).find((i) => now[i] === NONE);
    put(model, { votes: now, at: open ?? at });
  };

  const picture = node("img", { class: "bl-judge-image", width: 168, height: 168 });
  const where = node("p", { class: "bl-judge-where", "aria-live": "polite" });
  const ballots = [0, 1, 2].map((choice) => {
    const name = node("span", { class: "bl-judge-name" });
    const b = node("button", { type: "button", class: "bl-x-button bl-judge-vote", "data-vote": choice },
      node("kbd", { "aria-hidden": "true" }, "ABC"[choice]), name);
    b.addEventListener("click", () => vote(choice));
    return { b, name };
  });
  const back = button("Back", () => go(get("at") - 1)), on = button("Next", () => go(get("at") + 1));
  const count = button("Count the votes", () => put(model, { shown: true }));
  const again = button("Start again", () => put(model, { votes: items.map(() => NONE), at: 0, shown: false }));
  const result = node("div", { class: "bl-judge-result", "aria-live": "polite" });
  const bar = node("svg:svg", { class: "bl-judge-bar", role: "img" });
  const said = node("p", { class: "bl-x-answer" }), caught = node("p", { class: "bl-judge-caught" }), list = node("ol", { class: "bl-judge-list" });
  result.append(bar, said, caught, list);
  const root = node("div", { class: "bl-x bl-x-judge", "data-lm-suppress-shortcuts": "true" }, // else JupyterLab takes the keys
    node("div", { class: "bl-judge-stage" }, picture,
      node("div", { class: "bl-judge-side" }, where,
        node("div", { class: "bl-judge-votes", role: "group", "aria-label": "What do you see?" }, ...ballots.map(({ b }) => b)),
        node("div", { class: "bl-judge-ways" }, back, on))),
    node("div", { class: "bl-judge-ways" }, count, again), result);
  root.addEventListener("keydown", (event) => {
    const act = { a: () => vote(0), b: () => vote(1), c: () => vote(2), arrowleft: () => go(get("at") - 1),
      arrowright: () => go(get("at") + 1) }[event.key.toLowerCase()];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  el.append(root);

  const drawBar = fitted(bar, (width) => {
    const found = tally(items, votes()), whole = Math.max(1, found.voted), top = 24, height = 26;
    let x = 0;
    const parts = SIDES.flatMap(([side, words]) => {
      const span = width * found[side] / whole, at = x;
      x += span;
      if (!span) return [];
      return [node("svg:rect", { x: at, y: top, width: Math.max(0, span - 2), height, class: `bl-judge-${side}`, "data-side": side, "data-votes": found[side] }),
        node("svg:text", { x: at + span / 2 - 1, y: top + 18, "text-anchor": "middle", class: "bl-judge-count" }, found[side])];
    });
    bar.replaceChildren(yLabel(0, 14, `your votes on ${found.voted} real disagreements`), ...parts);
    bar.setAttribute("aria-label", SIDES.map(([side, words]) => `${found[side]} ${words}`).join(", "));
    return top + height + 6;
  });

  const stop = watch(model, ["at", "votes", "shown"], () => {
    const at = get("at"), item = items[at], now = votes(), open = left(), shown = get("shown");
    if (!item) return;
    picture.src = item.image;
    picture.alt = `Image ${at + 1}: is it ${item.answers.join(" or ")}?`;
    where.textContent = `Image ${at + 1} of ${items.length}. ${open ? `${open} without a vote.` : "All have a vote."}`;
    const names = [...item.answers, "neither, or I cannot tell"];
    ballots.forEach(({ b, name }, i) => {
      name.textContent = names[i];
      b.setAttribute("aria-pressed", String(now[at] === i));
      b.disabled = shown;
    });
    back.disabled = at === 0;
    on.disabled = at === last;
    count.disabled = shown || open === items.length;
    count.textContent = open && open < items.length ? `Count the ${items.length - open} votes so far` : "Count the votes";
    result.hidden = !shown;
    if (!shown) return;
    const found = tally(items, now);
    Object.assign(said.dataset, found);
    said.replaceChildren(...SIDES.flatMap(([side, words], i) => [i ? ", " : "",
      node("span", { class: `bl-judge-words-${side}` }, `${found[side]} ${words}`)]), ".");
    caught.textContent = found.planted
      ? `Of ${found.planted} labels that were planted wrong, you voted against ${found.caught}.` : "No planted label has a vote.";
    list.replaceChildren(...items.map((each, i) => {
      const v = now[i], yours = v === NONE ? "no vote" : v === NEITHER ? "neither" : each.answers[v];
      return node("li", { "data-item": i, class: each.planted && "bl-judge-planted" },
        node("img", { src: each.image, width: 44, height: 44, alt: `Image ${i + 1}` }),
        node("span", {}, `${each.planted ? "planted: label" : "label"} ${each.answers[each.label]}, model ${each.answers[1 - each.label]}, you: ${yours}`));
    }));
    drawBar();
  });
  return stop;
}

export default { render };
