/* report.js -- unpacks the profile (_html.py says what is in it), draws the totals, the causes, the
   legend and the table of workers, and holds what the reader has chosen.

   Names come from the profiled application: they reach the page as text nodes only, in <bdi>, so
   that neither markup nor a change of direction gets out of them. */

// How a cause's page is drawn, in the order of Cause in _model.py: colour alone is not enough.
const SHAPES = ["solid", "solid", "solid", "solid", "solid", "solid", "solid", "half", "ring", "ring", "ring", "half", "ring"];

const state = { profile: null, worker: -1, picked: new Set() }; // worker: its index, -1 for all of them
const $ = (id) => document.getElementById(id);
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

function number(value) {
  return value.toLocaleString("en");
}

/* Bytes in the largest unit of which there is one, as size() in _summary.py. */
function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < 3; unit++) bytes /= 1024;
  return `${bytes.toFixed(unit ? 1 : 0)} ${units[unit]}`;
}

/* As percent() in _text.py. */
function percent(share) {
  if (share === null) return "–";
  if (share > 0 && share < 0.001) return "<0.1 %";
  if (share > 0.999 && share < 1) return ">99.9 %";
  return `${(share * 100).toFixed(share === 0 || share === 1 ? 0 : 1)} %`;
}

/* An element; children are elements or strings, which become text. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const name = (text) => element("bdi", {}, text);
const seen = () => state.profile.views[state.worker + 1];
const colours = () => getComputedStyle(document.documentElement);

async function unpack() {
  const packed = Uint8Array.from(atob($("data").textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const profile = await new Response(stream).json();
  for (const worker of profile.workers) {
    const pages = worker.pages;
    let page = 0;
    pages.page = Float64Array.from(pages.step, (step) => (page += step)); // numbers of pages, not addresses
  }
  return profile;
}

function swatch(cause) {
  const canvas = element("canvas", { class: "swatch", "aria-hidden": "true", "data-cause": cause });
  paintSwatch(canvas);
  return canvas;
}

function paintSwatch(canvas) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = canvas.height = 13 * scale;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const cause = Number(canvas.dataset.cause);
  paintCell(pen, 0, 0, 13, cause < 0 ? "shared" : SHAPES[cause], colours().getPropertyValue(cause < 0 ? "--shared" : `--c${cause}`));
}

function paintCell(pen, x, y, side, shape, colour) {
  pen.fillStyle = pen.strokeStyle = colour;
  if (shape === "half") {
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(x + side, y + side);
    pen.lineTo(x, y + side);
    pen.fill();
    pen.lineWidth = 1;
    pen.strokeRect(x + 0.5, y + 0.5, side - 1, side - 1);
  } else if (shape === "ring") {
    pen.lineWidth = side > 9 ? 2.5 : 2;
    const inset = pen.lineWidth / 2;
    pen.strokeRect(x + inset, y + inset, side - 2 * inset, side - 2 * inset);
  } else {
    pen.fillRect(x, y, side, side);
  }
}

function drawFamily() {
  const { workers, parent, python, mode, page_size } = state.profile;
  $("family").replaceChildren(`${plural(workers.length, "worker")} of process ${parent} · Python `, name(python), " · ", name(mode), " mode");
  $("map-page").textContent = ` of ${size(page_size)}`;
  const select = $("worker");
  select.append(element("option", { value: -1 }, `all ${plural(workers.length, "worker")}`));
  workers.forEach((worker, index) => select.append(element("option", { value: index }, `worker ${worker.pid}`)));
  $("choice").hidden = workers.length < 2;
  select.addEventListener("change", () => choose(Number(select.value)));
}

function drawNotes() {
  const { notes } = state.profile;
  $("notes").hidden = notes.length === 0;
  $("notes").querySelector("ul").append(...notes.map((note) => element("li", {}, name(note))));
}

function drawTotals() {
  const view = seen();
  const one = state.worker >= 0;
  const several = state.profile.workers.length > 1 && !one;
  const sampled = one ? state.profile.workers[state.worker].samples.length : state.profile.workers.some((worker) => worker.samples.length);
  const known = (bytes) => (sampled ? size(bytes) : "–");
  const whose = one ? "of the worker" : state.profile.parent_samples.length ? "of the family" : "of the workers";
  const tiles = [
    [one ? "Private dirty" : "Private dirty per worker", known(view.private_dirty), several ? `mean; at most ${known(view.private_dirty_most)}` : ""],
    [`PSS ${whose}`, known(view.pss), `shared${several ? " per worker" : ""}: ${known(view.shared)}`],
    ["Copied pages", number(view.copied), `${size(view.copied * state.profile.page_size)}${several ? ", all workers" : ""}`],
    ["Causes named", percent(view.named), state.profile.heap.length ? "of the heap's copied pages" : "of the copied pages"],
  ];
  $("totals").replaceChildren(
    ...tiles.map(([title, value, more]) =>
      element("div", {}, element("dt", {}, title), element("dd", { class: "value" }, value), element("dd", { class: "more" }, more))));
}

function drawCauses() {
  const view = seen();
  const largest = view.causes.length ? view.causes[0].pages : 1;
  const rows = view.causes.map((total) => {
    const { cause, pages, certain, objects, others } = total;
    const bar = element("div", { class: "bar", "aria-hidden": "true", style: `--colour: var(--c${cause})` });
    for (const [kind, part] of [["certain", certain], ["inferred", pages - certain]]) {
      if (part) bar.append(element("span", { class: kind, style: `width: ${(part / largest) * 100}%` }));
    }
    const sure = certain === pages ? "seen" : certain ? `${Math.min(99, Math.max(1, Math.round((certain / pages) * 100)))} % seen` : "inferred";
    const figures = element("span", { class: "figures" },
      element("b", {}, size(pages * state.profile.page_size)), " ", element("b", {}, percent(pages / view.copied)), " ",
      element("span", {}, `${plural(pages, "page")} · ${sure}`));
    const known = objects.filter(([object]) => object !== null);
    const written = element("div", { class: "objects" }, ...known.map(([object, count]) => element("span", {}, name(object), ` ${number(count)}`)));
    if (others) written.append(element("span", {}, plural(others, "other")));
    return element("li", {}, element("div", { class: "row" },
      element("span", { class: "name" }, swatch(cause), state.profile.causes[cause]), figures), bar, written);
  });
  $("causes").replaceChildren(...(rows.length ? rows : [element("li", {}, "No page was copied.")]));
}

function drawLegend() {
  const items = seen().causes.map(({ cause }) => {
    const button = element("button", { type: "button", "aria-pressed": state.picked.has(cause) }, swatch(cause), state.profile.causes[cause]);
    button.addEventListener("click", () => {
      state.picked[state.picked.has(cause) ? "delete" : "add"](cause);
      button.setAttribute("aria-pressed", state.picked.has(cause));
      map.paint();
    });
    return element("li", {}, button);
  });
  if (state.profile.heap.length) items.push(element("li", {}, element("span", {}, swatch(-1), "not copied")));
  $("legend").replaceChildren(...items);
}

function drawWorkers() {
  const { workers, views, causes } = state.profile;
  const head = element("tr", {}, ...["Worker", "Private dirty", "PSS", "Shared", "Copied pages", "Causes named"].map((title) => element("th", { scope: "col" }, title)),
    ...["Most of it", "Command"].map((title) => element("th", { scope: "col", class: "text" }, title)));
  const rows = workers.map((worker, index) => {
    const view = views[index + 1];
    const known = (bytes) => element("td", {}, worker.samples.length ? size(bytes) : "–");
    const button = element("button", { type: "button", "aria-label": `Show worker ${worker.pid}` }, String(worker.pid));
    button.addEventListener("click", () => choose(state.worker === index ? -1 : index));
    return element("tr", {}, element("th", { scope: "row" }, button),
      known(view.private_dirty), known(view.pss), known(view.shared),
      element("td", {}, number(view.copied)), element("td", {}, percent(view.named)),
      element("td", { class: "text" }, view.causes.length ? causes[view.causes[0].cause] : "–"),
      element("td", { class: "text command" }, name(worker.command)));
  });
  if (!rows.length) rows.push(element("tr", {}, element("td", { class: "text", colspan: 8 }, "No worker was seen.")));
  $("workers").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
}

/* Show one worker, by its index, or all of them (-1). */
function choose(worker) {
  state.worker = worker;
  $("worker").value = String(worker);
  const here = new Set(seen().causes.map(({ cause }) => cause));
  for (const cause of state.picked) if (!here.has(cause)) state.picked.delete(cause);
  [...$("workers").tBodies[0].rows].forEach((row, index) => row.classList.toggle("chosen", index === worker));
  drawTotals();
  drawCauses();
  drawLegend();
  timeline.draw();
  map.show();
}

async function main() {
  try {
    state.profile = await unpack();
    drawFamily();
    drawNotes();
    drawWorkers();
    choose(-1);
    map.listen();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      document.querySelectorAll("canvas.swatch").forEach(paintSwatch);
      map.paint();
    });
  } catch (error) {
    $("failure").textContent = typeof DecompressionStream === "undefined"
      ? "This browser is too old for the report: it has no DecompressionStream (browsers since 2023 have it)."
      : `The report cannot be drawn: ${error}`;
    $("failure").hidden = false;
  }
  return $("failure").hidden;
}
