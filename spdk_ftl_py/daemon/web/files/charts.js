// Lines over the last half hour.

import { element, svg } from "./format.js";

const WINDOW_S = 1800;
const GAP_S = 16;
const LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 18;

export class Chart {
  // series: [{key, label}] of points; show: a value as text; tick: the same beside the axis; log: the axis counts in powers
  // of ten; least: the lowest top of the axis; whole: its ticks are whole numbers.
  constructor(figure, series, show, options = {}) {
    this.series = series;
    this.show = show;
    this.options = options;
    this.points = [];
    this.caption = figure.querySelector("figcaption");
    this.values = series.map((each, i) => {
      const value = element("span", each.label, `key s${i}`);
      this.caption.append(value);
      return value;
    });
    this.svg = svg("svg", { role: "img" });
    figure.append(this.svg);
    this.cross = null;
    this.svg.addEventListener("pointermove", (event) => this.#point(event));
    this.svg.addEventListener("pointerleave", () => { this.cross = null; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  set(points) {
    this.points = points;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth, height = this.svg.clientHeight;
    if (!width || !height) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const last = this.points.length ? this.points[this.points.length - 1] : null;
    const end = last ? last.time : Date.now() / 1000;
    // Young histories fill the width, but not less than a minute does.
    const span = Math.min(WINDOW_S, Math.max(60, end - (this.points.length ? this.points[0].time : end)));
    const x = (time) => LEFT + (width - LEFT - RIGHT) * (1 - (end - time) / span);
    const axis = this.options.log ? this.#logarithmic() : this.#linear();
    const y = (value) => height - BOTTOM - (height - TOP - BOTTOM) * Math.min(1, Math.max(0, axis.place(value)));
    const parts = [];
    for (const tick of axis.ticks) {
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }));
      parts.push(svg("text", { x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, this.#tick(tick)));
    }
    parts.push(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: height - BOTTOM, y2: height - BOTTOM }));
    const ago = span >= 120 ? `${Math.round(span / 60)} min ago` : `${Math.round(span)} s ago`;
    parts.push(svg("text", { x: LEFT, y: height - 4 }, ago));
    parts.push(svg("text", { x: width - RIGHT, y: height - 4, "text-anchor": "end" }, "now"));
    this.series.forEach((each, i) => {
      const way = this.#path(each.key, end - span, x, y);
      if (way) parts.push(svg("path", { class: `series s${i}`, d: way }));
    });
    if (!this.points.length) {
      parts.push(svg("text", { x: (LEFT + width) / 2, y: height / 2, "text-anchor": "middle" }, "no data yet"));
    }
    const shown = this.#shown(end - span, x);
    if (this.cross !== null && shown) {
      parts.push(svg("line", { class: "cross", x1: x(shown.time), x2: x(shown.time), y1: TOP, y2: height - BOTTOM }));
    }
    this.svg.replaceChildren(...parts);
    this.series.forEach((each, i) => {
      this.values[i].textContent = `${each.label} ${shown ? this.show(shown[each.key]) : "–"}`;
    });
    const told = this.series.map((each) => `${each.label} ${last ? this.show(last[each.key]) : "unknown"}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.caption.firstChild.textContent}: now ${told}`);
  }

  // As show(), without zeroes that say nothing: 10 ms, not 10.0 ms.
  #tick(value) {
    if (this.options.tick) return this.options.tick(value);
    return this.show(value).replace(/(\.\d*?)0+(?=\D|$)/, "$1").replace(/\.(?=\D|$)/, "");
  }

  #path(key, from, x, y) {
    let way = "", before = null;
    for (const point of this.points) {
      const value = point[key];
      if (value === null || value === undefined || point.time < from) {
        if (value === null || value === undefined) before = null;
        continue;
      }
      const joined = before !== null && point.time - before <= GAP_S;
      // A lonely point is a dot: a line of no length with round ends would be invisible.
      way += `${joined ? "L" : "M"}${x(point.time).toFixed(1)} ${y(value).toFixed(1)}`;
      if (!joined) way += "h0.8";
      before = point.time;
    }
    return way;
  }

  // What the pointer is at, or else the newest.
  #shown(from, x) {
    if (!this.points.length) return null;
    if (this.cross === null) return this.points[this.points.length - 1];
    let best = null;
    for (const point of this.points) {
      if (point.time >= from && (!best || Math.abs(x(point.time) - this.cross) < Math.abs(x(best.time) - this.cross))) {
        best = point;
      }
    }
    return best;
  }

  #point(event) {
    this.cross = event.clientX - this.svg.getBoundingClientRect().left;
    this.draw();
  }

  #known() {
    return this.points.flatMap((point) => this.series.map((each) => point[each.key]))
      .filter((value) => value !== null && value !== undefined);
  }

  #linear() {
    const most = this.#known().reduce((a, b) => Math.max(a, b), this.options.least || 1);
    const rough = most / 4, power = 10 ** Math.floor(Math.log10(rough));
    let step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough);
    if (this.options.whole) step = Math.max(1, Math.ceil(step));
    const top = Math.ceil(most / step) * step;
    const ticks = [];
    for (let i = 0; i * step <= top * 1.0001; i++) ticks.push(i * step);
    return { place: (value) => value / top, ticks };
  }

  #logarithmic() {
    const known = this.#known().filter((value) => value > 0);
    const low = Math.floor(Math.log10(known.reduce((a, b) => Math.min(a, b), 100)));
    const high = Math.max(low + 1, Math.ceil(Math.log10(known.reduce((a, b) => Math.max(a, b), 1000))));
    const ticks = [];
    for (let power = low; power <= high; power++) ticks.push(10 ** power);
    return { place: (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low), ticks };
  }
}
