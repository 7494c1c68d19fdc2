// Mounts the figures of a static page. A figure's module expects the model of a live widget; `Model` is as much of one as
// a page without a kernel can honour. Each figure's settings are kept in the page's address, so that they can be linked to.
(() => {
  class Model {
    constructor(state) { this.state = state; this.listeners = new Map(); this.onSave = () => {}; }
    get(name) { return this.state[name]; }
    set(name, value) {
      if (Object.is(this.state[name], value)) return;
      this.state[name] = value;
      for (const listener of [...(this.listeners.get("change:" + name) ?? [])]) listener();
    }
    save_changes() { this.onSave(); }
    on(event, listener) {
      if (!this.listeners.has(event)) this.listeners.set(event, new Set());
      this.listeners.get(event).add(listener);
    }
    off(event, listener) { this.listeners.get(event)?.delete(listener); }
  }

  // A setting of the address counts only if a reader could have made it with the figure's own controls.
  function allowed(value, limits) {
    if (limits.of) return limits.of.includes(value);
    return typeof value === "number" && value >= limits[0] && value <= limits[1] && !(limits[2] === 1 && value % 1);
  }

  function parse(text) {
    try { return JSON.parse(text); } catch { return text; }
  }

  function keepInAddress(model, id) {
    const limits = model.get("limits") ?? {}, given = new URLSearchParams(location.search), defaults = { ...model.state };
    for (const [name, range] of Object.entries(limits)) {
      const value = given.has(`${id}.${name}`) ? parse(given.get(`${id}.${name}`)) : undefined;
      if (value !== undefined && allowed(value, range)) model.state[name] = value;
    }
    if (!Object.keys(limits).length) return; // nothing to link to
    let timer;
    model.onSave = () => {
      clearTimeout(timer); // browsers refuse an address that changes too often
      timer = setTimeout(() => {
        const address = new URL(location.href);
        for (const name of Object.keys(limits)) {
          if (Object.is(model.state[name], defaults[name])) address.searchParams.delete(`${id}.${name}`);
          else address.searchParams.set(`${id}.${name}`, model.state[name]);
        }
        address.hash = `figure-${id}`; // whoever follows the link arrives here
        try { history.replaceState(history.state, "", address); } catch { /* a folder without a server: no address to keep */ }
      }, 150);
    };
  }

  const loaded = {};
  function load(name) {
    loaded[name] ??= import(URL.createObjectURL(new Blob([BL_KIT, BL_MODULES[name]], { type: "text/javascript" })));
    return loaded[name];
  }

  async function mount(figure, id) {
    const name = figure.dataset.explorable;
    figure.dataset.state = "loading";
    try {
      const model = new Model(JSON.parse(figure.querySelector('script[type="application/json"]').textContent));
      keepInAddress(model, id);
      const { default: module } = await load(name), el = document.createElement("div");
      module.render({ model, el });
      figure.append(el);
      figure.querySelector(".bl-fallback").remove();
      figure.model = model;
      figure.dataset.state = "ready";
    } catch (error) {
      figure.dataset.state = "error"; // the picture stays
      console.error(`figure ${name}:`, error);
    }
  }

  const seen = {};
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      mount(target, target.id.slice(7));
    }
  }, { rootMargin: "400px" });
  for (const figure of document.querySelectorAll(".bl-explorable")) {
    const name = figure.dataset.explorable;
    seen[name] = (seen[name] ?? 0) + 1;
    figure.id = "figure-" + (seen[name] === 1 ? name : `${name}-${seen[name]}`);
    near.observe(figure);
  }
  // The ids are made here, after the browser has looked for the place that the address names.
  if (location.hash.startsWith("#figure-")) document.getElementById(location.hash.slice(1))?.scrollIntoView();
})();
