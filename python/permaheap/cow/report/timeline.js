/* timeline.js -- a chart each of private dirty, PSS and shared memory over time. All workers' lines
   have one colour: the worker that is chosen stands out, and the figures are read off by pointing
   at a moment, or with the arrow keys. */

const timeline = {
  width: 360,
  height: 170,
  left: 58, // room for the labels of the vertical axis
  bottom: 22,
  top: 10,

  draw() {
    const { workers, parent_samples } = state.profile;
    const lines = workers.map((worker, index) => ({ samples: worker.samples, index }));
    const all = [...lines, { samples: parent_samples, index: null }].filter((line) => line.samples.length);
    $("time-help").textContent = !all.length ? "No sample was taken."
      : `A line is a worker${parent_samples.length ? "; the dashed one is the parent" : ""}. Point at a moment to read it off.`;
    const charts = all.length ? [["Private dirty", 1], ["PSS", 2], ["Shared", 3]] : [];
    $("timeline").replaceChildren(...charts.map(([title, column]) => this.chart(title, column, all)));
  },

  chart(title, column, lines) {
    const end = Math.max(...lines.map((line) => line.samples.at(-1)[0]), 1e-3);
    const most = lines.reduce((top, line) => line.samples.reduce((high, sample) => Math.max(high, sample[column]), top), 0);
    const step = this.niceStep(most);
    const ceiling = Math.max(step, Math.ceil(most / step) * step);
    const x = (seconds) => this.left + (seconds / end) * (this.width - this.left - 8);
    const y = (bytes) => this.height - this.bottom - (bytes / ceiling) * (this.height - this.bottom - this.top);
    const svg = this.node("svg", { class: "chart", viewBox: `0 0 ${this.width} ${this.height}`, tabindex: 0, role: "img" });
    const total = lines.filter((line) => line.index !== null).length;
    svg.setAttribute("aria-label", `${title} of ${plural(total, "worker")} over ${end.toFixed(1)} s: at most ${size(most)}`);
    for (let bytes = 0; bytes <= ceiling; bytes += step) {
      svg.append(this.node("line", { class: "grid", x1: this.left, x2: this.width - 8, y1: y(bytes), y2: y(bytes) }));
      svg.append(this.label(size(bytes).replace(".0 ", " "), this.left - 6, y(bytes) + 4, "end"));
    }
    svg.append(this.label("0 s", this.left, this.height - 5, "start"), this.label(`${this.seconds(end)} s`, this.width - 8, this.height - 5, "end"));
    for (const line of this.order(lines)) svg.append(this.line(line, column, x, y));
    const output = element("output", {});
    this.listen(svg, output, lines, column, x, end);
    return element("figure", {}, element("figcaption", {}, title, output), svg);
  },

  /* The chosen line last, so that it is on top. */
  order(lines) {
    return [...lines].sort((one, other) => (one.index === state.worker) - (other.index === state.worker));
  },

  line({ samples, index }, column, x, y) {
    const kinds = ["line"];
    if (index === null) kinds.push("parent");
    if (state.worker >= 0) kinds.push(index === state.worker ? "chosen" : "faint");
    if (samples.length === 1) return this.node("circle", { class: kinds.join(" "), cx: x(samples[0][0]), cy: y(samples[0][column]), r: 3.5 });
    const points = samples.map((sample) => `${x(sample[0]).toFixed(1)},${y(sample[column]).toFixed(1)}`);
    return this.node("polyline", { class: kinds.join(" "), points: points.join(" ") });
  },

  listen(svg, output, lines, column, x, end) {
    const cursor = this.node("line", { class: "cursor", y1: this.top, y2: this.height - this.bottom, visibility: "hidden" });
    svg.append(cursor);
    let moment = end;
    const read = (seconds) => {
      moment = Math.min(end, Math.max(0, seconds));
      cursor.setAttribute("x1", x(moment));
      cursor.setAttribute("x2", x(moment));
      cursor.setAttribute("visibility", "visible");
      output.textContent = `${this.reading(lines, column, moment)} at ${this.seconds(moment)} s`;
    };
    const rest = () => {
      cursor.setAttribute("visibility", "hidden");
      output.textContent = this.reading(lines, column, end);
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const place = ((event.clientX - box.left) / box.width) * this.width;
      read(((place - this.left) / (this.width - this.left - 8)) * end);
    });
    svg.addEventListener("pointerleave", rest);
    svg.addEventListener("blur", rest);
    svg.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (way) {
        read(moment + (way * end) / 40);
        event.preventDefault();
      }
    });
    rest();
  },

  /* What the chosen worker has at a moment, or the range of all of them. */
  reading(lines, column, moment) {
    const shown = lines.filter((line) => line.index !== null && (state.worker < 0 || line.index === state.worker));
    const values = shown.map(({ samples }) => samples.findLast((sample) => sample[0] <= moment)).filter(Boolean).map((sample) => sample[column]);
    if (!values.length) return "–";
    const [low, high] = [size(Math.min(...values)), size(Math.max(...values))];
    return low === high ? low : `${low} – ${high}`;
  },

  /* About four steps make the axis: each 1, 2 or 5 times a power of ten, in KiB, MiB or GiB. */
  niceStep(most) {
    const unit = 1024 ** Math.max(0, Math.min(3, Math.floor(Math.log2(Math.max(most, 1)) / 10)));
    const rough = Math.max(most / unit / 4, 0.25);
    const power = 10 ** Math.floor(Math.log10(rough));
    return unit * power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  },

  seconds(value) {
    return value >= 100 ? value.toFixed(0) : value.toFixed(1);
  },

  label(text, x, y, anchor) {
    const node = this.node("text", { x, y, "text-anchor": anchor });
    node.textContent = text;
    return node;
  },

  node(tag, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
    return node;
  },
};
