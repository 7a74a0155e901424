/* map.js -- the heat map: a square for each page, coloured by the cause of its copy.

   An address range of the heap is laid out like a hex dump: each row holds as many pages as fit,
   those that nobody copied too, and rows without a copied page are elided. Copied pages outside of
   the heap follow one another, with a space where addresses jump.

   Only the rows in sight are drawn, on a canvas that stays in sight: a heap of any size costs the
   same. A row is {y, height, title, more} or {y, height, slots, page}: slots holds for each square
   the index of its cell, or NOT_COPIED, or NOTHING; page is that of the first slot, in the heap. */

const NOT_COPIED = -1;
const NOTHING = -2;

/* The index of the first item that is not below value. */
function lowerBound(sorted, value) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

const map = {
  pages: new Float64Array(), // numbers of the pages that are copied, in order: the cells
  causes: new Uint8Array(), // of each of them; of several workers' the most frequent
  rows: [],
  cursor: null, // {row, column} that the tip is about

  /* Lay out the pages of the worker that is chosen, or of all of them. */
  show() {
    const { workers } = state.profile;
    this.collect(state.worker < 0 ? workers : [workers[state.worker]]);
    this.hide();
    this.lay();
  },

  collect(workers) {
    const all = new Float64Array(workers.reduce((sum, worker) => sum + worker.pages.page.length, 0));
    let filled = 0;
    for (const { pages } of workers) {
      all.set(pages.page, filled);
      filled += pages.page.length;
    }
    all.sort();
    this.pages = all.filter((page, index) => index === 0 || page !== all[index - 1]);
    const kinds = state.profile.causes.length;
    const counts = new Uint32Array(this.pages.length * kinds);
    for (const { pages } of workers) {
      let cell = 0;
      pages.page.forEach((page, index) => {
        while (this.pages[cell] < page) cell++;
        counts[cell * kinds + state.profile.kinds[pages.kind[index]][0]]++;
      });
    }
    this.causes = new Uint8Array(this.pages.length);
    for (let cell = 0; cell < this.causes.length; cell++) {
      let most = 0;
      for (let cause = 1; cause < kinds; cause++) {
        if (counts[cell * kinds + cause] > counts[cell * kinds + most]) most = cause;
      }
      this.causes[cell] = most;
    }
  },

  lay() {
    const width = $("map").clientWidth;
    const least = this.pages.length > 3000 ? 9 : 13; // with one pixel of space
    this.columns = Math.max(8, Math.floor(width / least / 4) * 4); // whole pools
    this.side = Math.max(least, Math.floor(width / this.columns));
    this.width = width;
    this.rows = [];
    this.y = 0;
    let next = 0;
    let untouched = 0;
    const outside = [];
    for (const [first, end] of state.profile.heap) {
      const low = lowerBound(this.pages, first);
      const high = lowerBound(this.pages, end);
      while (next < low) outside.push(next++);
      next = high;
      if (low === high) untouched++;
      else this.layRange(first, end, low, high);
    }
    while (next < this.pages.length) outside.push(next++);
    if (outside.length) this.layOutside(outside);
    $("map-elided").textContent = untouched ? `Not shown: ${plural(untouched, "address range")} of the heap without a copied page.` : "";
    $("map-section").hidden = this.rows.length === 0;
    $("map-space").style.height = `${this.y}px`;
    this.paint();
  },

  push(row) {
    this.rows.push({ y: this.y, ...row });
    this.y += row.height;
  },

  title(title, more) {
    if (this.rows.length) this.y += 12;
    this.push({ height: 24, title, more });
  },

  layRange(first, end, low, high) {
    const bytes = (end - first) * state.profile.page_size;
    this.title(`${address(first)} · ${size(bytes)}`, `${percent((high - low) / (end - first))} copied`);
    let expected = first; // the page that the next row begins with
    for (let cell = low; cell < high; ) {
      const page = first + Math.floor((this.pages[cell] - first) / this.columns) * this.columns;
      this.layGap(expected, page);
      const length = Math.min(this.columns, end - page);
      const slots = new Int32Array(length).fill(NOT_COPIED);
      for (; cell < high && this.pages[cell] < page + length; cell++) slots[this.pages[cell] - page] = cell;
      this.push({ height: this.side, slots, page });
      expected = page + length;
    }
    this.layGap(expected, end);
  },

  /* Rows without a copied page: one or two are drawn, more are elided. */
  layGap(first, end) {
    if (end - first > 2 * this.columns) {
      this.push({ height: 20, elided: `⋯ ${plural(end - first, "page")} not copied, ${size((end - first) * state.profile.page_size)}` });
      return;
    }
    for (let page = first; page < end; page += this.columns) {
      this.push({ height: this.side, slots: new Int32Array(Math.min(this.columns, end - page)).fill(NOT_COPIED), page });
    }
  },

  layOutside(cells) {
    this.title(state.profile.heap.length ? "Outside of the Python heap" : "Copied pages", plural(cells.length, "page"));
    let slots = [];
    cells.forEach((cell, index) => {
      const jumps = index > 0 && this.pages[cell] !== this.pages[cells[index - 1]] + 1;
      if (jumps && slots.length && slots.length < this.columns) slots.push(NOTHING);
      if (slots.length >= this.columns) {
        this.push({ height: this.side, slots });
        slots = [];
      }
      slots.push(cell);
    });
    this.push({ height: this.side, slots });
  },

  paint() {
    const box = $("map");
    const canvas = $("map-canvas");
    const scale = window.devicePixelRatio || 1;
    const height = Math.min(this.y, box.clientHeight || this.y);
    canvas.width = Math.round(this.width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    const top = box.scrollTop;
    pen.setTransform(scale, 0, 0, scale, 0, -top * scale);
    const style = colours();
    const look = {
      ink: style.getPropertyValue("--ink"),
      soft: style.getPropertyValue("--soft"),
      shared: style.getPropertyValue("--shared"),
      causes: SHAPES.map((_, cause) => style.getPropertyValue(`--c${cause}`)),
      font: getComputedStyle(document.body).fontFamily,
    };
    for (let index = this.rowAt(top); index < this.rows.length && this.rows[index].y < top + height; index++) {
      this.paintRow(pen, this.rows[index], look);
    }
    if (this.cursor) this.paintCursor(pen, look);
  },

  paintRow(pen, row, look) {
    if (!row.slots) {
      const middle = row.y + row.height / 2;
      pen.textBaseline = "middle";
      pen.fillStyle = row.title ? look.ink : look.soft;
      pen.font = `${row.title ? "600 13px" : "12px"} ${look.font}`;
      pen.fillText(row.title ?? row.elided, 0, middle);
      if (row.more) {
        const before = pen.measureText(row.title).width;
        pen.fillStyle = look.soft;
        pen.font = `13px ${look.font}`;
        pen.fillText(row.more, before + 10, middle);
      }
      return;
    }
    const side = this.side - 1;
    row.slots.forEach((cell, column) => {
      if (cell === NOTHING) return;
      if (cell === NOT_COPIED) {
        paintCell(pen, column * this.side, row.y, side, "shared", look.shared);
        return;
      }
      const cause = this.causes[cell];
      pen.globalAlpha = state.picked.size === 0 || state.picked.has(cause) ? 1 : 0.13;
      paintCell(pen, column * this.side, row.y, side, SHAPES[cause], look.causes[cause]);
      pen.globalAlpha = 1;
    });
  },

  paintCursor(pen, look) {
    const row = this.rows[this.cursor.row];
    pen.strokeStyle = look.ink;
    pen.lineWidth = 2;
    pen.strokeRect(this.cursor.column * this.side, row.y, this.side - 1, this.side - 1);
  },

  /* The index of the last row that begins at y or above it. */
  rowAt(y) {
    let [low, high] = [0, this.rows.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.rows[middle].y <= y) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  },

  listen() {
    const box = $("map");
    new ResizeObserver(() => {
      if (box.clientWidth && box.clientWidth !== this.width) {
        this.hide();
        this.lay();
      }
    }).observe(box);
    box.addEventListener("scroll", () => {
      this.paint();
      this.follow();
    });
    box.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.point(event));
    box.addEventListener("click", (event) => this.point(event)); // a tap
    box.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.hide());
    box.addEventListener("blur", () => this.hide());
    box.addEventListener("focus", () => box.matches(":focus-visible") && !this.cursor && this.first());
    box.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("scroll", () => this.follow(), { passive: true });
  },

  point(event) {
    const space = $("map-space").getBoundingClientRect();
    const [x, y] = [event.clientX - space.left, event.clientY - space.top];
    const row = this.rowAt(y);
    const column = Math.floor(x / this.side);
    const inside = this.rows.length > 0 && y >= 0 && y < this.rows[row].y + this.rows[row].height && x >= 0;
    if (inside && (this.rows[row].slots?.[column] ?? NOTHING) !== NOTHING) this.tell(row, column);
    else this.hide();
  },

  key(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [-10, 0], PageDown: [10, 0] }[event.key];
    if (event.key === "Escape") this.hide();
    else if (event.key === "Home" || event.key === "End") this[event.key === "Home" ? "first" : "last"]();
    else if (step && this.cursor) this.move(...step);
    else if (step) this.first();
    else return;
    event.preventDefault();
  },

  /* Move over rows of squares, or over squares, from row to row. */
  move(down, right) {
    let { row, column } = this.cursor;
    for (let left = Math.abs(down); left > 0; left--) {
      const next = this.neighbour(row, Math.sign(down));
      if (next === null) break;
      row = next;
    }
    column += right;
    while (this.rows[row].slots[column] === NOTHING) column += right || -1;
    if (column < 0 || (right && column >= this.rows[row].slots.length)) {
      const next = this.neighbour(row, right);
      if (next === null) return;
      row = next;
      column = right > 0 ? 0 : this.rows[row].slots.length - 1;
    }
    this.tell(row, Math.min(column, this.rows[row].slots.length - 1), true);
  },

  /* The next row of squares above (-1) or below (1), null if there is none. */
  neighbour(row, way) {
    for (row += way; row >= 0 && row < this.rows.length; row += way) {
      if (this.rows[row].slots) return row;
    }
    return null;
  },

  first() {
    const row = this.neighbour(-1, 1);
    if (row !== null) this.tell(row, 0, true);
  },

  last() {
    const row = this.neighbour(this.rows.length, -1);
    if (row !== null) this.tell(row, this.rows[row].slots.length - 1, true);
  },

  hide() {
    $("tip").hidden = true;
    if (this.cursor) {
      this.cursor = null;
      this.paint();
    }
  },

  /* Show what is known of a square; bring it into sight if it may be out of it. */
  tell(row, column, scroll = false) {
    if (this.cursor?.row === row && this.cursor.column === column && !$("tip").hidden) return;
    this.cursor = { row, column };
    if (scroll) this.reveal(this.rows[row]);
    this.paint();
    const { slots, page } = this.rows[row];
    const cell = slots[column];
    const tip = $("tip");
    tip.replaceChildren(...this.content(cell, cell < 0 ? page + column : this.pages[cell]));
    tip.hidden = false;
    this.place();
  },

  reveal(row) {
    const box = $("map");
    const margin = 30; // the title above
    if (row.y - margin < box.scrollTop) box.scrollTop = row.y - margin;
    if (row.y + row.height > box.scrollTop + box.clientHeight) box.scrollTop = row.y + row.height - box.clientHeight;
    const y = $("map-space").getBoundingClientRect().top + row.y;
    if (y < margin || y + row.height > innerHeight) window.scrollBy(0, y - innerHeight / 2);
  },

  /* After scrolling: the tip goes with its square, as long as that is in sight. */
  follow() {
    if (!this.cursor) return;
    const box = $("map");
    const row = this.rows[this.cursor.row];
    if (row.y + row.height <= box.scrollTop || row.y >= box.scrollTop + box.clientHeight) this.hide();
    else this.place();
  },

  /* Put the tip below its square, or above it if it fits only there; always within the window. */
  place() {
    const tip = $("tip");
    const { row, column } = this.cursor;
    const space = $("map-space").getBoundingClientRect();
    const x = space.left + column * this.side;
    const y = space.top + this.rows[row].y;
    const lowest = innerHeight - tip.offsetHeight - 4;
    const [below, above] = [y + this.side + 8, y - 8 - tip.offsetHeight];
    tip.style.top = `${Math.max(4, below > lowest && above >= 4 ? above : Math.min(below, lowest))}px`;
    tip.style.left = `${Math.max(10, Math.min(x - 20, innerWidth - tip.offsetWidth - 10))}px`;
  },

  content(cell, page) {
    const where = element("div", { class: "address" }, address(page));
    if (cell < 0) return [where, element("div", {}, "not copied")];
    const asked = state.worker < 0 ? state.profile.workers.length : 1;
    return [where, ...this.found(page).map((entry) => this.entry(entry, asked))];
  },

  /* What the workers say of a page, by cause, the one of most workers first. */
  found(page) {
    const { workers, kinds, neighbours } = state.profile;
    const entries = new Map();
    workers.forEach(({ pid, pages }, index) => {
      if (state.worker >= 0 && state.worker !== index) return;
      const at = lowerBound(pages.page, page);
      if (pages.page[at] !== page) return;
      const [cause, certain, object, detail] = kinds[pages.kind[at]];
      if (!entries.has(cause)) entries.set(cause, { cause, seen: 0, objects: new Set(), details: new Set(), near: new Set(), others: 0, pids: [] });
      const entry = entries.get(cause);
      const near = neighbours[pages.near[at]];
      entry.seen += certain;
      entry.objects.add(object);
      entry.details.add(detail);
      near.slice(0, -1).forEach((neighbour) => entry.near.add(neighbour));
      entry.others = Math.max(entry.others, near.at(-1) - (near.length - 1));
      entry.pids.push(pid);
    });
    return [...entries.values()].sort((one, other) => other.pids.length - one.pids.length);
  },

  entry({ cause, seen, objects, details, near, others, pids }, asked) {
    const list = element("dl", {});
    const fact = (term, indexes, more) => {
      const names = [...indexes].filter((index) => index >= 0).map((index) => name(state.profile.strings[index]));
      if (!names.length) return;
      const shown = names.slice(0, 24).flatMap((node, index) => (index ? [", ", node] : [node]));
      const left = names.length - Math.min(names.length, 24) + more;
      list.append(element("dt", {}, term), element("dd", {}, ...shown, left ? ` and ${plural(left, "other")}` : ""));
    };
    fact("Object", objects, 0);
    fact("Detail", details, 0);
    fact("Also here", near, others);
    if (asked > 1) {
      const which = `${pids.length} of ${asked} workers: ${pids.slice(0, 8).join(", ")}${pids.length > 8 ? ", …" : ""}`;
      list.append(element("dt", {}, "Copied by"), element("dd", {}, which));
    }
    const sure = seen === pids.length ? "seen" : seen ? `seen in ${seen}, inferred in ${pids.length - seen}` : "inferred";
    return element("div", {}, element("div", { class: "cause" }, swatch(cause), state.profile.causes[cause], element("small", {}, ` · ${sure}`)), list);
  },
};

/* Of a page, by its number: the product may be larger than a float holds exactly. */
function address(page) {
  return `0x${(BigInt(page) * BigInt(state.profile.page_size)).toString(16)}`;
}
