// The leaderboard of one split: rows, filters that live in the address, the table, and the plot of the filtered rows.
// Names come from records and may hold anything, so text only ever enters the page through `el`, as text.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const rows = data.rows.map((values, number) => {
  const row = Object.fromEntries(data.columns.map((name, k) => [name, values[k]]));
  row.id = number;
  row.place = row.rank ? parseInt(row.rank, 10) : null; // where its range of ranks begins
  row.tier = row.tiers.map(([tier]) => tier);
  return row;
});
const byKey = new Map(rows.map((row) => [`${row.config} ${row.name}`, row]));

/* ---- small helpers ---- */

/** An element with properties, data attributes and children; strings become text nodes, never HTML. */
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const percent = (value, digits = 2) => value === null || value === undefined ? "n/a" : (100 * value).toFixed(digits);
/** A whole number, halves to the even one, as the tables round. */
const count = (value) => value === null || value === undefined ? "n/a" : (Math.abs(value % 2) === 0.5 ? Math.floor(value) : Math.round(value)).toLocaleString("en-US");
const ms = (value) => value === null ? "n/a" : value.toLocaleString("en-US", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const unique = (values) => [...new Set(values)].sort((a, b) => String(a).localeCompare(String(b), "en", { numeric: true }));
const short = (text, most = 60) => text.length > most ? `${text.slice(0, most - 1)}…` : text;
const settingName = (s) => `${s.device}, batch ${s.batch}, ${s.form}, ${s.threads} thread${s.threads === 1 ? "" : "s"}`;
const rowTitle = (row) => [row.method, row.label, row.variant].filter(Boolean).join(", ");
const rowLink = (row) => `#row?${new URLSearchParams({ config: row.config, point: row.name })}`;
/** A route as the records name it: of one gate it is a number. */
const routeName = (name) => /^\d+$/.test(name) ? `sub-network ${name}` : /^\d+(-\d+)+$/.test(name) ? `route ${name}` : name;
const many = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
const tiesText = (row) => row.rank === null ? "no rank" : row.tied ? `${row.rank}, tied with ${row.tied}` : row.rank;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Places of the rows that none of the others beats: no other is cheaper and as good, or as cheap and better. */
function front(some, cost, score) {
  const ordered = some.filter((row) => cost(row) > 0 && score(row) !== null)
    .sort((a, b) => cost(a) - cost(b) || score(b) - score(a));
  let best = -Infinity;
  return ordered.filter((row) => score(row) > best && ((best = score(row)), true));
}

/** The upper concave hull of (cost, score), cheapest first: what a blind mixture of these rows reaches. */
function hull(some, cost, score) {
  const kept = [];
  for (const row of front(some, cost, score)) {
    const below = (a, b, c) => (score(b) - score(a)) * (cost(c) - cost(a)) <= (score(c) - score(a)) * (cost(b) - cost(a));
    while (kept.length > 1 && below(kept.at(-2), kept.at(-1), row)) kept.pop();
    kept.push(row);
  }
  return kept;
}

/* ---- what the address says ---- */

const FACETS = { method: "method", kind: "kind", family: "family", model: "model", tier: "tier" };
let state = new URLSearchParams();

/** Read "#view?key=value&..." into [view, parameters]. */
function address() {
  const [view, query] = location.hash.slice(1).split("?");
  return [view || "board", new URLSearchParams(query || "")];
}
/** Change the leaderboard's parameters and the address with them, without a step in the history for each letter. */
function change(edit) {
  edit(state);
  history.replaceState(null, "", `#board?${state}`);
  refresh();
}
const chosen = (key, fallback) => state.get(key) ?? fallback;

/** The rows that the filters in the address let through. */
function filtered() {
  const wanted = Object.keys(FACETS).map((key) => [key, state.getAll(key)]).filter(([, values]) => values.length);
  const most = parseFloat(state.get("max")) * 1e6 || Infinity;
  const words = (state.get("q") || "").toLowerCase();
  return rows.filter((row) => row.madds <= most
    && wanted.every(([key, values]) => [row[key]].flat().some((value) => values.includes(value)))
    && (!words || `${rowTitle(row)} ${row.name}`.toLowerCase().includes(words)));
}

/* ---- filters ---- */

function field(label, control) { return el("label", {}, label, control); }
function options(pairs, value) {
  return pairs.map(([key, text]) => el("option", { value: key, selected: key === value }, text));
}

function buildFilters() {
  const form = document.getElementById("filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  for (const key of Object.keys(FACETS)) {
    const values = unique(rows.flatMap((row) => row[key]));
    if (values.length < 2) continue;
    const select = el("select", { id: `filter-${key}` }, el("option", { value: "" }, "any"),
      values.map((value) => el("option", { value }, short(value))));
    select.addEventListener("change", () => {
      if (select.value) change((s) => { if (!s.getAll(key).includes(select.value)) s.append(key, select.value); });
      select.value = "";
    });
    form.append(field(FACETS[key], select));
  }
  const most = el("input", { type: "number", min: 0, step: "any", id: "filter-max" });
  most.addEventListener("change", () => change((s) => most.value ? s.set("max", most.value) : s.delete("max")));
  const words = el("input", { type: "search", id: "filter-q" });
  words.addEventListener("input", () => change((s) => words.value ? s.set("q", words.value) : s.delete("q")));
  const group = el("select", { id: "group" },
    options([["controls", "controls apart"], ["method", "by method"], ["none", "not grouped"]], chosen("group", "controls")));
  group.addEventListener("change", () => change((s) => s.set("group", group.value)));
  form.append(field("at most M MAdds", most), field("name contains", words), field("rows", group));
}

/** The filters in force, each a word that a click removes. */
function showWords(shown) {
  const place = document.getElementById("words");
  const words = [];
  for (const [key, value] of state) {
    const said = { max: `at most ${value} M MAdds`, q: `name contains ${value}` }[key]
      ?? (key in FACETS ? `${FACETS[key]}: ${value}` : null);
    if (said === null) continue;
    words.push(el("button", { type: "button", "aria-label": `remove filter ${said}`, onclick: () => {
      const left = [...state].filter(([k, v]) => k !== key || v !== value);
      change(() => { state = new URLSearchParams(left); });
    } }, el("bdi", {}, short(said)), " ×"));
  }
  place.replaceChildren(el("span", {}, `${count(shown)} of ${count(rows.length)} rows`), ...words);
  for (const key of ["max", "q"]) {
    const input = document.getElementById(`filter-${key}`);
    if (document.activeElement !== input) input.value = state.get(key) || "";
  }
}

/* ---- the table ---- */

const scores = rows.flatMap((row) => [row.low ?? row.score, row.high ?? row.score]);
const lowest = scores.reduce((a, b) => Math.min(a, b), 1), highest = scores.reduce((a, b) => Math.max(a, b), 0);
const onAxis = (score) => 100 * (score - lowest) / ((highest - lowest) || 1);

function intervalBar(row) {
  if (row.low === null) return el("span", {}, "n/a");
  const line = el("i", { style: `left:${onAxis(row.low)}%;width:${onAxis(row.high) - onAxis(row.low)}%` });
  const label = `95 % interval ${percent(row.low)} to ${percent(row.high)}`;
  return el("span", { className: "bar", role: "img", "aria-label": label, title: label }, line,
    el("b", { style: `left:${onAxis(row.score)}%` }));
}
function badges(row) {
  return el("span", {}, row.tiers.map(([tier, date]) =>
    el("span", { className: "badge", title: date || "its records say no date" }, date ? `${tier} ${date}` : tier)));
}
const text = (of) => (cell) => el("bdi", {}, String(of(cell.getData()) ?? ""));
const number = (title, name, of, more = {}) =>
  ({ title, field: name, formatter: text(of), hozAlign: "right", sorter: "number", headerSortStartingDir: "desc", ...more });
const isPhone = matchMedia("(max-width: 40rem)").matches;
const pointName = (row) => isPhone ? `${row.method}: ${row.label}` : row.label;
const COLUMNS = [
  { title: "rank", field: "place", formatter: text(tiesText), sorter: "number", on: true, phone: false, sorterParams: { alignEmptyValues: "bottom" } },
  { title: "method", field: "method", formatter: text((row) => row.method), on: true, phone: false },
  { title: "point", field: "label", on: true, phone: true, minWidth: 150, ...(isPhone ? { width: 170, variableHeight: true, cssClass: "wraps" } : {}),
    formatter: (cell) => el("a", { href: rowLink(cell.getData()) }, el("bdi", {}, short(pointName(cell.getData()), 80))) },
  { title: "variant", field: "variant", formatter: text((row) => short(row.variant, 80)), on: rows.some((row) => row.variant && !row.control), phone: false },
  number(`${data.metric.title} %`, "score", (row) => percent(row.score), { on: true, phone: true }),
  { title: "95 % interval", field: "low", formatter: (cell) => intervalBar(cell.getData()), headerSort: false, on: true, phone: false, minWidth: 110 },
  number(isPhone ? "MAdds" : "MAdds/image", "madds", (row) => count(row.madds), { on: true, phone: true, headerSortStartingDir: "asc" }),
  number("params stored", "stored", (row) => count(row.stored), { on: true, phone: false }),
  { title: "tier", field: "tier", formatter: (cell) => badges(cell.getData()), headerSort: false, on: true, phone: false, minWidth: 220 },
  { title: "kind", field: "kind", formatter: text((row) => row.control ? `${row.kind}, control` : row.kind) },
  { title: "model", field: "model", formatter: text((row) => row.model) },
  { title: "family", field: "family", formatter: text((row) => row.family) },
  number("low %", "low_", (row) => percent(row.low)), number("high %", "high_", (row) => percent(row.high)),
  number("std over seeds", "std", (row) => percent(row.std)), number("seeds", "seeds", (row) => row.seeds),
  number("smallest difference shown", "smallest", (row) => percent(row.smallest)),
  { title: "rank in its budget", field: "budget_rank", formatter: text((row) => row.budget_rank) },
  { title: "unbeaten at its MAdds", field: "unbeaten", formatter: text((row) => row.unbeaten) },
  number("params active", "active", (row) => count(row.active)),
  { title: "own name", field: "name", formatter: text((row) => short(row.name, 80)) },
  ...data.settings.map((setting, k) => number(`ms, ${settingName(setting)}${setting.busy ? " (machine busy)" : ""}`, `ms${k}`,
    (row) => ms(row[`ms${k}`]), { headerSortStartingDir: "asc" })),
];
for (const row of rows) {
  row.low_ = row.low;
  row.high_ = row.high;
  data.settings.forEach((_, k) => { row[`ms${k}`] = row.latency[k] ?? null; });
}

const visible = () => {
  const named = state.get("cols");
  return new Set(named ? named.split(",") : COLUMNS.filter((c) => isPhone ? c.phone : c.on).map((c) => c.field));
};
let table = null;

function groupOf(row) {
  return chosen("group", "controls") === "method" ? row.method : row.control ? "Controls, which look at no image" : "Methods";
}

function buildTable() {
  const shown = visible();
  table = new Tabulator("#table", {
    data: rows, index: "id", layout: "fitDataStretch", maxHeight: "32rem", printAsHtml: true,
    placeholder: "No row fits these filters.",
    groupBy: chosen("group", "controls") === "none" || !rows.some((row) => row.control) && chosen("group", "controls") === "controls" ? false : groupOf,
    groupHeader: (value, many) => el("span", {}, el("bdi", {}, `${short(String(value))} `), `(${count(many)})`),
    initialSort: [{ column: chosen("sort", "madds").split(":")[0], dir: chosen("sort", "madds:asc").split(":")[1] || "asc" }],
    columns: COLUMNS.map(({ on, phone, ...column }) => ({
      ...column, visible: shown.has(column.field),
      // A header is a button, so that the keyboard sorts too; its click bubbles to the header's own.
      titleFormatter: column.headerSort === false ? undefined : (cell) => el("button", { type: "button" }, cell.getValue()),
    })),
  });
  table.on("renderComplete", tellGroups);
  table.element.setAttribute("aria-label", `Leaderboard of ${data.split}`);
  table.on("rowClick", (event, row) => { if (!event.target.closest("a")) location.hash = rowLink(row.getData()); });
  table.on("dataSorted", (sorters) => {
    if (!sorters.length || address()[0] !== "board") return;
    state.set("sort", `${sorters[0].field}:${sorters[0].dir}`);
    history.replaceState(null, "", `#board?${state}`);
  });
}

/** Tabulator gives the head of a group a role that wants rows inside; it is itself a row, of one cell. */
function tellGroups() {
  table.element.querySelector(".tabulator-tableholder").removeAttribute("tabindex"); // the links in it are reached anyway
  for (const head of table.element.querySelectorAll(".tabulator-group[role='rowgroup']")) {
    head.setAttribute("role", "row");
    for (const part of head.children) part.setAttribute("role", "gridcell");
    head.querySelector(".tabulator-group-toggle")?.setAttribute("aria-label", "fold");
  }
}

function buildChooser() {
  const fieldset = document.querySelector("#chooser fieldset");
  for (const column of COLUMNS) {
    const box = el("input", { type: "checkbox", checked: visible().has(column.field), onchange: () => {
      const boxes = [...fieldset.querySelectorAll("input")];
      change((s) => s.set("cols", COLUMNS.filter((_, k) => boxes[k].checked).map((c) => c.field).join(",")));
      box.checked ? table.showColumn(column.field) : table.hideColumn(column.field);
      table.redraw(true);
    } });
    fieldset.append(el("label", {}, box, ` ${column.title}`));
  }
}

/* ---- the plot ---- */

const AXES = {
  madds: ["multiply-adds per image", (row) => row.madds], score: [`${data.metric.axis} (%)`, (row) => row.score === null ? null : 100 * row.score],
  stored: ["parameters stored", (row) => row.stored], active: ["parameters active", (row) => row.active],
  std: ["standard deviation over seeds (points)", (row) => row.std === null ? null : 100 * row.std],
  ...Object.fromEntries(data.settings.map((s, k) => [`ms${k}`, [`ms per batch: ${settingName(s)}`, (row) => row[`ms${k}`]]])),
};
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "star", "pentagon", "hexagon", "triangle-down"];
const METHODS = unique(rows.map((row) => row.method));
const MOST_WITH_BARS = 600;

function buildAxes() {
  const form = document.getElementById("axes");
  form.addEventListener("submit", (event) => event.preventDefault());
  const names = Object.entries(AXES).map(([key, [title]]) => [key, title]);
  for (const [key, fallback, title] of [["x", "madds", "horizontal"], ["y", "score", "vertical"]]) {
    const select = el("select", { id: `axis-${key}` }, options(names, chosen(key, fallback)));
    select.addEventListener("change", () => change((s) => s.set(key, select.value)));
    const log = el("input", { type: "checkbox", checked: chosen(`${key}log`, key === "x" ? "1" : "0") === "1" });
    log.addEventListener("change", () => change((s) => s.set(`${key}log`, log.checked ? "1" : "0")));
    form.append(field(title, select), el("label", { className: "inline" }, log, "log"));
  }
}

const LADDER = Array.from({ length: 40 }, (_, k) => (k % 3 ? (k % 3 === 1 ? 2 : 5) : 1) * 10 ** (Math.floor(k / 3) - 2));
/** 25000000 as "25 M", as the axes of the figures say it. */
const si = (value) => value >= 1e9 ? `${value / 1e9} G` : value >= 1e6 ? `${value / 1e6} M` : value >= 1e3 ? `${value / 1e3} k` : `${+value.toPrecision(2)}`;
const PLOTLY = { displaylogo: false, responsive: true, displayModeBar: isPhone ? false : "hover" };

/** Plotly reads a few HTML tags in names and hover texts; these are names of records, so none is meant. */
const plain = (said) => said.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const hover = (row) => `${plain(short(row.method))}<br>${plain(short(row.label))}<br>${percent(row.score)} % [${percent(row.low)}, ${percent(row.high)}]<br>${count(row.madds)} MAdds, rank ${tiesText(row)}`;

/** Ticks of a log axis: 1, 2, 5 of each decade; Plotly's own, evenly spaced, where the values span too little for these. */
function logTicks(values) {
  const positive = values.filter((value) => value > 0);
  const least = positive.reduce((a, b) => Math.min(a, b), Infinity), most = positive.reduce((a, b) => Math.max(a, b), 0);
  return most > least && most / least < 8 ? { tickformat: "~s", nticks: 8 } : { tickvals: LADDER, ticktext: LADDER.map(si) };
}

/** The plan of a plot of these traces. */
function layout(found, xTitle, yTitle, xLog, yLog) {
  const axis = (title, log, name) => ({ ...(log ? logTicks(found.flatMap((trace) => trace[name])) : {}), title: { text: title, standoff: 8 }, type: log ? "log" : "linear", gridcolor: colour("--line"), linecolor: colour("--quiet"), zeroline: false, automargin: true });
  return {
    paper_bgcolor: colour("--page"), plot_bgcolor: colour("--page"), font: { color: colour("--text"), family: "inherit" },
    margin: { l: 60, r: 10, t: 10, b: 50 }, hovermode: "closest", xaxis: axis(xTitle, xLog, "x"), yaxis: axis(yTitle, yLog, "y"),
    legend: { orientation: "h", y: -0.18, yanchor: "top" }, hoverlabel: { bgcolor: colour("--panel"), font: { color: colour("--text") } },
  };
}

function traces(shown) {
  const xKey = chosen("x", "madds"), yKey = chosen("y", "score"), x = AXES[xKey][1], y = AXES[yKey][1];
  const usable = shown.filter((row) => x(row) !== null && y(row) !== null);
  const bars = yKey === "score" && usable.length <= MOST_WITH_BARS;
  const found = METHODS.map((method, k) => {
    const mine = usable.filter((row) => row.method === method);
    const isControl = mine.length && mine.every((row) => row.control);
    return {
      type: "scatter", mode: "markers", name: plain(short(method, 30)), x: mine.map(x), y: mine.map(y),
      text: mine.map(hover), hoverinfo: "text", customdata: mine.map((row) => row.id),
      marker: { color: colour(`--c${k % 8}`), size: 9, symbol: isControl ? "x-thin" : SYMBOLS[k % SYMBOLS.length], line: { width: isControl ? 2 : 0, color: colour(`--c${k % 8}`) } },
      error_y: bars ? { type: "data", symmetric: false, thickness: 1, width: 2, array: mine.map((row) => 100 * (row.high - row.score)), arrayminus: mine.map((row) => 100 * (row.score - row.low)) } : {},
    };
  }).filter((trace) => trace.x.length);
  if (yKey === "score" && xKey !== "score") {
    const onFront = front(usable, x, y);
    found.unshift({ type: "scatter", mode: "lines", name: "front of the filtered rows", x: onFront.map(x), y: onFront.map(y), hoverinfo: "skip", line: { shape: "hv", width: 3, color: colour("--quiet") }, customdata: onFront.map((row) => row.id), meta: "front" });
    const fixed = hull(usable.filter((row) => row.fixed), x, y);
    if (fixed.length > 1) found.unshift({ type: "scatter", mode: "lines", name: "hull of the fixed choices", x: fixed.map(x), y: fixed.map(y), hoverinfo: "skip", line: { dash: "dot", width: 2, color: colour("--quiet") } });
    if (xKey === "madds") {
      const quoted = data.reported.filter((row) => row.madds);
      if (quoted.length) found.push({ type: "scatter", mode: "markers", name: "reported by others", x: quoted.map((row) => row.madds), y: quoted.map((row) => 100 * row.score),
        text: quoted.map((row) => plain(short(`${row.method}, ${row.point}, ${row.source}`, 90))), hoverinfo: "text", marker: { symbol: "circle-open", size: 9, color: colour("--quiet") } });
    }
  }
  return found;
}

/** Plotly is large and only needed here, so it is loaded once the rest is on the screen. */
let plotly = null;
function withPlotly(use) {
  plotly ??= new Promise((done) => {
    const script = el("script", { src: "assets/plotly-basic.min.js", onload: done });
    document.body.append(script);
  });
  return plotly.then(use);
}

let due = 0;
function drawPlot() {
  clearTimeout(due);
  due = setTimeout(() => withPlotly(() => requestIdleCallback(() => { // the table comes first
    const place = document.getElementById("plot"), xKey = chosen("x", "madds"), yKey = chosen("y", "score");
    if (!AXES[xKey] || !AXES[yKey] || place.offsetParent === null) return;
    const found = traces(filtered());
    const plan = layout(found, AXES[xKey][0], AXES[yKey][0], chosen("xlog", "1") === "1", chosen("ylog", "0") === "1");
    Plotly.react(place, found, plan, PLOTLY).then(() => {
      if (place.dataset.listens) return;
      place.dataset.listens = "yes";
      place.on("plotly_click", ({ points }) => { if (points[0].customdata !== undefined) location.hash = rowLink(rows[points[0].customdata]); });
    });
  }, { timeout: 1000 })), 150);
}

/* ---- all of it ---- */

let grouped = null;
/** Show what the address says: the table at once, the plot a moment later. */
function refresh() {
  const shown = filtered();
  showWords(shown.length);
  if (table?.initialized) {
    const group = chosen("group", "controls");
    if (group !== grouped) table.setGroupBy(group === "none" ? false : groupOf);
    grouped = group;
    const here = new Set(shown);
    table.setFilter((row) => here.has(rows[row.id]));
  }
  drawPlot();
}
document.addEventListener("themed", drawPlot);
