"use strict";
// Parallel coordinates on a canvas. Between two axes each pair of places is drawn once, in the
// colour of its fastest plan, so that any number of candidates takes milliseconds to draw. Axes are
// elements over the canvas: they are dragged along, by mouse or finger, or moved with arrow keys.

const PAD = { left: 56, right: 56, top: 46, bottom: 16 };
const CELL = 2; // pixels that count as one place on an axis
const SHADES = { light: ["#dfe5d5", "#b7d6a9", "#7fc39a", "#4aa896", "#2f8a93", "#2a6a8c", "#31477f", "#3b1a5e"],
  dark: ["#3a3152", "#3f4a78", "#3a6a8a", "#348a8c", "#42a87f", "#7cc466", "#bcd94f", "#fbe723"] };

class Parallel {
  constructor(element, changed) {
    this.element = element;
    this.changed = changed;
    [this.canvas, this.above] = [0, 1].map(
      () => element.appendChild(document.createElement("canvas")));
    this.axes = [];
    new ResizeObserver(() => { if (this.table) { this.show(); } }).observe(element);
  }

  draw(table, places, ranges, chosen, dark) {
    Object.assign(this, { table, ranges, chosen, dark });
    this.places = places.filter((place) => table.step_s[place] !== null);
    this.axes = [
      ...Object.entries(table.fields).map(([name, field]) => fieldAxis(name, field)),
      valueAxis("memory", "memory [GB]", table.memory_gb, this.places),
      valueAxis("step", "step [s]", table.step_s, this.places)];
    this.element.style.minWidth = `${Math.max(300, 76 * this.axes.length)}px`;
    this.show();
  }

  show() {
    const { clientWidth: width, clientHeight: height } = this.element;
    this.high = height - PAD.top - PAD.bottom;
    this.pen = penOf(this.canvas, width, height);
    this.axes.forEach((axis, i) => {
      axis.x = PAD.left + i * (width - PAD.left - PAD.right) / Math.max(1, this.axes.length - 1);
    });
    this.lines();
    this.mark(this.chosen);
    this.handles();
  }

  y(axis, place) { return PAD.top + (1 - axis.share(axis.at(place))) * this.high; }

  // Shades of segments by gap and pair of places: 0 none, 1 outside the ranges, then slow to fast.
  lines() {
    const steps = this.table.step_s, shades = SHADES[this.dark ? "dark" : "light"];
    const cells = Math.ceil(this.high / CELL) + 1, axes = this.axes;
    const step = axes[axes.length - 1];
    const inside = this.places.map((place) => axes.every((axis) => within(axis, this.ranges, place)));
    const shade = this.places.map((place, i) => inside[i]
      ? 2 + Math.min(shades.length - 1, Math.floor((1 - step.share(steps[place])) * shades.length)) : 1);
    const row = (axis, place) => Math.round((1 - axis.share(axis.at(place))) * this.high / CELL);
    const at = axes.map((axis) => Int32Array.from(this.places, (place) => row(axis, place)));
    for (let gap = 0; gap + 1 < axes.length; gap++) {
      const best = new Uint8Array(cells * cells), left = at[gap], right = at[gap + 1];
      for (let i = 0; i < left.length; i++) {
        const key = left[i] * cells + right[i];
        if (shade[i] > best[key]) { best[key] = shade[i]; }
      }
      const paths = new Map();
      best.forEach((value, key) => {
        if (!value) { return; }
        if (!paths.has(value)) { paths.set(value, new Path2D()); }
        const path = paths.get(value);
        path.moveTo(axes[gap].x, PAD.top + CELL * Math.floor(key / cells));
        path.lineTo(axes[gap + 1].x, PAD.top + CELL * (key % cells));
      });
      for (const value of [...paths.keys()].sort((a, b) => a - b)) {
        this.pen.strokeStyle = value === 1 ? (this.dark ? "#272f3a" : "#eceff3") : shades[value - 2];
        this.pen.lineWidth = 1;
        this.pen.stroke(paths.get(value));
      }
    }
  }

  // The line of the chosen plan.
  mark(chosen) {
    this.chosen = chosen;
    const pen = penOf(this.above, this.element.clientWidth, this.element.clientHeight);
    if (chosen === null || this.table.step_s[chosen] === null) { return; }
    const path = new Path2D();
    this.axes.forEach((axis, i) => path[i ? "lineTo" : "moveTo"](axis.x, this.y(axis, chosen)));
    pen.strokeStyle = this.dark ? "#ff8c4a" : "#d55e00";
    pen.lineWidth = 2.5;
    pen.stroke(path);
  }

  handles() {
    const boxes = this.element.querySelectorAll(".axis");
    const same = boxes.length === this.axes.length &&
      this.axes.every((axis, i) => boxes[i].dataset.name === axis.name);
    if (!same) {
      boxes.forEach((box) => box.remove());
      this.axes.forEach((axis) => this.element.append(this.handle(axis.name)));
    }
    this.element.querySelectorAll(".axis").forEach((box, i) => this.fill(box, this.axes[i]));
  }

  handle(name) {
    const box = document.createElement("div");
    box.className = "axis";
    box.tabIndex = 0;
    box.dataset.name = name;
    box.setAttribute("role", "slider");
    box.append(...["name", "ticks", "range"].map((part) => {
      const child = document.createElement("div");
      child.className = part;
      return child;
    }));
    const axisOf = () => this.axes.find((axis) => axis.name === name);
    const shareAt = (event) => {
      const top = this.element.getBoundingClientRect().top + PAD.top;
      return Math.min(1, Math.max(0, 1 - (event.clientY - top) / this.high));
    };
    let from = null;
    box.addEventListener("pointerdown", (event) => {
      from = shareAt(event);
      box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => {
      if (from === null) { return; }
      const to = shareAt(event), axis = axisOf();
      this.bounds(box, [Math.min(from, to), Math.max(from, to)]);
      box.setAttribute("aria-valuetext", words(axis, rangeOf(axis, from, to)));
    });
    const end = (event) => {
      if (from === null) { return; }
      const to = shareAt(event), short = Math.abs(to - from) * this.high < 4;
      const range = short ? null : rangeOf(axisOf(), from, to);
      from = null;
      this.changed(name, range);
    };
    box.addEventListener("pointerup", end);
    box.addEventListener("pointercancel", () => { from = null; this.show(); });
    box.addEventListener("keydown", (event) => {
      const turn = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (event.key === "Escape") { event.stopPropagation(); this.changed(name, null); }
      if (turn === undefined) { return; }
      event.preventDefault();
      this.changed(name, moved(axisOf(), this.ranges[name], turn, event.shiftKey));
    });
    return box;
  }

  fill(box, axis) {
    const [label, ticks] = box.children;
    box.style.left = `${axis.x - 18}px`;
    label.textContent = axis.label;
    ticks.replaceChildren(...axis.ticks.map(([value, text]) => {
      const tick = document.createElement("span");
      tick.textContent = text;
      tick.style.top = `${PAD.top + (1 - axis.share(value)) * this.high}px`;
      return tick;
    }));
    const range = this.ranges[axis.name];
    this.bounds(box, range ? range.map((value) => axis.share(value)) : null);
    box.setAttribute("aria-label", axis.label);
    box.setAttribute("aria-valuetext", range ? words(axis, range) : "all");
    box.title = "Drag along it for a range; a click shows all";
  }

  bounds(box, shares) {
    const part = box.lastChild;
    part.hidden = !shares;
    if (!shares) { return; }
    const [low, high] = shares;
    part.style.top = `${PAD.top + (1 - high) * this.high - 4}px`;
    part.style.height = `${Math.max(2, (high - low) * this.high) + 8}px`;
  }
}

function penOf(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  // Drawn by the processor: where there is no graphics card, that is what is quick.
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.scale(scale, scale);
  return pen;
}

function fieldAxis(name, field) {
  const last = field.values.length - 1, every = Math.ceil(field.values.length / 12);
  return { name, label: field.label, last, values: field.values, at: (place) => field.of[place],
    share: (index) => last ? Math.min(1, Math.max(0, index / last)) : 0.5,
    ticks: field.values.map((value, i) => [i, String(value)])
      .filter((_, i) => i % every === 0 || i === last)
      .map(([i, text]) => [i, text.length > 11 ? `${text.slice(0, 10)}…` : text]) };
}

function valueAxis(name, label, values, places) {
  let low = Infinity, high = 0;
  for (const place of places) {
    low = Math.min(low, values[place]);
    high = Math.max(high, values[place]);
  }
  if (!places.length) { [low, high] = [1, 1]; }
  const wide = low > 0 && high / low > 8, scale = wide ? Math.log : (value) => value;
  const width = scale(high) - scale(low);
  const back = (share) => wide ? low * (high / low) ** share : low + share * (high - low);
  return { name, label, at: (place) => values[place], back,
    share: (value) => width ? Math.min(1, Math.max(0, (scale(value) - scale(low)) / width)) : 0.5,
    ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => [back(share), short(back(share))]) };
}

const short = (value) => String(Number(value.toPrecision(value < 100 ? 2 : 3)));

// A range in places of the list of values, or in values of time and memory.
function rangeOf(axis, from, to) {
  const [low, high] = [Math.min(from, to), Math.max(from, to)];
  if (axis.back) { return [axis.back(low), axis.back(high)]; }
  return [Math.ceil(low * axis.last - 0.3), Math.floor(high * axis.last + 0.3)];
}

function moved(axis, range, turn, lower) {
  const step = axis.back ? 0.05 : 1;
  const ends = range ? range.map((value) => axis.back ? axis.share(value) : value)
    : [0, axis.back ? 1 : axis.last];
  const end = lower ? 0 : 1, most = axis.back ? 1 : axis.last;
  ends[end] = Math.min(most, Math.max(0, ends[end] + turn * step));
  if (ends[0] > ends[1]) { return range || null; }
  if (ends[0] <= 0 && ends[1] >= most) { return null; }
  return axis.back ? ends.map(axis.back) : ends;
}

function words(axis, [low, high]) {
  if (axis.back) { return `${short(low)} to ${short(high)}`; }
  return low === high ? axis.values[low] : `${axis.values[low]} to ${axis.values[high]}`;
}

function within(axis, ranges, place) {
  const range = ranges[axis.name];
  return !range || (axis.at(place) >= range[0] && axis.at(place) <= range[1]);
}
