"""The script of a report: what a mark stands for on hover, touch and focus; sorting; picking a class out of the map.

The page shows everything without it. At its end it looks whether every section was drawn, and says so in attributes.
"""

SCRIPT = r"""
"use strict";
const root = document.documentElement;
const tip = document.getElementById("tip");
const thumbs = JSON.parse(document.getElementById("thumbs").textContent);
let current = null;

function show(mark, announce) {
  if (current === mark) return;
  hide();
  current = mark;
  mark.classList.add("now");
  tip.replaceChildren();
  const picture = thumbs[mark.dataset.thumb];
  if (picture) {
    const image = document.createElement("img");
    image.src = picture;
    image.alt = "";
    tip.append(image);
  }
  tip.append(mark.dataset.tip);
  tip.setAttribute("aria-live", announce ? "polite" : "off");
  const box = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const middle = box.left + box.width / 2 - own.width / 2;
  const left = Math.max(8, Math.min(middle, root.clientWidth - own.width - 8));
  const above = box.top - own.height - 10;
  tip.style.transform = `translate(${left}px, ${above < 8 ? box.bottom + 10 : above}px)`;
  tip.style.visibility = "visible";
}

function hide() {
  if (current) current.classList.remove("now");
  current = null;
  tip.style.visibility = "hidden";
}

function shown(marks) {
  return marks.filter((mark) => !mark.classList.contains("dim"));
}

function nearest(svg, marks, event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  let best = null, least = 18 * 18;
  for (const mark of marks) {
    const x = Number(mark.dataset.x) - at.x, y = Number(mark.dataset.y) - at.y;
    if (x * x + y * y < least) { best = mark; least = x * x + y * y; }
  }
  return best;
}

for (const svg of document.querySelectorAll("[data-explore]")) {
  const marks = [...svg.querySelectorAll("[data-tip]")];
  const columns = Number(svg.dataset.columns || 0);
  const point = (event) => {
    const found = "nearest" in svg.dataset ? nearest(svg, shown(marks), event) : event.target.closest("[data-tip]");
    if (found) show(found, false); else hide();
  };
  svg.addEventListener("pointermove", point);
  svg.addEventListener("pointerdown", point);
  svg.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") hide(); });
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns || 1, ArrowUp: -(columns || 1) };
    if (event.key === "Escape") hide();
    if (!(event.key in steps)) return;
    event.preventDefault();
    const among = shown(marks), before = among.indexOf(current);
    const next = before < 0 ? 0 : before + steps[event.key];
    if (among[next]) show(among[next], true);
  });
}
addEventListener("scroll", hide, { passive: true });

for (const table of document.querySelectorAll("table[data-sort]")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const text = head.dataset.kind === "text", before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : text;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const order = (a, b) => text ? key(a).localeCompare(key(b), undefined, { numeric: true }) : key(a) - key(b);
    const rows = [...body.rows].sort((a, b) => up ? order(a, b) : order(b, a));
    body.append(...rows);
  }));
}

function pick(map, wanted) {
  for (const point of map.querySelectorAll("[data-group]")) {
    const groups = point.dataset.group.split(" ");
    point.classList.toggle("dim", wanted !== null && !groups.includes(wanted));
  }
}
for (const legend of document.querySelectorAll("[data-picks]")) {
  const map = document.getElementById(legend.dataset.picks).querySelector("svg.map");
  if (legend.tagName === "SELECT") {
    legend.addEventListener("change", () => pick(map, legend.value === "" ? null : legend.value));
    continue;
  }
  const buttons = [...legend.querySelectorAll("button")];
  for (const button of buttons) button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(on && other === button)));
    pick(map, on ? button.value : null);
  });
}

function drawn(section) {
  const box = section.querySelector(".content").getBoundingClientRect();
  // What a phone leaves out is not missing.
  const wanted = [...section.querySelectorAll("svg")].filter((svg) => !svg.closest(".extra") || svg.checkVisibility());
  const charts = wanted.every((svg) => {
    const outer = svg.getBoundingClientRect(), inner = svg.getBBox();
    return outer.width > 0 && outer.height > 0 && inner.width > 0 && inner.height > 0;
  });
  const images = [...section.querySelectorAll("img")].every((image) => image.complete && image.naturalWidth > 0);
  return box.width > 0 && box.height > 0 && charts && images;
}
addEventListener("load", () => {
  for (const section of document.querySelectorAll("main section")) section.dataset.drawn = String(drawn(section));
  root.dataset.width = String(innerWidth);
  root.dataset.overflow = String(root.scrollWidth > root.clientWidth);
  root.dataset.ready = "true";
});
"""
