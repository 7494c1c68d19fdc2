// Softmax with a temperature: what a teacher says of one picture, and how hard it pulls at a student.

export const entropy = (p) => -p.reduce((sum, v) => sum + (v > 0 ? v * Math.log(v) : 0), 0);

// Minus the gradient, at the student's logits, of T^2 KL(teacher || student); without the factor T^2 where not scaled.
export function pull(teacher, student, T, scaled) {
  const p = softmax(teacher, T), q = softmax(student, T);
  return p.map((v, i) => (v - q[i]) * (scaled ? T : 1 / T));
}

function render({ model, el }) {
  const root = node("div", { class: "bl-x bl-x-softmax" });
  const body = node("tbody");
  const answer = node("p", { class: "bl-x-answer", "aria-live": "polite" });
  const check = node("input", { type: "checkbox", "data-trait": "scaled" });
  check.addEventListener("change", () => put(model, { scaled: check.checked }));
  const picture = model.get("image")
    ? [node("img", { src: model.get("image"), alt: model.get("image_alt"), class: "bl-x-picture" })] : [];
  root.append(
    node("div", { class: "bl-x-head" }, ...picture, node("div", { class: "bl-x-controls" },
      slider(model, "temperature", "Temperature", (T) => "T = " + T.toPrecision(3)),
      node("label", { class: "bl-x-check" }, check, "gradient times T²"))),
    node("table", {}, node("thead", {}, node("tr", {}, ...["class", "soft label", "pull on the student"]
      .map((text) => node("th", { scope: "col" }, text)))), body), answer);
  el.append(root);

  return watch(model, ["logits", "student", "labels", "temperature", "scaled"], () => {
    const z = model.get("logits"), T = model.get("temperature"), scaled = model.get("scaled"), labels = model.get("labels");
    const p = softmax(z, T), g = pull(z, model.get("student"), T, scaled);
    check.checked = scaled;
    body.replaceChildren(...labels.map((label, i) => node("tr", {}, node("th", { scope: "row" }, label),
      barCell(p[i], p[i].toFixed(3)),
      // Half of the cell is one unit of pull to either side.
      node("td", { "data-pull": g[i], class: "bl-x-signed" },
        node("span", { class: "bl-x-bar", style: `left:${50 + Math.min(0, 45 * clip(g[i]))}%;width:${45 * Math.abs(clip(g[i]))}%` }),
        node("span", { class: "bl-x-number" }, (g[i] < 0 ? "−" : "+") + Math.abs(g[i]).toFixed(3))))));
    const h = entropy(p), first = p.indexOf(Math.max(...p));
    answer.dataset.entropy = h;
    answer.textContent = `Entropy ${h.toFixed(2)} of at most ${Math.log(p.length).toFixed(2)} nats. `
      + `Most likely: ${labels[first]}, with ${p[first].toFixed(2)}.`;
  });
}

const clip = (v) => Math.max(-1, Math.min(1, v));

export default { render };
