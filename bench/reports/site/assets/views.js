// The other views of the page: one row, "which one should I take?", the gates; and which view the address asks for.
"use strict";

/* ---- one row ---- */

function fact(name, ...said) { return [el("dt", {}, name), el("dd", {}, ...said)]; }
function plainTable(caption, titles, lines) {
  return el("div", { className: "scroll", role: "region", tabIndex: 0, "aria-label": caption }, el("table", {}, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, titles.map((title) => el("th", { scope: "col" }, title)))),
    el("tbody", {}, lines.map((line) => el("tr", {}, line.map((cell) => el("td", {}, cell instanceof Node ? cell : el("bdi", { className: String(cell).length < 32 ? "short" : "" }, String(cell)))))))));
}
function shares(caption, pairs, of, what = "share") {
  return plainTable(caption, ["", what, ""], pairs.map(([name, share]) =>
    [name, of(share), el("span", { className: "share", style: `width:${Math.max(0, Math.min(1, share)) * 12}rem`, role: "presentation" })]));
}

const routes = (row) => Object.entries(row.routing).map(([name, share]) => [routeName(name), share]);

/** The specs of all seeds of a configuration, those of the runs that they start from first: what reproduces the row. */
function specsOf(config) {
  const { spec, parent, runs } = data.configs[config];
  const before = parent && data.configs[parent] ? specsOf(parent) : [];
  return [...before, ...runs.map((run) => ({ ...spec, seed: run.seed, init_from: run.from }))];
}
/** The options without which these specs cannot run. */
function needsOf(config) {
  const { needs, parent } = data.configs[config];
  return unique([...(parent && data.configs[parent] ? needsOf(parent) : []), ...needs]);
}

/** What the executed proof of a row ran. */
function proofText(row) {
  if (!row.proof) return "Its records hold none.";
  if (row.kind === "static") return "In each seed the network was run and its multiply-adds counted, operator by operator: they are those claimed.";
  return `Over all seeds ${many(row.proof.images, "image")} in ${many(row.proof.groups, "group")} and ${many(row.proof.alone, "image")} alone: the multiply-adds that ran are those claimed, of ${many(row.proof.networks, "network")}.`;
}

function showRow(place, parameters) {
  const row = byKey.get(`${parameters.get("config")} ${parameters.get("point")}`);
  const back = el("p", {}, el("a", { href: `#board?${state}` }, "← all rows"));
  if (!row) { place.replaceChildren(back, el("p", {}, "This row is not in these results.")); return; }
  const config = data.configs[row.config], specs = JSON.stringify(specsOf(row.config), null, 1);
  const missing = config.parent && !data.configs[config.parent];
  const download = el("a", { download: "specs.json", href: URL.createObjectURL(new Blob([specs], { type: "application/json" })) }, "specs.json");
  const files = (run) => el("span", {}, run.files.map((name) => [el("a", { href: `${run.folder}/${name}` }, name), " "]));
  const pairs = (object) => Object.entries(object).map(([key, value]) => `${key} ${value}`).join(", ");
  const settings = Object.entries(config.settings);
  const environments = unique(config.runs.map((run) => run.environment)).filter(Boolean);
  const curves = curvesOf(config.runs);
  place.replaceChildren(
    el("h2", { tabIndex: -1 }, el("bdi", {}, rowTitle(row))), back, // the next stop of Tab after the heading
    el("p", {}, badges(row), row.control ? el("span", { className: "badge" }, "control") : null),
    el("dl", {},
      fact(data.metric.axis, `${percent(row.score)} %, 95 % interval ${percent(row.low)} to ${percent(row.high)}; ${many(row.seeds, "seed")}, ${count(data.images)} images`),
      fact("Rank", tiesText(row) + (row.budget_rank ? `; ${row.budget_rank} among the rows within its budget` : "")),
      fact("Multiply-adds per image", row.madds_min === row.madds_max ? count(row.madds) : `${count(row.madds)} on average, ${count(row.madds_min)} to ${count(row.madds_max)}`),
      fact("Parameters", `${count(row.stored)} stored, ${count(row.active)} active`),
      fact("Model", el("bdi", {}, `${row.model} (${row.family})`)), fact("Its own name", el("bdi", {}, row.name)),
      fact("Executed proof", proofText(row)),
      settings.length ? fact("Settings that are not the defaults", el("bdi", {}, settings.map(([key, value]) => `${key}=${JSON.stringify(value)}`).join(", "))) : []),
    data.settings.some((_, k) => row[`ms${k}`] !== null) ? plainTable("Latency, median ms a batch", ["setting", "ms"], data.settings.map((s, k) => [settingName(s), ms(row[`ms${k}`])])) : "",
    el("h3", {}, "Reproduce it"),
    missing ? el("p", {}, "It starts from a run that is not in these results.") : el("p", {}, "Save ", download, " and run: ", el("code", { id: "again" }, ["slicebench run specs.json", ...needsOf(row.config), "--results again"].join(" "))),
    el("details", {}, el("summary", {}, "specs.json"), el("pre", { id: "specs" }, specs)),
    el("h3", {}, "Runs"),
    plainTable("One run a seed", ["seed", "run", "files", "digests", "seconds"], config.runs.map((run) => [run.seed, run.id, files(run), pairs(run.digests), pairs(run.seconds)])),
    ...environments.map((said) => el("p", { className: "quiet" }, said)),
    Object.keys(row.routing).length ? shares("Routing: share of the images on each route, mean over seeds", routes(row), (share) => `${percent(share, 1)} %`) : "",
    ...(curves.length ? [el("h3", {}, "Training"), el("div", { id: "curve", className: "plot" })] : [el("p", {}, config.runs.some((run) => run.curves === null) ? "The losses of the training are in train.json: this page holds too many runs to show them." : "These runs trained nothing, or recorded no losses.")]),
    row.classes ? shares("Mean score of each class", data.classes.map((name, k) => [name, row.classes[k]]), (share) => `${percent(share, 1)} %`, data.metric.title)
      : el("p", {}, `Scores of each class: ${data.not_by_class}`),
  );
  if (curves.length) withPlotly(() => Plotly.newPlot("curve", curves, layout(curves, "step", "training loss", false, false), PLOTLY));
  place.querySelector("h2").focus();
}

/** A line for every loss of every training of every seed. */
function curvesOf(runs) {
  return runs.flatMap((run) => Object.entries(run.curves ?? {}).flatMap(([training, curve]) =>
    unique(curve.flatMap(([, losses]) => Object.keys(losses))).map((part) => {
      const points = curve.filter(([, losses]) => part in losses);
      return { type: "scatter", mode: "lines", name: `${training}: ${part}, seed ${run.seed}`, x: points.map(([step]) => step), y: points.map(([, losses]) => losses[part]) };
    })));
}

/* ---- which one should I take? ---- */

/** What a budget may be of: the name in the address -> the title, the rows' number, and how many of these are a unit. */
const COSTS = new Map([
  ["kmadds", { title: "thousand MAdds per image", field: "madds", unit: 1e3 }], ["madds", { title: "million MAdds per image", field: "madds", unit: 1e6 }],
  ...data.settings.map((s, k) => [`ms${k}`, { title: `ms per batch: ${settingName(s)}`, field: `ms${k}`, unit: 1 }]),
]);
const candidates = rows.filter((row) => !row.control);
const spent = ({ field }) => candidates.map((row) => row[field]).filter((value) => value !== null).sort((a, b) => a - b);
const middle = (sorted) => sorted[Math.floor(sorted.length / 2)];
const threeDigits = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
/** Up to two digits, so that the number itself still fits. */
function roundedUp(value) {
  const step = 10 ** (Math.floor(Math.log10(value)) - 1);
  return Number((Math.ceil(value / step) * step).toPrecision(2));
}

function buildPick() {
  const form = document.getElementById("budget");
  const first = middle(spent(COSTS.get("madds"))) < 1e6 ? "kmadds" : "madds";
  const kind = el("select", { id: "pick-cost" }, options([...COSTS].map(([key, { title }]) => [key, title]), first));
  const most = el("input", { type: "number", min: 0, step: "any", id: "pick-most", value: "" });
  form.append(field("at most", most), field("of", kind));
  form.addEventListener("submit", (event) => event.preventDefault());
  const suggest = () => {
    const cost = COSTS.get(kind.value), half = middle(spent(cost));
    most.value = half > 0 ? roundedUp(half / cost.unit) : "";
  };
  kind.addEventListener("input", suggest); // before the form hears of it
  form.addEventListener("input", () => {
    history.replaceState(null, "", `#pick?${new URLSearchParams({ cost: kind.value, most: most.value })}`);
    showPick(COSTS.get(kind.value), parseFloat(most.value));
  });
  suggest();
}

/** The view with the budget that the address names; without one, with that of the form. */
function openPick(parameters) {
  const kind = document.getElementById("pick-cost"), most = document.getElementById("pick-most");
  if (!kind) return; // not built yet
  if (COSTS.has(parameters.get("cost"))) {
    kind.value = parameters.get("cost");
    most.value = parameters.get("most") ?? "";
  }
  showPick(COSTS.get(kind.value), parseFloat(most.value));
}

function showPick(cost, budget) {
  const place = document.getElementById("picked"), price = (row) => row[cost.field];
  const isMadds = cost.field === "madds", priced = (row) => isMadds ? `${count(price(row))} MAdds per image` : `${ms(price(row))} ms per batch`;
  const range = spent(cost), link = (row) => el("a", { href: rowLink(row) }, el("bdi", {}, short(rowTitle(row), 90)));
  const hint = el("p", { className: "quiet" }, range.length ? `The rows take ${threeDigits(range[0] / cost.unit)} to ${threeDigits(range.at(-1) / cost.unit)} ${cost.title}. ` : "",
    rows.length > candidates.length ? "Controls, which look at no image, are left out." : "");
  const measured = candidates.filter((row) => price(row) !== null);
  const fitting = measured.filter((row) => price(row) <= budget * cost.unit).sort((a, b) => b.score - a.score || price(a) - price(b));
  const cheapestOf = (some) => some.reduce((a, b) => (price(b) < price(a) ? b : a));
  if (!fitting.length) {
    place.replaceChildren(hint, el("p", {}, !Number.isFinite(budget) ? "Say how much you can spend."
      : measured.length ? ["No row fits. The cheapest is ", link(cheapestOf(measured)), ` with ${priced(cheapestOf(measured))}.`] : "No row was measured so."));
    return;
  }
  const best = fitting[0], others = fitting.slice(1);
  // A row is told apart from the best where the data say so in pairs; without the pairs, where their ranks do not meet.
  const end = (row) => parseInt(row.rank.split(" to ").at(-1), 10);
  const isCompared = (row) => best.rank !== null && row.rank !== null;
  const isWorse = (row) => data.worse.length ? data.worse[best.id].includes(row.id) : end(best) < row.place;
  const ties = others.filter((row) => isCompared(row) && !isWorse(row)), cheapest = cheapestOf([best, ...ties]);
  const uncompared = others.filter((row) => !isCompared(row)).length;
  const ofTies = () => {
    if (!others.length) return "No other row fits.";
    if (best.rank === null) return `${best.seeds < 3 ? "It has fewer than three seeds" : "This report was made without ranks"}, so nothing is said of ties.`;
    const said = !ties.length ? uncompared === others.length ? [] : ["It is surely better than all others that fit", uncompared ? " and have three seeds." : "."]
      : [`The data do not tell it apart from ${ties.length} other${ties.length === 1 ? "" : "s"} that fit`,
        cheapest === best ? "; it is also the cheapest of all these." : [", the cheapest of all these is ", link(cheapest), "."]];
    return [said, uncompared ? ` Nothing is said of ${uncompared} with fewer than three seeds.` : ""];
  };
  const verdict = (row) => row === best ? "best" : !isCompared(row) ? "" : isWorse(row) ? "surely worse" : "tied with the best";
  place.replaceChildren(hint,
    el("p", {}, el("strong", {}, "Best of ", String(fitting.length), ": "), link(best), ` with ${percent(best.score)} % and ${priced(best)}.`),
    el("p", {}, ofTies()),
    plainTable("The rows that fit, best first", ["point", `${data.metric.title} %`, "95 % interval", isMadds ? "MAdds/image" : "ms per batch", "said of it"],
      fitting.slice(0, 15).map((row) => [link(row), percent(row.score), `${percent(row.low)} to ${percent(row.high)}`, isMadds ? count(row.madds) : ms(price(row)), verdict(row)])),
  );
}

/* ---- gates ---- */

function buildGates() {
  const form = document.getElementById("gate-choice");
  if (!form || !data.gates.points.length) return;
  const first = Math.max(0, data.gates.points.findIndex((gate) => gate.entropy > 0)); // one that does not send all one way
  const select = el("select", { id: "gate" }, data.gates.points.map((gate, k) => el("option", { value: k, selected: k === first }, short(rowTitle(rows[gate.row]), 90))));
  form.append(field("gate", select));
  form.addEventListener("submit", (event) => event.preventDefault());
  select.addEventListener("change", () => showGate(data.gates.points[select.value]));
  document.addEventListener("themed", () => { if (address()[0] === "gates") showGate(data.gates.points[select.value]); });
}

/** Whether a verdict is that of a test: fewer than three seeds have none, and a gate that sends all one way needs none. */
const isTested = (one) => one.p_holm !== null && one.verdict !== "collapsed";

function showGate(gate) {
  const row = rows[gate.row], config = data.configs[row.config];
  const fixed = hull(rows.filter((one) => one.fixed && data.configs[one.config].parent === row.config), (one) => one.madds, (one) => 100 * one.score);
  const cascades = rows.filter((one) => !one.control && one.kind === "dynamic" && data.configs[one.config].parent === row.config);
  const mark = (name, x, y, symbol, k, size = 11) => ({ type: "scatter", mode: "markers", name, x, y, hoverinfo: "name+x+y", marker: { symbol, size, color: colour(`--c${k}`) } });
  const found = [
    { type: "scatter", mode: "lines+markers", name: "fixed choices and their hull", x: fixed.map((one) => one.madds), y: fixed.map((one) => 100 * one.score), line: { dash: "dot", color: colour("--quiet") }, hoverinfo: "name+x+y" },
    ...gate.against.map((one) => mark(one.role === "random" ? "random, same proportions" : "hull at equal MAdds", [one.other_madds], [100 * one.other_score], one.role === "random" ? "x" : "diamond", one.role === "random" ? 1 : 4)),
    { ...mark("this gate", [row.madds], [100 * row.score], "circle", 0, 13), error_y: { type: "data", symmetric: false, array: [100 * (row.high - row.score)], arrayminus: [100 * (row.score - row.low)] } },
    ...(cascades.length ? [mark("cascades on the same weights", cascades.map((one) => one.madds), cascades.map((one) => 100 * one.score), "square", 2)] : []),
    ...(gate.oracle_score === null ? [] : [mark("oracle (derived, never run)", [gate.oracle_madds], [100 * gate.oracle_score], "star", 3)]),
  ];
  withPlotly(() => Plotly.react("gate-plot", found, layout(found, "multiply-adds per image", `${data.metric.axis} (%)`, true, false), PLOTLY));
  const strip = (title, pictures) => [el("h4", {}, title), el("ul", { className: "pictures" }, pictures.map((one) =>
    el("li", {}, el("img", { src: one.picture, alt: one.class ? `test image of class ${one.class}` : "test image" }), `${one.class ? `class ${one.class}: ` : ""}${one.madds} MAdds`)))];
  document.getElementById("gate-images").replaceChildren(
    ...gate.against.map((one) => el("p", {}, `Against ${one.role === "random" ? "random routing" : `the hull (${one.members})`}: ${one.difference >= 0 ? "+" : ""}${percent(one.difference)} points [${percent(one.low)}, ${percent(one.high)}], ${one.verdict}${isTested(one) ? " after Holm's correction over all rows" : ""}.`)),
    gate.against.some(isTested) ? el("p", { className: "quiet" }, "Each interval is of its difference alone and the verdict of all rows together, so an interval without 0 may go with no difference shown.") : "",
    ...(Object.keys(row.routing).length ? [shares("Where the images go", routes(row), (share) => `${percent(share, 1)} %`)] : []),
    ...(gate.pictures?.easy.length === 0 ? [el("p", {}, "It spends as much on every image, so none is easy or hard.")] : gate.pictures ? [el("h3", {}, "Images that it finds easy and hard"), ...strip("Least spent", gate.pictures.easy), ...strip("Most spent", gate.pictures.hard)] : [el("p", {}, data.gates.images)]));
}

/* ---- which view ---- */

function show() {
  const [view, parameters] = address();
  const sections = [...document.querySelectorAll("[data-view]")];
  const asked = sections.some((section) => section.id === view) ? view : "board";
  for (const section of sections) section.hidden = section.id !== asked;
  for (const link of document.querySelectorAll(".views a")) {
    link.getAttribute("href") === `#${asked}` ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  }
  if (asked === "board") { state = parameters.size || view === "board" && location.hash ? parameters : state; table?.initialized && table.redraw(); refresh(); }
  if (asked === "pick") openPick(parameters);
  if (asked === "row") { scrollTo(0, 0); showRow(document.getElementById("row"), parameters); }
  if (asked === "gates") showGate(data.gates.points[document.getElementById("gate")?.value ?? 0]);
}

state = address()[0] === "board" ? address()[1] : state;
buildFilters();
buildAxes();
show();
// What is above is on the screen before the table, the largest part, is built.
requestAnimationFrame(() => setTimeout(() => {
  buildTable();
  table.on("tableBuilt", () => { grouped = chosen("group", "controls"); refresh(); performance.mark("table"); });
  buildChooser();
  buildPick();
  buildGates();
  show();
}));
addEventListener("hashchange", show);
