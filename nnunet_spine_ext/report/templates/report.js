"use strict";
(() => {
  const body = document.body;
  const cases = Array.from(document.querySelectorAll("details.case"));
  let current = -1;

  const press = (group, button) => {
    for (const other of group.querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(other === button));
    }
  };
  const choose = (kind, value) => {
    const button = document.querySelector(`.group button[data-${kind}="${value}"]`);
    if (!button) return;
    body.dataset[kind] = value;
    press(button.parentElement, button);
  };
  const shown = () => cases.filter((c) => !c.hidden);
  const filter = (value) => {
    for (const c of cases) {
      c.hidden = !(value === "all" || c.dataset.status === value || (value === "warned" && "warned" in c.dataset));
    }
    document.querySelector(".hint.empty").hidden = shown().length > 0;
  };
  const go = (step) => {
    const list = shown();
    if (!list.length) return;
    const at = list.indexOf(cases[current]);
    const next = list[Math.min(list.length - 1, Math.max(0, at < 0 ? (step > 0 ? 0 : list.length - 1) : at + step))];
    // One open case at a time while walking: the browser keeps few pictures decoded.
    if (current >= 0 && cases[current] !== next) cases[current].open = false;
    select(next);
  };
  const select = (chosen) => {
    if (current >= 0) cases[current].classList.remove("current");
    current = cases.indexOf(chosen);
    chosen.classList.add("current");
    chosen.open = true;
    chosen.scrollIntoView({ block: "start" });
  };
  const follow = () => {
    const target = cases.find((c) => `#${c.id}` === location.hash);
    if (target) {
      target.hidden = false;
      select(target);
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const data = button.dataset;
    if (data.filter) {
      filter(data.filter);
      press(button.parentElement, button);
    } else if (data.mode) choose("mode", data.mode);
    else if (data.what) choose("what", data.what);
    else if (data.all) for (const c of shown()) c.open = data.all === "open";
  });
  document.addEventListener("input", (event) => {
    if ("alpha" in event.target.dataset) {
      document.documentElement.style.setProperty("--alpha", String(event.target.value / 100));
    } else if ("names" in event.target.dataset) body.dataset.names = event.target.checked ? "on" : "off";
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
    const key = event.key;
    if (key === "j" || key === "ArrowRight") go(1);
    else if (key === "k" || key === "ArrowLeft") go(-1);
    else if (key === "o" && current >= 0) cases[current].open = !cases[current].open;
    else if (key === "1") choose("mode", "overlay");
    else if (key === "2") choose("mode", "outline");
    else if (key === "3") choose("mode", "plain");
    else if (key === "s") choose("what", body.dataset.what === "classes" ? "instances" : "classes");
    else return;
    event.preventDefault();
  });
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = cases.filter((c) => !c.open);
    for (const c of closed) c.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const c of closed) c.open = false;
  });
  window.addEventListener("hashchange", follow);
  follow();
})();
