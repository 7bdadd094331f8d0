// The map of all bands: one cell each, in order of their numbers.

import { element, svg, whole, percent } from "./format.js";

// Distinguishable for the colour-blind (Okabe and Ito), on light and on dark. Rare states have a mark as well.
const STATES = {
  free: ["#d5d9de", "#3a4149"], queued: ["#f0e442", "#b5ab1a"], open: ["#e69f00", "#e69f00"],
  closing: ["#a86f00", "#ffc44d"], closed: ["#0072b2", "#3a8fc4"], moving: ["#cc79a7", "#e39cc4"],
  resetting: ["#009e73", "#22b78c"], faulted: ["#a30000", "#ff5f52"], mending: ["#a30000", "#ff5f52"],
  retired: ["#1a1d21", "#e8eaed"], unknown: ["#d5d9de", "#3a4149"],
};
const MARKS = { moving: "M", faulted: "!", mending: "!", retired: "x" };
// From little to much: one hue, ever darker on light (and lighter on dark), so that grey tones would do.
const SCALES = {
  valid: [["#e3eef6", "#0b3c5d"], ["#22303b", "#9ad4ff"]],
  age: [["#fdeed8", "#6b2f00"], ["#3a2c1c", "#ffc98a"]],
  resets: [["#e6f3ec", "#00452f"], ["#1f332b", "#8ff0cb"]],
};
const TITLES = { valid: "valid data", age: "age, in bands opened since", resets: "resets" };
const CELL_MAX = 34, CELL_MIN = 2;
// Of the map, if the bands are large enough to choose: what the cards beside it take; less where all are in one column.
const HEIGHT = 420, HEIGHT_NARROW = 300, NARROW = 520;

export class BandMap {
  constructor(canvas, frame, legend, told) {
    this.canvas = canvas;
    this.frame = frame;
    this.legend = legend;
    this.told = told;
    this.colouring = "state";
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.clear();
    canvas.addEventListener("pointermove", (event) => this.#choose(this.#at(event)));
    canvas.addEventListener("pointerdown", (event) => this.#choose(this.#at(event)));
    canvas.addEventListener("pointerleave", () => { if (document.activeElement !== canvas) this.#choose(null); });
    canvas.addEventListener("blur", () => this.#choose(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    this.dark.addEventListener("change", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(frame);
  }

  clear() {
    this.header = null;
    this.count = 0;
    this.chosen = null;
    this.replaced = new Map();
    this.draw();
  }

  get cursor() {
    return this.header ? this.header.cursor : "";
  }

  colourBy(colouring) {
    this.colouring = colouring;
    this.draw();
  }

  // An answer of /api/bands: see spdk_ftl_py/daemon/web/bands.py.
  take(buffer) {
    const length = new DataView(buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const types = { "<f8": Float64Array, "<u4": Uint32Array, "<u1": Uint8Array };
    const rows = {};
    let at = 4 + length;
    for (const [name, type] of header.columns) {
      rows[name] = new types[type](buffer, at, header.rows);
      at += rows[name].byteLength;
    }
    if (header.whole || header.bands !== this.count) {
      this.count = header.bands;
      for (const [name, type] of header.columns) this[name] = new types[type](header.bands);
    }
    for (const [name] of header.columns) {
      const all = this[name], some = rows[name];
      for (let i = 0; i < header.rows; i++) all[rows.band[i]] = some[i];
    }
    this.header = header;
    this.replaced = new Map(header.replaced);
    this.draw();
  }

  // The number of bands in each state, of those that there are.
  counts() {
    const counts = new Map();
    for (let i = 0; i < this.count; i++) {
      const state = this.header.states[this.state[i]];
      counts.set(state, (counts.get(state) || 0) + 1);
    }
    return counts;
  }

  draw() {
    const width = Math.floor(this.frame.clientWidth);
    this.canvas.hidden = !this.count;
    if (!this.count || !width) {
      this.legend.replaceChildren();
      this.#tell();
      return;
    }
    const height = width < NARROW ? HEIGHT_NARROW : HEIGHT;
    let cell = Math.min(CELL_MAX, Math.max(CELL_MIN, Math.floor(Math.sqrt(width * height / this.count))));
    while (cell > CELL_MIN && Math.ceil(this.count / Math.floor(width / cell)) * cell > height) cell--;
    this.cell = cell;
    this.columns = Math.max(1, Math.floor(width / cell));
    const rows = Math.ceil(this.count / this.columns);
    const scale = window.devicePixelRatio || 1;
    const size = [Math.round(this.columns * cell * scale), Math.round(rows * cell * scale)];
    if (this.canvas.width !== size[0]) this.canvas.width = size[0];
    if (this.canvas.height !== size[1]) this.canvas.height = size[1];
    this.canvas.style.width = `${this.columns * cell}px`;
    this.canvas.style.height = `${rows * cell}px`;
    const context = this.canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, this.columns * cell, rows * cell);
    const colour = this.#colours();
    const inside = cell > 4 ? cell - 1 : cell > 2 ? cell - 0.5 : cell;
    const marks = cell >= 12;
    if (marks) {
      context.font = `bold ${Math.min(12, cell - 3)}px system-ui, sans-serif`;
      context.textAlign = "center";
      context.textBaseline = "middle";
    }
    for (let i = 0; i < this.count; i++) {
      const x = (i % this.columns) * cell, y = Math.floor(i / this.columns) * cell;
      context.fillStyle = colour(i);
      context.fillRect(x, y, inside, inside);
      const mark = marks ? MARKS[this.header.states[this.state[i]]] : undefined;
      if (mark) {
        context.fillStyle = this.dark.matches ? "#000" : "#fff";
        if (this.colouring === "state") context.fillText(mark, x + inside / 2, y + inside / 2 + 0.5);
      }
    }
    if (this.chosen !== null) this.#outline(context);
    this.#legend();
    this.#tell();
  }

  #outline(context) {
    const x = (this.chosen % this.columns) * this.cell, y = Math.floor(this.chosen / this.columns) * this.cell;
    context.lineWidth = 2;
    context.strokeStyle = this.dark.matches ? "#fff" : "#000";
    context.strokeRect(x - 0.5, y - 0.5, this.cell, this.cell);
  }

  #colours() {
    const dark = this.dark.matches ? 1 : 0;
    if (this.colouring === "state") {
      const byCode = this.header.states.map((state) => (STATES[state] || STATES.unknown)[dark]);
      return (i) => byCode[this.state[i]];
    }
    const [from, to] = SCALES[this.colouring][dark].map(channels);
    const steps = Array.from({ length: 33 }, (_, n) => mixed(from, to, n / 32));
    const blank = STATES.free[dark], most = this.#most();
    // A free band has neither data nor age; but it has been reset.
    const empty = this.colouring === "resets" ? -1 : this.header.states.indexOf("free");
    return (i) => this.state[i] === empty ? blank : steps[Math.round(32 * Math.min(1, this.#value(i) / most))];
  }

  #value(i) {
    if (this.colouring === "valid") return this.capacity[i] ? this.valid[i] / this.capacity[i] : 0;
    return this.colouring === "age" ? Math.max(0, this.header.next_seq - this.seq[i]) : this.resets[i];
  }

  #most() {
    if (this.colouring === "valid") return 1;
    let most = 1;
    const free = this.header.states.indexOf("free");
    for (let i = 0; i < this.count; i++) {
      if (this.colouring === "resets" || this.state[i] !== free) most = Math.max(most, this.#value(i));
    }
    return most;
  }

  #legend() {
    const dark = this.dark.matches ? 1 : 0;
    const items = [];
    if (this.colouring === "state") {
      for (const [state, number] of [...this.counts()].sort((a, b) => b[1] - a[1])) {
        const mark = MARKS[state] ? ` (${MARKS[state]})` : "";
        items.push(legendItem([(STATES[state] || STATES.unknown)[dark]], `${state}${mark} ${whole(number)}`));
      }
    } else {
      const most = this.#most();
      const [from, to] = SCALES[this.colouring][dark].map(channels);
      const steps = Array.from({ length: 9 }, (_, n) => mixed(from, to, n / 8));
      const ends = this.colouring === "valid" ? ["0 %", "100 %"] : ["0", whole(most)];
      items.push(legendItem(steps, `${TITLES[this.colouring]}: ${ends[0]} to ${ends[1]}`));
      if (this.colouring !== "resets") items.push(legendItem([STATES.free[dark]], "free"));
    }
    this.legend.replaceChildren(...items);
  }

  describe(i) {
    const state = this.header.states[this.state[i]];
    const zones = [];
    for (let punit = 0; punit < this.header.punits; punit++) {
      const zone = this.header.first_zone + i * this.header.punits + punit;
      zones.push(this.replaced.has(zone) ? this.replaced.get(zone) : zone);
    }
    const named = zones.map((zone) => zone === null ? "missing" : zone).join(", ");
    const parts = [`Band ${i}: ${state}`, `zone${zones.length > 1 ? "s" : ""} ${named}`];
    if (state !== "free" && state !== "retired") {
      const share = this.capacity[i] ? ` (${percent(this.valid[i] / this.capacity[i])})` : "";
      parts.push(`${whole(this.valid[i])} of ${whole(this.capacity[i])} blocks valid${share}${this.#whose(i)}`);
      parts.push(`seq ${whole(this.seq[i])}, age ${whole(Math.max(0, this.header.next_seq - this.seq[i]))}`);
    }
    parts.push(`${whole(this.resets[i])} resets`);
    return parts.join(" · ");
  }

  // As the placement in use has it: an earlier one may have had other classes.
  #whose(i) {
    if (this.header.shared_stream) return "";
    const whose = this.stream[i] < this.header.user_classes ? "data of hosts" : "relocated data";
    return `, ${whose}${this.header.classes > 2 ? ` (class ${this.stream[i]})` : ""}`;
  }

  #tell() {
    const text = this.chosen !== null && this.chosen < this.count ? this.describe(this.chosen)
      : this.count ? "Point at a band, or use the arrow keys on the map." : "";
    if (this.told.textContent !== text) this.told.textContent = text;
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / this.cell);
    const row = Math.floor((event.clientY - box.top) / this.cell);
    const i = row * this.columns + column;
    return column >= 0 && column < this.columns && row >= 0 && i < this.count ? i : null;
  }

  #choose(i) {
    if (i === this.chosen) return;
    this.chosen = i;
    this.draw();
  }

  #key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
      Home: -this.count, End: this.count };
    if (!(event.key in steps) || !this.count) return;
    event.preventDefault();
    const from = this.chosen === null ? (steps[event.key] > 0 ? -1 : 0) : this.chosen;
    this.#choose(this.chosen === null ? 0 : Math.min(this.count - 1, Math.max(0, from + steps[event.key])));
  }
}

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

function mixed(from, to, part) {
  return `rgb(${from.map((each, i) => Math.round(each + (to[i] - each) * part)).join(",")})`;
}

function legendItem(colours, text) {
  const item = element("li");
  const swatch = svg("svg", { viewBox: `0 0 ${colours.length} 1`, preserveAspectRatio: "none", "aria-hidden": "true" });
  if (colours.length > 1) swatch.setAttribute("class", "scale");
  colours.forEach((colour, i) => swatch.append(svg("rect", { x: i, y: 0, width: 1.02, height: 1, fill: colour })));
  item.append(swatch, element("span", text));
  return item;
}
