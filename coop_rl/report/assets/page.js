"use strict";
// The page itself: header, switches, sections; on the live page, new figures as they come.

const SECTIONS = [
  ["study", "The study"], ["compare", "Methods compared"], ["learning", "Learning"], ["gain", "Cooperative gain"], ["guidance", "Guidance"], ["gradients", "Gradients"],
  ["forgetting", "Forgetting"], ["time", "Time"], ["samples", "Samples"], ["config", "Configuration"], ["any", "Every metric"],
];
const POLL_MS = 2000;
const state = { axis: "steps", metric: "" };
let content = JSON.parse(document.getElementById("content").textContent);
let redraws = [];

function remembered(name, value) {
  try {
    if (value !== undefined) localStorage.setItem(name, value);
    return localStorage.getItem(name);
  } catch { return null; } // storage may be off for files
}

function radios(name, title, options, value, change) {
  return el("fieldset", {}, el("legend", {}, title), el("div", { class: "switch" }, options.map(([key, text]) =>
    el("label", {}, el("input", { type: "radio", name, value: key, checked: key === value, onchange: () => change(key) }), el("span", {}, text)))));
}

function setTheme(theme) {
  if (theme === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = theme;
  remembered("coop-rl-theme", theme);
}

function header() {
  const [run] = content.runs;
  const isOne = content.runs.length === 1;
  const many = content.tables.length ? content.title : content.arms.join(" · ");
  const about = isOne ? `${run.method}, seed ${run.seed}, ${run.status}, ${run.facts.steps} steps` : `${content.runs.length} runs in ${content.arms.length} arms`;
  document.getElementById("top").replaceChildren(
    el("h1", {}, isOne ? run.name : many),
    el("p", { class: "soft" }, about + (content.is_live ? ", live" : "")));
  document.title = flat(`${isOne ? run.name : content.title} · coop-rl`);
}

function bar(sections) {
  const theme = remembered("coop-rl-theme") ?? "auto";
  setTheme(theme);
  return el("div", { class: "bar", role: "region", "aria-label": "Sections and switches" }, el("div", {},
    el("nav", { "aria-label": "Sections", tabindex: "-1" }, sections.map(([id, text]) => el("a", { href: `#${id}` }, text))),
    radios("axis", "Over", content.axes.map((a) => [a, AXIS[a].name]), state.axis, (axis) => { state.axis = axis; redraw(); say(`Charts over ${AXIS[axis].name}`); }),
    radios("theme", "Theme", [["auto", "auto"], ["light", "light"], ["dark", "dark"]], theme, setTheme)));
}

function section(id, title, ...inside) {
  return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), inside);
}

/** Charts of a section, and what was not measured. */
function chartsOf(id) {
  const charts = content.charts.filter((chart) => chart.section === id);
  const missing = content.missing.filter((m) => m.section === id);
  if (!charts.length && !missing.length) return null;
  const figures = charts.map((chart) => {
    const figure = chartFigure(chart);
    redraws.push(() => drawChart(figure, content, content.charts.find((c) => c.title === chart.title) ?? chart, state.axis));
    return figure;
  });
  const told = missing.length ? el("p", { class: "soft small" }, "Not measured: " + missing.map((m) => m.text).join("; ") + ".") : null;
  return [el("div", { class: "charts" }, figures), told];
}

function comparison() {
  if (!content.differences.length) return null;
  const figure = chartFigure({ title: `Less ${content.arms[0]}, at equal cost`, about: "Each arm less the first; the axis switch chooses steps, tokens or device-seconds.", unit: "" }, true);
  figure.querySelector("details").remove();
  redraws.push(() => drawForest(figure, content, state.axis));
  return section("compare", "Methods compared", el("div", { class: "charts" }, figure), el("p", {}), differencesTable(content));
}

/** What a study declared and found, where the page is of one. */
function studyTables() {
  if (!content.tables.length) return null;
  return section("study", "The study", content.tables.map((t) => [
    table(t.title, t.columns, t.rows, (i) => i > 0),
    el("ul", { class: "small soft" }, t.notes.map((note) => el("li", {}, note)))]));
}

function time() {
  const figure = chartFigure({ title: "Where the seconds went", about: "Of the driver, by stage; evaluations included.", unit: "" }, true);
  redraws.push(() => drawTime(figure, content));
  return section("time", "Time", el("div", { class: "charts" }, figure));
}

function anyMetric() {
  const names = [...new Set(content.runs.flatMap((r) => [...Object.keys(r.metrics), ...Object.keys(r.evaluated.metrics)]))].sort();
  if (!names.length) return null;
  state.metric = names.includes(state.metric) ? state.metric : names[0];
  const holder = el("div", { class: "charts" });
  const draw = () => {
    const [unit, meaning] = content.meanings[state.metric] ?? ["", ""];
    const figure = chartFigure({ title: state.metric, about: meaning ? meaning[0].toUpperCase() + meaning.slice(1) + "." : "", unit }, true);
    holder.replaceChildren(figure);
    drawChart(figure, content, { title: state.metric, series: [{ metric: state.metric, label: state.metric, style: "noisy", stderr: null, is_interval: false }], is_share: unit === "share" }, state.axis);
  };
  const select = el("select", { onchange: () => { state.metric = select.value; draw(); } }, names.map((name) => el("option", { value: name }, flat(name))));
  select.value = state.metric;
  redraws.push(draw);
  return section("any", "Every metric", el("div", { class: "filters" }, el("label", {}, "Metric", select)), holder);
}

function build() {
  redraws = [];
  const isOne = content.runs.length === 1;
  // Made in the page's order, in which they are drawn too.
  const inside = {
    study: studyTables,
    compare: comparison,
    time,
    samples: () => content.samples.length ? section("samples", "Samples", samplesSection(content)) : null,
    config: () => section("config", "Configuration", isOne ? facts(content.runs[0]) : runsTable(content), el("p", {}), configTable(content)),
    any: anyMetric,
  };
  const charts = (id, title) => { const found = chartsOf(id); return found && section(id, title, ...found); };
  const made = SECTIONS.map(([id, title]) => [id, title, (inside[id] ?? charts)(id, title)]).filter(([, , node]) => node);
  header();
  const strip = document.querySelector(".bar");
  const fresh = bar(made);
  if (strip) strip.replaceWith(fresh);
  else document.getElementById("top").after(fresh);
  document.getElementById("main").replaceChildren(
    ...(content.tiles.length ? [tiles(content)] : []),
    ...(content.notes.length ? [el("ul", { class: "notes" }, content.notes.map((note) => el("li", {}, note)))] : []),
    ...made.map(([, , node]) => node));
  document.getElementById("foot").replaceChildren(el("p", {},
    `Written ${content.written_at} by coop-rl ${content.version}. `
    + (content.runs.some((r) => r.stride > 1) ? `Of long runs every ${d3.max(content.runs, (r) => r.stride)}th step is drawn. ` : "")
    + "Charts: Observable Plot and D3, ISC licence."));
  redraw();
}

/** Draw the charts in sight first, the others when the page is quiet. */
function redraw() {
  const [first, ...others] = redraws;
  first?.();
  const mine = (redraw.round = (redraw.round ?? 0) + 1);
  const next = () => {
    if (redraw.round !== mine) return;
    const until = performance.now() + 12;
    while (others.length && performance.now() < until) others.shift()();
    if (others.length) setTimeout(next);
    else document.documentElement.dataset.drawn = state.axis;
  };
  delete document.documentElement.dataset.drawn;
  setTimeout(next);
}

/** Ask for new figures; what one has chosen, opened and focused stays. */
async function poll() {
  try {
    const answer = await fetch(`data.json?seen=${content.number}`, { cache: "no-store" });
    if (answer.status === 200) renew(await answer.json());
    document.documentElement.dataset.lost = "";
  } catch {
    document.querySelector("#top p").textContent = "The server has stopped; this is what it showed last.";
  }
  setTimeout(poll, POLL_MS);
}

function renew(newer) {
  const shape = (c) => JSON.stringify([c.charts.map((x) => [x.title, x.series]), c.runs.map((r) => r.name), c.missing]);
  const isSame = shape(newer) === shape(content);
  content = newer;
  if (!isSame || !document.querySelector(".bar")) return build();
  header();
  document.querySelector(".tiles")?.replaceWith(tiles(content));
  const samples = document.querySelector("#samples > div");
  if (samples && !samples.contains(document.activeElement)) samples.replaceWith(samplesSection(content));
  redraw();
}

let wide = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === wide) return;
  wide = innerWidth;
  clearTimeout(redraw.timer);
  redraw.timer = setTimeout(redraw, 150);
});
build();
if (content.is_live) setTimeout(poll, POLL_MS);
