"use strict";
// Charts of the page, drawn by plotly.js. Each takes an element, its data and whether it is dark.

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f",
  "#b8a100", "#8c5a3c", "#5e4fa2"];
const KIND_COLOURS = { forward: "#56b4e9", backward: "#0072b2", "input backward": "#0072b2",
  "weight backward": "#009e73", optimizer: "#cc79a7", message: "#e69f00", "exchange within layers": "#b8a100",
  "data-parallel": "#d55e00", other: "#7f7f7f" };
const PART_COLOURS = { compute: "#0072b2", recomputation: "#56b4e9", bubble: "#a6a6a6",
  "tensor exchange": "#d55e00", "context exchange": "#b8a100", "expert exchange": "#cc79a7",
  "gradient reduction": "#e69f00", "parameter gather": "#8c5a3c", messages: "#009e73",
  launch: "#5e4fa2", software: "#c0b090", optimizer: "#7f7f7f" };
function layoutOf(dark, more) {
  const ink = dark ? "#e4e9f0" : "#1c2430", line = dark ? "#323c4a" : "#d9dee5";
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 12 }, margin: { l: 58, r: 12, t: 8, b: 44 },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    hoverlabel: { align: "left", font: { size: 12 } }, ...more,
  };
  for (const name of Object.keys(layout)) {
    if (/^[xy]axis/.test(name)) {
      layout[name] = { gridcolor: line, zerolinecolor: line, linecolor: line, ...layout[name] };
    }
  }
  return layout;
}

function draw(element, traces, layout) {
  return Plotly.react(element, traces, layout,
    { responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] });
}

// Text of a hover box, in which plotly would read tags.
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function wrapped(text, most = 60) {
  const lines = [];
  let line = "";
  for (const word of String(text).split(" ")) {
    if (line && line.length + word.length >= most) { lines.push(line); line = ""; }
    line += (line ? " " : "") + word;
  }
  return [...lines, line].map(plain).join("<br>");
}

function seconds(value) {
  return value >= 1 ? `${value.toPrecision(4)} s` : `${(1e3 * value).toPrecision(4)} ms`;
}

// Ticks of a logarithmic axis at 1, 2, 3, 5, 7 of each decade; fewer where it has many decades.
function logTicks(places, values, more = []) {
  let low = Math.min(...more), high = Math.max(...more);
  for (const place of places) {
    const value = values[place];
    if (value > 0) { low = Math.min(low, value); high = Math.max(high, value); }
  }
  if (!(low > 0 && high < Infinity)) { return {}; }
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const steps = Math.log10(high / low) < 0.5 ? [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]
    : last - first > 2 ? [1, 3] : [1, 2, 3, 5, 7];
  const tickvals = [];
  for (let power = first; power <= last; power++) {
    tickvals.push(...steps.map((step) => Number((step * 10 ** power).toPrecision(3))));
  }
  return { tickvals, ticktext: tickvals.map(String) };
}

function drawLandscape(element, table, shown, across, up, dark) {
  const x = table.fields[across], y = table.fields[up];
  const best = y.values.map(() => x.values.map(() => null));
  for (const place of shown) {
    const step = table.step_s[place], row = best[y.of[place]], column = x.of[place];
    if (step !== null && (row[column] === null || step < table.step_s[row[column]])) {
      row[column] = place;
    }
  }
  const of = (make, none) => best.map((row) => row.map((p) => p === null ? none : make(p)));
  return draw(element, [{ type: "heatmap", z: of((p) => Math.log10(table.step_s[p]), null),
    customdata: best, x: x.values.map(String), y: y.values.map(String),
    text: of((p) => seconds(table.step_s[p]), ""), texttemplate: "%{text}",
    hovertext: of((p) => wrapped(table.text[p]), ""), hovertemplate: "%{hovertext}<extra></extra>",
    colorscale: [[0, "#6baed6"], [0.5, "#f0f0f0"], [1, "#fdae6b"]], showscale: false,
    textfont: { color: "#1c2430" }, xgap: 2, ygap: 2, hoverongaps: false }],
  layoutOf(dark, { xaxis: { title: { text: x.label }, type: "category" },
    yaxis: { title: { text: y.label }, type: "category" } }));
}

function drawSplit(element, plans, dark) {
  const parts = [...new Set(plans.flatMap((plan) => plan.time.map((one) => one.part)))];
  const names = plans.map((plan, i) => plans.length > 1 ? "AB"[i] : "");
  const traces = parts.map((part) => {
    const values = plans.map((plan) => (plan.time.find((one) => one.part === part) || {}).seconds || 0);
    return { type: "bar", orientation: "h", name: part, y: names, x: values,
      marker: { color: PART_COLOURS[part] || "#7f7f7f" },
      hovertext: values.map((v, i) => `${part}: ${seconds(v)}, ` +
        `${(100 * v / plans[i].step_s).toFixed(1)}% of the step`),
      hovertemplate: "%{hovertext}<extra></extra>" };
  });
  return draw(element, traces, layoutOf(dark, { barmode: "stack", bargap: 0.3,
    showlegend: element.clientWidth > 520,
    xaxis: { title: { text: "time of the step, mean over the ranks [s]" } },
    yaxis: { autorange: "reversed", fixedrange: true } }));
}

function drawGantt(element, plan, dark) {
  const row = new Map(plan.ranks.map((rank, i) => [rank, i]));
  // Below the computations of a rank a lane for each kind of communication. The less of its time the
  // many short ones in a bar take, the lower it is.
  const lanes = { "exchange within layers": 0.22, message: 0.34, "data-parallel": 0.46 };
  const traces = Object.entries(plan.bars).map(([kind, bars]) => {
    const x = [], y = [];
    for (const [rank, start, end, share] of bars) {
      const bottom = row.get(rank) + (lanes[kind] ?? 0.1);
      const top = bottom - (kind in lanes ? 0.11 : 0.52) * (0.3 + 0.7 * share);
      x.push(start, end, end, start, start, null);
      y.push(top, top, bottom, bottom, top, null);
    }
    return { type: "scatter", mode: "lines", fill: "toself", name: kind, x, y, hoverinfo: "skip",
      line: kind in lanes ? { width: 0.8, color: KIND_COLOURS[kind] }
        : { width: 0.4, color: dark ? "#12171e" : "#ffffff" },
      fillcolor: KIND_COLOURS[kind] || "#7f7f7f" };
  });
  const legend = element.clientWidth > 520 ? 110 : 210;
  element.style.height = `${legend + Math.min(640, 42 * plan.ranks.length)}px`;
  return draw(element, traces, layoutOf(dark, { dragmode: "zoom",
    xaxis: { title: { text: "time [s]" }, range: [0, plan.step_s] },
    yaxis: { tickvals: plan.ranks.map((_, i) => i), ticktext: plan.ranks.map((r) => `rank ${r}`),
      range: [plan.ranks.length - 0.5, -0.5], fixedrange: true } }));
}

function drawMemory(element, plan, table, dark) {
  const traces = plan.memory.map((curve, i) => ({ type: "scatter", mode: "lines",
    name: `rank ${curve.rank}`, x: curve.times_s, y: curve.gb,
    line: { shape: "hv", width: 1.5, color: COLOURS[i % COLOURS.length] },
    hovertemplate: `rank ${curve.rank}: %{y:.1f} GB at %{x:.4g} s<extra></extra>` }));
  return draw(element, traces, layoutOf(dark, {
    xaxis: { title: { text: "time [s]" }, range: [0, plan.step_s] },
    yaxis: { title: { text: "memory [GB]" }, rangemode: "tozero" },
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: table.limit_gb, y1: table.limit_gb,
      line: { color: dark ? "#ffab7a" : "#a33b00", width: 1, dash: "dot" } }] }));
}
