"use strict";
// The scatter of time and memory. plotly draws axes and legend; the points are on a canvas over
// them, so that any number takes milliseconds to draw, without WebGL as well. Under the mouse, or
// pressed, is the point that is nearest.

const NEAR = 12; // pixels
const MOST_MISFITS = 2000;

class Points {
  constructor(box, choose) {
    this.box = box;
    this.chart = box.querySelector(".chart");
    this.tip = box.querySelector(".tip");
    [this.canvas, this.above] = box.querySelectorAll("canvas");
    this.drawn = [];
    this.at = [];
    this.listen(choose);
  }

  listen(choose) {
    let from = null;
    const place = (event) => {
      const { left, top } = this.box.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    this.box.addEventListener("mousemove", (event) => {
      this.say(event.buttons ? null : this.nearest(...place(event)));
    }, { capture: true });
    this.box.addEventListener("mouseleave", () => this.say(null));
    this.box.addEventListener("pointerdown", (event) => { from = place(event); }, { capture: true });
    window.addEventListener("pointerup", (event) => {
      if (from === null) { return; }
      const [x, y] = place(event), moved = Math.hypot(x - from[0], y - from[1]);
      from = null;
      const found = moved < 5 ? this.nearest(x, y) : null;
      if (found !== null) { choose(found); }
    }, { capture: true });
  }

  async draw(table, shown, colour, hover, dark) {
    Object.assign(this, { table, hover, dark });
    const field = table.fields[colour];
    const keyOf = (place) => field ? field.of[place] : 0;
    const fit = shown.filter((place) => table.step_s[place] !== null);
    const misfits = shown.filter(
      (place) => table.step_s[place] === null && table.memory_gb[place] !== null);
    const every = Math.max(1, Math.ceil(misfits.length / MOST_MISFITS));
    const few = misfits.filter((_, i) => i % every === 0);
    const keys = [...new Set(fit.map(keyOf))].sort((a, b) => a - b);
    const colours = new Map(keys.map((key, i) =>
      [key, COLOURS[(keys.length > COLOURS.length ? i : key) % COLOURS.length]]));
    // The fastest last, over the others.
    fit.sort((a, b) => table.step_s[b] - table.step_s[a]);
    this.drawn = [
      ...few.map((place, i) => ({ place, shade: null, across: (i * 0.618034) % 1 })),
      ...fit.map((place) => ({ place, shade: colours.get(keyOf(place)) }))];
    const entry = (name, marker, axis) => ({ type: "scatter", mode: "markers", name, marker,
      x: [null], y: [null], xaxis: axis, showlegend: true, hoverinfo: "skip" });
    const traces = keys.map((key) => entry(field ? plain(field.values[key]) : "plans",
      { size: 8, color: colours.get(key) }, "x"));
    // Always there, and its axis with it.
    traces.push({ ...entry("does not fit", { size: 6, symbol: "x-thin", color: GREY,
      line: { width: 1, color: GREY } }, "x2"), showlegend: Boolean(few.length) });
    await draw(this.chart, traces, this.layout(shown, Boolean(few.length)));
    if (!this.connected) {
      this.connected = true;
      for (const name of ["plotly_afterplot", "plotly_relayouting"]) {
        this.chart.on(name, () => this.paint());
      }
      this.paint();
    }
  }

  layout(shown, hasMisfits) {
    const { table, dark } = this;
    const line = (y, dash) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y,
      line: { color: dark ? "#ffab7a" : "#a33b00", width: 1, dash } });
    return layoutOf(dark, {
      uirevision: "scatter", hovermode: false, dragmode: "zoom",
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", itemclick: false,
        itemdoubleclick: false },
      xaxis: { title: { text: "step [s]" }, type: "log", ...logTicks(shown, table.step_s),
        range: logRange(shown, table.step_s), domain: [0, hasMisfits ? 0.84 : 1] },
      xaxis2: { visible: hasMisfits, domain: [0.87, 1], range: [-0.1, 1.1],
        showticklabels: false, title: { text: "does not<br>fit" }, fixedrange: true },
      yaxis: { title: { text: "memory of the fullest device [GB]" }, type: "log",
        range: logRange(shown, table.memory_gb, [table.limit_gb, table.device_gb]),
        ...logTicks(shown, table.memory_gb, [table.limit_gb, table.device_gb]) },
      shapes: [line(table.limit_gb, "dot"), line(table.device_gb, "solid")],
      annotations: [{ xref: "x domain", x: 1, y: Math.log10(table.limit_gb), xanchor: "right",
        yanchor: "bottom", showarrow: false, font: { size: 11 },
        text: `a plan may use ${table.limit_gb.toFixed(1)} GB` }],
    });
  }

  // What gives the pixels of a point, as the axes are now; null for one outside of them.
  places() {
    const { table } = this;
    const [steps, others, memory] = ["xaxis", "xaxis2", "yaxis"].map((name) => {
      const { range, _offset: start, _length: length } = this.chart._fullLayout[name];
      return { low: range[0], width: range[1] - range[0], start, length };
    });
    return ({ place, across }) => {
      const side = across === undefined ? steps : others;
      const x = ((across ?? Math.log10(table.step_s[place])) - side.low) / side.width;
      const y = (Math.log10(table.memory_gb[place]) - memory.low) / memory.width;
      return x < 0 || x > 1 || y < 0 || y > 1 ? null
        : [side.start + x * side.length, memory.start + (1 - y) * memory.length];
    };
  }

  where(point) { return this.places()(point); }

  paint() {
    const pen = penOf(this.canvas, this.box.clientWidth, this.box.clientHeight);
    const sprites = new Map();
    const where = this.places();
    this.at = this.drawn.map((one) => {
      const at = where(one);
      if (at !== null) {
        if (!sprites.has(one.shade)) { sprites.set(one.shade, spriteOf(one.shade, this.dark)); }
        pen.drawImage(sprites.get(one.shade), at[0] - 6, at[1] - 6, 12, 12);
      }
      return at;
    });
    this.mark(this.chosen, this.compared);
  }

  // Rings around the chosen and the compared plan.
  mark(chosen, compared) {
    Object.assign(this, { chosen, compared });
    const pen = penOf(this.above, this.box.clientWidth, this.box.clientHeight);
    for (const [place, dash] of [[compared, [2, 3]], [chosen, []]]) {
      const i = place === null ? -1 : this.drawn.findIndex((one) => one.place === place);
      if (i < 0 || !this.at[i]) { continue; }
      pen.beginPath();
      pen.setLineDash(dash);
      pen.arc(...this.at[i], 9, 0, 2 * Math.PI);
      pen.strokeStyle = this.dark ? "#fff" : "#000";
      pen.lineWidth = 2.5;
      pen.stroke();
    }
  }

  nearest(x, y) {
    let best = null, least = NEAR;
    for (let i = this.at.length - 1; i >= 0; i--) {
      const at = this.at[i];
      if (at === null) { continue; }
      const away = Math.hypot(at[0] - x, at[1] - y);
      if (away < least) { [best, least] = [i, away]; }
    }
    return best === null ? null : this.drawn[best].place;
  }

  say(place) {
    this.box.classList.toggle("pointed", place !== null);
    this.tip.hidden = place === null;
    if (place === null) { return; }
    this.tip.innerHTML = this.hover(place);
    const [x, y] = this.at[this.drawn.findIndex((one) => one.place === place)];
    const { clientWidth: width, clientHeight: height } = this.box;
    const { offsetWidth: wide, offsetHeight: high } = this.tip;
    this.tip.style.left = `${Math.max(0, x + 14 + wide > width ? x - 14 - wide : x + 14)}px`;
    this.tip.style.top = `${Math.min(Math.max(0, y - high / 2), Math.max(0, height - high))}px`;
  }
}

const GREY = "#8a8f98";

// A point of 7 pixels with an edge, or a cross for what does not fit, drawn once.
function spriteOf(shade, dark) {
  const sprite = document.createElement("canvas");
  const pen = penOf(sprite, 12, 12);
  pen.globalAlpha = shade === null ? 0.5 : 0.8;
  pen.beginPath();
  if (shade === null) {
    pen.strokeStyle = GREY;
    for (const turn of [1, -1]) { pen.moveTo(3.5, 6 - 2.5 * turn); pen.lineTo(8.5, 6 + 2.5 * turn); }
    pen.stroke();
    return sprite;
  }
  pen.arc(6, 6, 3.5, 0, 2 * Math.PI);
  pen.fillStyle = shade;
  pen.fill();
  pen.strokeStyle = dark ? "#12171e" : "#ffffff";
  pen.lineWidth = 0.5;
  pen.stroke();
  return sprite;
}

// The powers of ten that all values lie between, with a margin.
function logRange(places, values, more = []) {
  let low = Math.min(...more), high = Math.max(...more);
  for (const place of places) {
    const value = values[place];
    if (value > 0) { low = Math.min(low, value); high = Math.max(high, value); }
  }
  if (!(low > 0 && high < Infinity)) { return [0, 1]; }
  const margin = Math.max(0.01, 0.05 * Math.log10(high / low));
  return [Math.log10(low) - margin, Math.log10(high) + margin];
}
