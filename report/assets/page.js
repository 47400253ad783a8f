"use strict";
// The gallery, its marks and the sortable tables of the report page. Data: see report/page.py, `data`.
// At most PAGE images are in the page at a time, and their pictures are filled in when they come near the window.

const PAGE = 24;
const SIZES = ["small", "medium", "large"];
const data = JSON.parse(document.getElementById("data").textContent);
const controls = document.getElementById("controls");
const cards = document.getElementById("cards");
const gallery = document.getElementById("gallery");
const classes = document.getElementById("class");
const find = document.getElementById("find");
const size = document.getElementById("size");
const only = document.getElementById("only");
const start = { sort: "confidence", order: "up", class: "", find: "", page: 1, size: "medium", only: "" };
let state = { ...start };
let shown = [];

// --- which images, in which order ---

const classOf = (image) => image.labels.map(([label]) => label).find((label) => label !== data.background) ?? Infinity;

const nameOf = (label) => data.labels[label].name;

const holds = (image, label) => image.labels.some(([own]) => own === label) || image.cams.includes(label);

const namesOf = (image) =>
  [...image.labels.map(([label]) => label), ...image.cams].filter((label) => label !== data.background).map(nameOf);

function iouOf(image) {
  if (state.class === "") return image.iou;
  const entry = image.labels.find(([label]) => label === Number(state.class));
  return entry ? entry[1] : null;
}

function compare(one, other) {
  // What has no value comes last in either direction; ties: least certain first, then by id.
  const key = { confidence: (image) => image.kept, iou: iouOf, class: classOf }[state.sort];
  const [a, b] = [key(one), key(other)];
  const sign = state.order === "up" ? 1 : -1;
  if (a !== b) {
    if (a === null || b === null) return a === null ? 1 : -1;
    return a < b ? -sign : sign;
  }
  return one.kept - other.kept || (one.id < other.id ? -1 : 1);
}

function select() {
  const wanted = state.find.toLowerCase();
  shown = data.images.filter((image) =>
    (state.class === "" || holds(image, Number(state.class))) && (!state.only || marked.has(image.id)) &&
    (image.id.toLowerCase().includes(wanted) || namesOf(image).some((name) => name.toLowerCase().includes(wanted))));
  shown.sort(compare);
  state.page = Math.min(Math.max(1, state.page), pages());
}

const pages = () => Math.max(1, Math.ceil(shown.length / PAGE));

// --- one image ---

function make(name, text, properties = {}) {
  const element = Object.assign(document.createElement(name), properties);
  if (text) element.textContent = text;
  return element;
}

const percent = (share) => share === null ? "–" : (100 * share).toFixed(1) + " %";

function picture(image, caption, alt, layers) {
  const figure = make("figure");
  const box = make("div", "", { className: "picture" });
  box.style.aspectRatio = `${image.width} / ${image.height}`;
  for (const layer of layers) {
    const img = make("img", "", { alt: layer === layers[0] ? alt : "", className: layer === layers[0] ? "" : "over" });
    img.dataset.tile = layer;
    box.append(img);
  }
  figure.append(box, make("figcaption", caption));
  return figure;
}

function tilesOf(image) {
  const tiles = make("div", "", { className: "tiles" });
  tiles.append(picture(image, "photo", `photo ${image.id}`, [0]));
  const inMask = image.mask.map(nameOf).join(", ");
  tiles.append(picture(image, "mask", `mask of ${image.id}: ${inMask || "nothing"}`, [1]));
  if (image.truth) {
    tiles.append(picture(image, "truth", `ground truth of ${image.id}`, [2]));
    tiles.append(picture(image, "difference", `where the mask of ${image.id} is right and wrong`, [3]));
  }
  image.cams.forEach((label, index) => tiles.append(
    picture(image, `CAM ${nameOf(label)}`, `where CLIP sees ${nameOf(label)} in ${image.id}`, [0, 4 + index])));
  if (image.groups) tiles.append(picture(image, "groups", `groups of ${image.id}`, [4 + image.cams.length]));
  return tiles;
}

function chipsOf(image) {
  const chips = make("ul", "", { className: "chips" });
  for (const [label, iou] of image.labels) {
    const chip = make("li");
    const colour = make("i");
    colour.style.backgroundColor = data.labels[label].colour;
    const score = image.iou === null ? "" : iou === null ? " (not in the truth)" : " " + percent(iou);
    chip.append(colour, nameOf(label) + score);
    chips.append(chip);
  }
  return chips;
}

function card(image) {
  const article = make("article", "", { className: "card" });
  article.dataset.index = image.index;
  article.dataset.id = image.id;
  article.tabIndex = -1;
  const header = make("header");
  const iou = image.iou === null ? "" : `IoU ${percent(image.iou)} · `;
  const mark = make("button", "", { type: "button" });
  mark.dataset.mark = image.id;
  mark.addEventListener("click", () => toggle(article));
  header.append(make("h3", image.id), make("p", `${iou}kept ${percent(image.kept)}`, { className: "numbers" }), mark);
  article.append(header, tilesOf(image), chipsOf(image));
  if (image.problem) article.append(make("p", image.problem, { className: "warning small" }));
  showMark(article);
  return article;
}

// --- marks: kept by the browser for this file, and written out as split files ---

const KEY = "marked " + location.pathname;
const known = new Set(data.ids);
const marked = new Set(keptMarks());

function keptMarks() {
  try { return JSON.parse(localStorage.getItem(KEY) ?? "[]").filter((id) => known.has(id)); } catch { return []; }
}

function toggle(article) {
  const id = article.dataset.id;
  if (!marked.delete(id)) marked.add(id);
  showMark(article);
  showMarks();
}

function showMark(article) {
  const own = marked.has(article.dataset.id);
  const button = article.querySelector("[data-mark]");
  article.classList.toggle("marked", own);
  button.textContent = own ? "marked" : "mark";
  button.setAttribute("aria-pressed", own);
  button.setAttribute("aria-label", "mark " + article.dataset.id);
}

function showMarks() {
  try { localStorage.setItem(KEY, JSON.stringify([...marked])); } catch { /* the marks last as long as the page */ }
  const count = (number) => `${number} image${number === 1 ? "" : "s"}`;
  document.getElementById("marked").textContent = `${count(marked.size)} marked`;
  document.getElementById("others").textContent = `${count(known.size - marked.size)} not marked`;
}

function setUpMarks() {
  for (const [name, wanted] of [["marked", true], ["others", false]]) {
    const link = document.getElementById(name);
    link.addEventListener("click", () => {
      const lines = data.ids.filter((id) => marked.has(id) === wanted).map((id) => id + "\n");
      if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
      link.href = URL.createObjectURL(new Blob(lines, { type: "text/plain" }));
    });
  }
  document.getElementById("clear").addEventListener("click", () => {
    marked.clear();
    showMarks();
    render();
  });
  showMarks();
  document.getElementById("marks").hidden = false;
}

// --- the keyboard ---

const STEPS = { j: 1, ArrowRight: 1, k: -1, ArrowLeft: -1 };

function step(by) {
  const articles = [...cards.children];
  const here = articles.indexOf(document.activeElement?.closest(".card"));
  let next = here < 0 ? 0 : here + by;
  if (here >= 0 && (next < 0 || next >= articles.length)) {
    if (state.page + by < 1 || state.page + by > pages()) return;
    change({ page: state.page + by });
    next = by > 0 ? 0 : cards.children.length - 1;
  }
  const article = cards.children[next];
  article?.focus({ preventScroll: true });
  article?.scrollIntoView({ block: "nearest" });
}

function press(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select")) return;
  const article = document.activeElement?.closest(".card");
  if (event.key in STEPS) step(STEPS[event.key]);
  else if (event.key === "m" && article) toggle(article);
  else return;
  event.preventDefault();
}

// --- pictures, when they come near ---

// Tiles come after this script, so that a long page can be used before all of it is read.
const loading = () => document.readyState === "loading";
const waiting = new Set();

function fill(article) {
  const block = document.getElementById("tiles-" + article.dataset.index);
  if (loading() && !block?.nextSibling) {
    waiting.add(article);
    return;
  }
  const tiles = block ? block.textContent.trim().split(" ") : [];
  for (const img of article.querySelectorAll("img")) {
    const tile = tiles[img.dataset.tile];
    if (tile && tile !== "-") img.src = "data:image/webp;base64," + tile;
    else img.closest(".picture").title = img.alt = "missing";
  }
}

const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    fill(entry.target);
  }
}, { rootMargin: "300px" });

// --- the page ---

function pager(nav) {
  const buttons = [["first", "«", 1], ["previous", "‹", state.page - 1], ["next", "›", state.page + 1],
    ["last", "»", pages()]].map(([name, sign, page]) => {
    const button = make("button", sign, { type: "button", disabled: page === state.page || page < 1 || page > pages() });
    button.setAttribute("aria-label", name + " page");
    button.dataset.page = name;
    button.addEventListener("click", () => turn(page, nav, name));
    return button;
  });
  buttons.splice(2, 0, make("span", `page ${state.page} of ${pages()}`));
  nav.replaceChildren(...buttons);
}

function turn(page, nav, name) {
  change({ page });
  const button = nav.querySelector(`[data-page=${name}]`);
  if (nav.getAttribute("aria-label").includes("below")) document.querySelector(".bar").scrollIntoView();
  if (!button.disabled) button.focus({ preventScroll: true });
}

function describe() {
  const what = state.class === "" ? "" : ` with ${nameOf(state.class)}`;
  const words = {
    confidence: ["least certain first", "most certain first"],
    iou: ["lowest IoU first", "highest IoU first"],
    class: ["by class", "by class, last one first"],
  }[state.sort][state.order === "up" ? 0 : 1];
  const among = state.only ? ", marked only" : "";
  const which = state.sort === "iou" && state.class !== "" ? ` (IoU of ${nameOf(state.class)})` : "";
  return `${shown.length} of ${data.images.length} images${what}${among}, ${words}${which}`;
}

function render() {
  select();
  near.disconnect();
  waiting.clear();
  const part = shown.slice((state.page - 1) * PAGE, state.page * PAGE).map(card);
  cards.replaceChildren(...part);
  part.forEach((article) => near.observe(article));
  document.getElementById("status").textContent = describe();
  document.querySelectorAll(".pager").forEach(pager);
  for (const button of controls.querySelectorAll("[data-sort]")) {
    const mine = button.dataset.sort === state.sort;
    button.setAttribute("aria-pressed", mine);
    button.querySelector("span").textContent = mine ? (state.order === "up" ? "↑" : "↓") : "";
  }
  [classes.value, size.value] = [state.class, state.size];
  only.checked = Boolean(state.only);
  if (find.value !== state.find) find.value = state.find;
  gallery.dataset.size = state.size;
}

function change(values) {
  state = { ...state, ...values };
  render();
  const differing = Object.entries(state).filter(([name, value]) => value !== start[name]);
  const hash = "#" + (new URLSearchParams(differing).toString() || "gallery");
  try { history.replaceState(null, "", hash); } catch { /* the view is kept without its address */ }
}

function readHash() {
  const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  state = { ...start };
  if (["confidence", "iou", "class"].includes(given.sort)) state.sort = given.sort;
  if (given.order === "down") state.order = "down";
  if (/^\d+$/.test(given.class) && data.labels[given.class]) state.class = given.class;
  if (SIZES.includes(given.size)) state.size = given.size;
  state.find = given.find ?? "";
  if (given.only === "1") state.only = "1";
  state.page = Number.parseInt(given.page ?? "1", 10) || 1;
}

function setUpControls() {
  classes.append(make("option", "all", { value: "" }));
  data.labels.forEach(({ name }, label) => {
    if (label !== data.background) classes.append(make("option", name, { value: label }));
  });
  if (!data.scored) controls.querySelector("[data-sort=iou]").hidden = true;
  for (const button of controls.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const turned = button.dataset.sort === state.sort && state.order === "up";
      change({ sort: button.dataset.sort, order: turned ? "down" : "up", page: 1 });
    });
  }
  classes.addEventListener("change", () => change({ class: classes.value, page: 1 }));
  find.addEventListener("input", () => change({ find: find.value, page: 1 }));
  only.addEventListener("change", () => change({ only: only.checked ? "1" : "", page: 1 }));
  size.addEventListener("change", () => change({ size: size.value }));
  document.addEventListener("keydown", press);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
}

function sortTable(button) {
  const head = button.closest("th");
  const column = head.cellIndex;
  const body = button.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") !== (column ? "descending" : "ascending") ? column > 0 : column === 0;
  const key = (row) => column ? Number(row.cells[column].dataset.value) : row.cells[0].textContent.trim();
  const rows = [...body.rows].sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (down ? -1 : 1));
  body.append(...rows);
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
}

document.querySelectorAll("table.sortable th button").forEach((button) =>
  button.addEventListener("click", () => sortTable(button)));
setUpControls();
setUpMarks();
readHash();
render();
document.addEventListener("DOMContentLoaded", () => waiting.forEach(fill));
window.addEventListener("hashchange", () => {
  readHash();
  render();
  gallery.scrollIntoView();
});
