"use strict";
// State of the page, what changes it, and what follows. The state is in the fragment of the
// address, so that a copied link shows the same.

const given = JSON.parse(document.getElementById("data").textContent);
let original = given.table;
// The window whose address holds the state: that of the report where the page is part of one.
const home = window.frameElement ? window.parent : window;
const token = new URLSearchParams(location.search).get("token") || "";
const SIZES = {
  global_batch: "sequences per step", seq_len: "tokens per sequence", num_accelerators: "devices",
  network_bandwidth: "speed of the network", node_bandwidth: "speed of links in a node",
  compute: "speed of devices", memory: "memory of devices" };
const FACTORS = [0.25, 0.5, 1, 2, 4];
const MOST_ROWS = 100;

const $ = (id) => document.getElementById(id);
const make = (name, text = "", properties = {}) =>
  Object.assign(document.createElement(name), text === "" ? {} : { textContent: text }, properties);

let table = original;
let details = { ...given.details };
let state = {};
let shown = [];
let rows = [];
let asked = 0;

function usual() {
  const fields = Object.keys(original.fields);
  const first = (...names) => names.find((name) => fields.includes(name)) || fields[0] || "";
  const across = first("num_stages", "tensor_parallel");
  return { hidden: {}, ranges: {}, colour: first("num_stages", "tensor_parallel"), across,
    up: ["batch_per_device", "tensor_parallel", ...fields].find(
      (name) => fields.includes(name) && name !== across) || across,
    chosen: null, compared: null, sizes: {}, dark: matchMedia("(prefers-color-scheme: dark)").matches,
    target: "megatron" };
}

// Plans of a link are named by their fields: places change as a search goes on.
let wanted = { chosen: null, compared: null };

function readState() {
  state = usual();
  wanted = { chosen: null, compared: null };
  try {
    const kept = JSON.parse(decodeURIComponent(fragment().replace(/^#/, "") || "{}"));
    for (const name of Object.keys(state)) {
      if (name in wanted) { wanted[name] = kept[name] ? keyOf(kept[name]) : null; }
      else if (name in kept && typeof kept[name] === typeof state[name]) { state[name] = kept[name]; }
    }
  } catch (error) { say("The link is damaged; all candidates are shown."); }
}

// Within a report other fragments name its sections.
function fragment() {
  const { hash } = home.location;
  return home === window || hash.startsWith("#%7B") ? hash : "";
}

function keepState() {
  const plainState = usual();
  const named = { ...state };
  for (const name of Object.keys(wanted)) {
    const there = state[name] === null ? null : table.plans[state[name]];
    named[name] = wanted[name] === null ? there : Object.fromEntries(JSON.parse(wanted[name]));
  }
  const kept = Object.fromEntries(Object.entries(named).filter(
    ([name, value]) => JSON.stringify(value) !== JSON.stringify(plainState[name])));
  const text = Object.keys(kept).length ? `#${encodeURIComponent(JSON.stringify(kept))}` : "";
  if (text || fragment()) {
    home.history.replaceState(null, "", home.location.pathname + home.location.search + text);
  }
}

function keyOf(plan) {
  return JSON.stringify(Object.entries(plan).sort(([a], [b]) => (a < b ? -1 : 1)));
}

// The places of plans by their keys; null for those that are not there.
function placesOf(keys) {
  const found = keys.map(() => null);
  if (keys.some((key) => key !== null)) {
    table.plans.forEach((plan, place) => {
      const at = keys.indexOf(keyOf(plan));
      if (at >= 0) { found[at] = place; }
    });
  }
  return found;
}

function say(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// ---- which candidates are shown

function visible() {
  const fields = Object.entries(state.hidden).filter(([name]) => table.fields[name])
    .map(([name, values]) => {
      const field = table.fields[name], hidden = new Set(values.map(String));
      return [field.of, field.values.map((value) => hidden.has(String(value)))];
    });
  const found = [];
  for (let place = 0; place < table.step_s.length; place++) {
    if (fields.every(([of, isHidden]) => !isHidden[of[place]])) { found.push(place); }
  }
  return found;
}

// Values of a candidate that ranges are over: memory, time, places in the list of a field.
function columnOf(name) {
  if (name === "step") { return table.step_s; }
  return name === "memory" ? table.memory_gb : table.fields[name]?.of;
}

// Ranges of fields are kept as values, since the list of values grows with a search.
function placedRanges() {
  return Object.fromEntries(Object.entries(state.ranges).filter(([name, range]) =>
    columnOf(name) && Array.isArray(range) && range.length === 2).map(([name, range]) => {
    const field = table.fields[name];
    return [name, field ? range.map((value) => field.values.indexOf(value)) : range];
  }).filter(([, [low]]) => low >= 0));
}

function inRanges(places) {
  const ranges = placedRanges();
  const checks = Object.entries(ranges).map(([name, range]) => [columnOf(name), range]);
  if (!checks.length) { return places; }
  return places.filter((place) => table.step_s[place] !== null && checks.every(
    ([column, [low, high]]) => column[place] >= low && column[place] <= high));
}

function fastest() {
  let best = null;
  table.step_s.forEach((step, place) => {
    if (step !== null && (best === null || step < table.step_s[best])) { best = place; }
  });
  return best;
}

let hovers = [];

function hover(place) {
  hovers[place] ??= hoverText(place);
  return hovers[place];
}

function hoverText(place) {
  const lines = [wrapped(table.text[place])];
  const step = table.step_s[place], best = fastestPlace;
  if (step !== null) {
    const slower = step / table.step_s[best] - 1;
    lines.push(`<b>${seconds(step)}</b>, ` +
      (place === best ? "the fastest" : `${(100 * slower).toFixed(1)}% slower than the fastest`) +
      `, MFU ${(100 * table.job.model_flops / step / table.job.peak_flop_per_s).toFixed(1)}%`);
    const known = details[place];
    if (known) {
      lines.push(wrapped(known.time.slice(0, 4).map((one) =>
        `${one.part} ${(100 * one.seconds / known.step_s).toFixed(1)}%`).join(", ")));
    }
  } else { lines.push(wrapped(table.reasons[table.reason[place]])); }
  if (table.memory_gb[place] !== null) {
    const gb = table.memory_gb[place];
    lines.push(`${gb.toFixed(1)} of ${table.device_gb.toFixed(1)} GB ` +
      `(${(100 * gb / table.device_gb).toFixed(0)}%)`);
  }
  return lines.join("<br>");
}
let fastestPlace = null;
const parallel = new Parallel($("parallel"), (name, range) => {
  const field = table.fields[name];
  if (range) { state.ranges[name] = field ? range.map((i) => field.values[i]) : range; } else { delete state.ranges[name]; }
  update();
});

const points = new Points($("points"), (place) => choose(place));

// ---- drawing

function update() {
  keepState();
  const all = visible();
  shown = inRanges(all);
  const fit = shown.filter((place) => table.step_s[place] !== null);
  $("count").textContent = `${shown.length.toLocaleString("en")} of ` +
    `${table.step_s.length.toLocaleString("en")} candidates, ${fit.length.toLocaleString("en")} fit` +
    (table.left_out ? `; ${table.left_out.toLocaleString("en")} slower ones are left out` : "");
  $("searched").textContent = table.search;
  rows = fit.sort((a, b) => table.step_s[a] - table.step_s[b]);
  showScatter();
  showRows();
  later(() => {
    showLandscape();
    parallel.draw(table, all, placedRanges(), state.chosen, state.dark);
  });
}

function showScatter() {
  Object.assign(points, { chosen: state.chosen, compared: state.compared });
  points.draw(table, shown, state.colour, hover, state.dark);
}

function showLandscape() {
  if (table.fields[state.across] && table.fields[state.up]) {
    drawLandscape($("landscape"), table, shown, state.across, state.up, state.dark);
  }
}

// What is chosen or compared changes marks alone.
function mark() {
  keepState();
  points.mark(state.chosen, state.compared);
  for (const row of $("plans").tBodies[0].rows) {
    const place = Number(row.dataset.place);
    row.setAttribute("aria-selected", place === state.chosen);
    row.querySelector("button").textContent = place === state.compared ? "compared" : "compare";
  }
  parallel.mark(state.chosen);
}

let waiting = 0;
let asking = 0;
function later(work) {
  clearTimeout(waiting);
  // After two pictures, so that what was changed is on the screen first.
  const mine = waiting = setTimeout(() => {
    requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => {
      if (mine === waiting) { waiting = 0; work(); }
    })));
  });
}

// Ends when all charts show the state of the page.
function settled() {
  return new Promise((done) => {
    const look = () => { if (waiting || asking) { setTimeout(look, 5); } else { done(); } };
    look();
  });
}

function showRows() {
  const body = $("plans").tBodies[0];
  const best = table.step_s[fastestPlace];
  body.replaceChildren(...rows.slice(0, MOST_ROWS).map((place) => {
    const row = make("tr", "", { id: `row${place}` });
    row.dataset.place = place;
    row.setAttribute("aria-selected", place === state.chosen);
    const button = make("button", place === state.compared ? "compared" : "compare",
      { type: "button", title: "Shows it beside the chosen plan (c)" });
    const cell = make("td");
    cell.append(button);
    row.append(make("td", seconds(table.step_s[place])),
      make("td", `${(100 * (table.step_s[place] / best - 1)).toFixed(1)}%`),
      make("td", `${table.memory_gb[place].toFixed(1)} GB`), make("td", table.text[place]), cell);
    return row;
  }));
}

function showFilters() {
  const sets = Object.entries(table.fields).map(([name, field]) => {
    const set = make("fieldset");
    set.append(make("legend", field.label));
    for (const value of field.values.slice(0, 60)) {
      const label = make("label");
      const box = make("input", "", { type: "checkbox", name, value: String(value),
        checked: !(state.hidden[name] || []).map(String).includes(String(value)) });
      label.append(box, document.createTextNode(String(value)));
      set.append(label);
    }
    return set;
  });
  $("filters").replaceChildren(...sets);
}

function fillSelect(id, names, value) {
  $(id).replaceChildren(...names.map(([name, label]) => make("option", label, { value: name })));
  $(id).value = value;
}

function showControls() {
  const names = Object.entries(table.fields).map(([name, field]) => [name, field.label]);
  for (const id of ["colour", "across", "up"]) { fillSelect(id, names, state[id]); }
  showFilters();
  document.documentElement.dataset.theme = state.dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", state.dark);
  $("theme").textContent = state.dark ? "Light" : "Dark";
  $("shades").textContent = `${state.dark ? "Yellow" : "Purple"} lines are fast plans.`;
  $("title").textContent = table.title;
  const job = table.job;
  $("about").textContent = `${job.global_batch.toLocaleString("en")} sequences of ` +
    `${job.seq_len.toLocaleString("en")} tokens a step on ${job.num_accelerators} ${job.accelerator}`;
}

// ---- one plan, two plans

async function detailsOf(place) {
  if (details[place]) { return details[place]; }
  if (!given.served) { return null; }
  const mine = table;
  const found = await post("/details", { plan: table.plans[place], sizes: state.sizes });
  if (mine === table) {
    details[place] = found;
    delete hovers[place];
  }
  return found;
}

async function choose(place) {
  wanted.chosen = null;
  state.chosen = place;
  mark();
  await showChosen();
}

async function showChosen() {
  const place = state.chosen, mine = table;
  $("chosen").hidden = place === null;
  if (place === null) { return; }
  $("chosen-words").textContent = table.text[place];
  $("chosen-note").textContent = given.served ? "…" : "";
  let found;
  try { found = await detailsOf(place); } catch (error) { $("chosen-note").textContent = error.message; return; }
  if (place !== state.chosen || mine !== table) { return; }
  for (const id of ["split", "gantt", "memory"]) { $(id).hidden = !found; }
  if (!found) {
    $("chosen-note").textContent = table.step_s[place] === null ? table.reasons[table.reason[place]]
      : "This file has the details of the fastest plans; parplan explore serves those of all.";
    $("export").textContent = "";
    return;
  }
  $("chosen-note").textContent = `step ${seconds(found.step_s)}, bubble ${(100 * found.bubble).toFixed(1)}%` +
    (table.step_s[place] === null ? `; ${table.reasons[table.reason[place]]}` : "") +
    (found.ranks.length < found.num_ranks ? `; ${found.ranks.length} of ${found.num_ranks} ranks` : "");
  drawSplit($("split"), [found], state.dark);
  drawGantt($("gantt"), found, state.dark);
  drawMemory($("memory"), found, table, state.dark);
  fillSelect("target", Object.keys(found.exports).map((name) => [name, name]), state.target);
  showExport(found);
  if (state.compared !== null) { showCompared(); }
}

function showExport(found) {
  const one = found.exports[state.target];
  $("export").textContent = one.error || Object.entries(one.files).map(
    ([name, text]) => `# ${name}\n${text}`).join("\n");
  $("unsaid").textContent = one.unsaid.length ? `It cannot say: ${one.unsaid.join("; ")}` : "";
}

async function compare(place) {
  wanted.compared = null;
  state.compared = place === state.compared ? null : place;
  mark();
  await showCompared();
}

async function showCompared() {
  const pair = [state.chosen, state.compared], mine = table;
  $("compare").hidden = pair.includes(null);
  if (pair.includes(null)) { return; }
  const facts = pair.map((place) => ({ plan: table.text[place],
    step: table.step_s[place] === null ? "does not fit" : seconds(table.step_s[place]),
    memory: table.memory_gb[place] === null ? "" : `${table.memory_gb[place].toFixed(1)} GB`,
    ...Object.fromEntries(Object.values(table.fields).map(
      (field) => [field.label, String(field.values[field.of[place]])])) }));
  $("sides").replaceChildren(...facts.map((own, side) => {
    const box = make("div"), list = make("dl");
    box.append(make("h3", side ? "B: compared" : "A: chosen"));
    for (const [name, value] of Object.entries(own)) {
      list.append(make("dt", name), make("dd", value,
        { className: name !== "plan" && value !== facts[1 - side][name] ? "differs" : "" }));
    }
    box.append(list);
    return box;
  }));
  let both;
  try { both = await Promise.all(pair.map(detailsOf)); } catch (error) { say(error.message); return; }
  $("both").hidden = both.includes(null);
  if (mine === table && !both.includes(null)) { drawSplit($("both"), both, state.dark); }
}

// ---- the server

async function post(path, body) {
  let answer;
  asking += 1;
  try {
    answer = await fetch(path, { method: "POST", body: JSON.stringify(body),
      headers: { "Content-Type": "application/json", "X-Parplan-Token": token } });
  } catch (error) {
    throw new Error("parplan explore has ended: start it again, and open the address that it prints.");
  } finally { asking -= 1; }
  const found = await answer.json();
  if (!answer.ok) { throw new Error(found.error || `the answer was ${answer.status}`); }
  return found;
}

async function ask() {
  const number = ++asked;
  let found = original;
  try {
    if (Object.keys(state.sizes).length) {
      $("asking").textContent = "Asking the planner…";
      found = await post("/search", state.sizes);
    }
  } catch (error) {
    if (number === asked) { $("asking").textContent = ""; say(error.message); }
    return false;
  }
  if (number !== asked) { return false; }
  say("");
  $("asking").textContent = "";
  if (table !== found) { hovers = []; }
  table = found;
  details = table === original ? { ...given.details } : {};
  fastestPlace = fastest();
  for (const name of ["colour", "across", "up"]) {
    if (!table.fields[state[name]]) { state[name] = Object.keys(table.fields)[0] || ""; }
  }
  return true;
}

async function askedAgain() {
  wanted = { chosen: null, compared: null };
  state.chosen = state.compared = null;
  state.ranges = {};
  keepState();
  if (await ask()) {
    showControls();
    update();
    await showChosen();
    $("compare").hidden = true;
    improve();
  }
}

// Searches everything, as parplan plan does, while the page shows what is known.
async function improve() {
  if (!given.served || table.is_whole) { return; }
  const number = asked;
  $("asking").textContent = table.filling ? "Adding plans that the search ruled out by bounds…"
    : "Searching everything by branch and bound…";
  let found;
  try { found = await post("/improve", state.sizes); }
  catch (error) {
    if (number === asked) { $("asking").textContent = ""; say(error.message); }
    return;
  }
  if (number !== asked) { return; }
  $("asking").textContent = "";
  adopt(found);
}

// Shows a table with more candidates; what is chosen stays, or becomes the fastest if that was.
function adopt(found) {
  const wasFastest = state.chosen === fastestPlace && wanted.chosen === null;
  const keys = Object.keys(wanted).map((name) =>
    wanted[name] ?? (state[name] === null ? null : keyOf(table.plans[state[name]])));
  const known = Object.entries(details).map(([place, one]) => [keyOf(table.plans[place]), one]);
  if (table === original) { original = found; }
  table = found;
  hovers = [];
  details = {};
  placesOf(known.map(([key]) => key)).forEach((place, i) => {
    if (place !== null) { details[place] = known[i][1]; }
  });
  fastestPlace = fastest();
  [state.chosen, state.compared] = placesOf(keys);
  wanted = { chosen: null, compared: null };
  if (wasFastest || state.chosen === null) { state.chosen = fastestPlace; }
  showControls();
  update();
  showChosen();
}

function showSliders() {
  const job = original.job;
  const choices = (name) => {
    if (!(name in job)) { return FACTORS; }
    return [-3, -2, -1, 0, 1, 2, 3].map((power) => job[name] * 2 ** power)
      .filter((value) => value >= 1 && Number.isInteger(value));
  };
  $("sliders").replaceChildren(...Object.entries(SIZES).map(([name, label]) => {
    const values = choices(name), own = job[name] ?? 1;
    const box = make("label", "", { className: "slider" });
    const output = make("output");
    const input = make("input", "", { type: "range", min: 0, max: values.length - 1, step: 1, name });
    input.value = Math.max(0, values.indexOf(state.sizes[name] ?? own));
    const write = () => {
      const value = values[Number(input.value)];
      output.textContent = name in job ? value.toLocaleString("en") : `x ${value}`;
      input.setAttribute("aria-valuetext", output.textContent);
    };
    write();
    input.addEventListener("input", write);
    input.addEventListener("change", () => {
      const value = values[Number(input.value)];
      if (value === own) { delete state.sizes[name]; } else { state.sizes[name] = value; }
      askedAgain();
    });
    box.append(make("span", label), output, input);
    return box;
  }));
  $("sizes").hidden = false;
}

// ---- events

function connect() {
  $("filters").addEventListener("change", (event) => {
    const { name, value, checked } = event.target;
    const hidden = new Set((state.hidden[name] || []).map(String));
    if (checked) { hidden.delete(value); } else { hidden.add(value); }
    if (hidden.size) { state.hidden[name] = [...hidden]; } else { delete state.hidden[name]; }
    update();
  });
  for (const id of ["colour", "across", "up"]) {
    $(id).addEventListener("change", () => {
      state[id] = $(id).value;
      keepState();
      if (id === "colour") { showScatter(); } else { showLandscape(); }
    });
  }
  $("target").addEventListener("change", () => {
    state.target = $("target").value;
    keepState();
    showExport(details[state.chosen]);
  });
  $("plans").addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-place]");
    if (!row) { return; }
    if (event.target.closest("button")) { compare(Number(row.dataset.place)); }
    else { choose(Number(row.dataset.place)); }
  });
  $("plans").addEventListener("keydown", (event) => {
    const at = rows.indexOf(state.chosen);
    const to = { ArrowDown: at + 1, ArrowUp: Math.max(0, at - 1), Home: 0 }[event.key];
    if (to !== undefined && to < Math.min(rows.length, MOST_ROWS)) {
      event.preventDefault();
      choose(rows[to]);
      const row = $(`row${rows[to]}`);
      if (row) { row.scrollIntoView({ block: "nearest" }); }
    } else if (event.key === "Enter" && state.chosen !== null) {
      $("chosen").scrollIntoView({ behavior: "smooth" });
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT/.test(event.target.tagName)) { return; }
    if (event.key === "d") { $("theme").click(); }
    if (event.key === "c" && rows.length) {
      const at = rows.indexOf(state.chosen);
      compare(state.compared === null ? rows[at === 0 ? 1 : 0] : state.compared);
    }
    if (event.key === "Escape") { $("forget").click(); }
  });
  $("forget").addEventListener("click", () => {
    state.compared = null;
    $("compare").hidden = true;
    mark();
  });
  $("theme").addEventListener("click", () => {
    state.dark = !state.dark;
    showControls();
    update();
    showChosen();
  });
  $("reset").addEventListener("click", () => {
    const { dark } = state;
    state = { ...usual(), dark };
    if (given.served) { showSliders(); }
    askedAgain();
  });
  $("copy").addEventListener("click", async () => {
    try { await navigator.clipboard.writeText(home.location.href); $("copy").textContent = "Copied"; }
    catch (error) { say(`Copy it from the address bar: ${home.location.href}`); }
    setTimeout(() => { $("copy").textContent = "Copy link"; }, 2000);
  });
  home.addEventListener("hashchange", () => { if (home === window || fragment()) { start(); } });
}

function connectCharts() {
  $("landscape").on?.("plotly_click", ({ points }) => {
    if (points[0].customdata !== null) { choose(points[0].customdata); }
  });
}

async function start() {
  readState();
  if (given.served) { showSliders(); }
  if (!(await ask()) && Object.keys(state.sizes).length) { state.sizes = {}; await ask(); }
  [state.chosen, state.compared] = placesOf([wanted.chosen, wanted.compared]);
  const all = !given.served || table.is_whole;
  for (const name of Object.keys(wanted)) {
    if (state[name] !== null || all) { wanted[name] = null; }
  }
  state.chosen ??= fastestPlace;
  showControls();
  update();
  await showChosen();
  if (state.compared !== null) { await showCompared(); }
  document.body.dataset.ready = "yes";
  improve();
}

function begin() {
  if (typeof Plotly === "undefined") {
    say("The charts could not be loaded: this browser is too old, or parplan explore has ended.");
    return;
  }
  connect();
  start().then(() => setTimeout(connectCharts, 200));
}

if (given.served) {
  const library = make("script", "", { src: `/library.js?token=${encodeURIComponent(token)}` });
  library.onload = begin;
  library.onerror = begin;
  document.head.append(library);
} else { begin(); }
