"use strict";
// Curves over steps, tokens or device-seconds, drawn with Observable Plot.

const AXIS = {
  steps: { name: "steps", label: "steps" },
  tokens: { name: "tokens", label: "tokens, generated and trained" },
  device_seconds: { name: "device-seconds", label: "device-seconds" },
};
const COLOURS = 8;
const DASHES = [null, "6 4", "2 3", "9 3 2 3"];
const RUNNING_MEAN = 9;
const TABLE_ROWS = 60;

const colour = (index) => `var(--s${index % COLOURS})`;

/** Return a chart's curves: one for each run and metric, with its points on the chosen axis. */
function curves(content, chart, axis) {
  const isOne = content.runs.length === 1;
  const found = [];
  content.runs.forEach((run) => {
    expand(run, chart).forEach((series, index) => {
      const of = series.metric in run.metrics ? run : run.evaluated;
      const get = (name) => of.metrics[name] ?? [];
      const [y, low, high, error] = [series.metric, series.metric + "_low", series.metric + "_high", series.stderr].map(get);
      const points = of.x[axis].map((x, i) => ({
        x, y: y[i],
        low: series.is_interval ? low[i] : error[i] == null ? null : y[i] - 1.96 * error[i],
        high: series.is_interval ? high[i] : error[i] == null ? null : y[i] + 1.96 * error[i],
      })).filter((p) => p.y !== null && p.y !== undefined && p.x !== null);
      if (points.length) found.push({
        run, series, points, index, arm: run.arm,
        colour: colour(isOne ? index : run.arm),
        dash: isOne ? null : DASHES[index % DASHES.length],
        label: isOne ? series.label : expand(run, chart).length > 1 ? `${run.name}, ${series.label}` : run.name,
      });
    });
  });
  return found;
}

function expand(run, chart) {
  return chart.series.flatMap((series) => {
    if (!series.metric.endsWith("*")) return [series];
    const stem = series.metric.slice(0, -1);
    return Object.keys(run.metrics).filter((name) => name.startsWith(stem)).sort()
      .map((metric) => ({ ...series, metric, label: metric.slice(stem.length) }));
  }).filter((series) => series.metric in run.metrics || series.metric in run.evaluated.metrics);
}

/** Return the mean of an arm's runs, on the stretch that all of them have. */
function armMeans(content, found) {
  const groups = d3.group(found, (c) => `${c.arm} ${c.series.metric}`);
  return [...groups.values()].filter((group) => group.length > 1 && group.every((c) => c.points.length > 1)).map((group) => {
    const from = d3.max(group, (c) => c.points[0].x);
    const to = d3.min(group, (c) => c.points.at(-1).x);
    const grid = to > from ? d3.range(120).map((i) => from + ((to - from) * i) / 119) : [];
    const half = (p) => (p.high ?? NaN) - p.y;
    const points = grid.map((x) => {
      const y = d3.mean(group, (c) => at(c.points, x, (p) => p.y));
      // Errors of runs are independent; how much seeds differ is what the thin lines show.
      const error = Math.hypot(...group.map((c) => at(c.points, x, half))) / group.length;
      return { x, y, low: Number.isNaN(error) ? null : y - error, high: Number.isNaN(error) ? null : y + error };
    });
    return { ...group[0], points, isMean: true, label: `${content.arms[group[0].arm]}, mean of ${group.length}` };
  });
}

function at(points, x, get) {
  const i = Math.min(Math.max(d3.bisector((p) => p.x).left(points, x), 1), points.length - 1);
  const [a, b] = [points[i - 1], points[i]];
  return b.x === a.x ? get(b) : get(a) + (get(b) - get(a)) * Math.min(1, Math.max(0, (x - a.x) / (b.x - a.x)));
}

function marksOf(curve, hasMean) {
  const { points, dash } = curve;
  const line = { x: "x", y: "y", stroke: curve.colour, strokeDasharray: dash };
  const smooth = (options) => Plot.lineY(points, Plot.windowY({ k: RUNNING_MEAN, anchor: "middle", strict: false }, options));
  const marks = [];
  if ((curve.isMean ? curve.series.style !== "points" : !hasMean) && points.some((p) => p.low !== null && p.low !== undefined)) {
    const bounded = points.filter((p) => p.low !== null && p.low !== undefined);
    marks.push(curve.series.style === "points"
      ? Plot.ruleX(bounded, { x: "x", y1: "low", y2: "high", stroke: curve.colour, strokeWidth: 1.5, strokeOpacity: 0.7 })
      : Plot.areaY(bounded, { x: "x", y1: "low", y2: "high", fill: curve.colour, fillOpacity: 0.16 }));
  }
  if (curve.isMean) marks.push(curve.series.style === "noisy" ? smooth({ ...line, strokeWidth: 2.6 }) : Plot.lineY(points, { ...line, strokeWidth: 2.6 }));
  else if (hasMean) marks.push(curve.series.style === "noisy" ? smooth({ ...line, strokeWidth: 1, strokeOpacity: 0.4 }) : Plot.lineY(points, { ...line, strokeWidth: 1, strokeOpacity: 0.4 }));
  else if (curve.series.style === "noisy") marks.push(Plot.lineY(points, { ...line, strokeWidth: 1, strokeOpacity: 0.28 }), smooth({ ...line, strokeWidth: 2.2 }));
  else marks.push(Plot.lineY(points, { ...line, strokeWidth: 2.2 }));
  if (curve.series.style === "points" && !curve.isMean) marks.push(Plot.dot(points, { x: "x", y: "y", fill: curve.colour, r: hasMean ? 2.5 : 3.5 }));
  return marks;
}

/** Draw one chart into its figure; the old drawing goes. */
function drawChart(figure, content, chart, axis) {
  const runs = curves(content, chart, axis);
  const means = armMeans(content, runs);
  const isMean = (c) => means.some((m) => m.arm === c.arm && m.series.metric === c.series.metric);
  const all = runs.flatMap((c) => c.points.map((p) => ({ ...p, label: c.label, colour: c.colour })));
  const format = chart.is_share ? d3.format(".1%") : (v) => number(v);
  const box = figure.querySelector(".plot");
  const width = Math.max(260, box.clientWidth || 460);
  const told = describe(chart, runs, axis, format);
  const shown = (p) => `${flat(p.label)} ${format(p.y)}\n${AXIS[axis].name} ${number(p.x)}`;
  const svg = Plot.plot({
    width, height: width < 420 ? 210 : 240, marginLeft: 52, marginRight: 12, marginBottom: 36, marginTop: 14,
    style: { fontSize: "12px", background: "none" }, ariaLabel: told,
    x: { label: AXIS[axis].label, labelAnchor: "right", labelArrow: "none", ticks: width < 420 ? 4 : 6, tickFormat: d3.format("~s"), tickSize: 0, nice: false },
    y: { label: null, ticks: 5, tickSize: 0, nice: true, tickFormat: chart.is_share ? "~%" : "~g", zero: false },
    marks: [
      Plot.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 5 }),
      chart.has_zero ? Plot.ruleY([0], { stroke: "var(--soft)", strokeWidth: 1 }) : null,
      ...runs.flatMap((c) => marksOf(c, isMean(c))), ...means.flatMap((c) => marksOf(c, true)),
      Plot.ruleX(all, Plot.pointerX({ x: "x", stroke: "var(--soft)", strokeOpacity: 0.5, ariaHidden: "true" })),
      Plot.dot(all, Plot.pointer({ x: "x", y: "y", r: 4, fill: (p) => p.colour, stroke: "var(--paper)", ariaHidden: "true" })),
      Plot.tip(all, Plot.pointer({ x: "x", y: "y", title: shown, ariaHidden: "true", fill: "var(--paper)", stroke: "var(--line)", fontSize: 12 })),
    ],
    color: { type: "identity" },
  });
  place(box, svg);
  figure.told = told;
  figure.points = runs.map((c) => c.points.map((p) => ({ ...p, told: shown({ ...p, label: c.label }) })));
  drawLegend(figure, content, runs, means);
  drawValues(figure, chart, runs, axis, format);
}

/** Put a drawing into its box, as one picture with one name: its parts' names are for nobody. */
function place(box, svg) {
  svg.setAttribute("role", "img");
  svg.querySelectorAll("g[aria-label]").forEach((part) => part.removeAttribute("aria-label"));
  box.replaceChildren(svg);
}

/** Say a chart in words. */
function describe(chart, runs, axis, format) {
  const said = runs.slice(0, 12).map((c) => {
    const ys = c.points.map((p) => p.y);
    return `${c.label}: first ${format(ys[0])}, last ${format(ys.at(-1))}, lowest ${format(d3.min(ys))}, highest ${format(d3.max(ys))}`;
  });
  if (runs.length > said.length) said.push(`and ${runs.length - said.length} more`);
  return flat(`${chart.title} over ${AXIS[axis].name}. ${said.join(". ")}.`);
}

function drawLegend(figure, content, runs, means) {
  const list = figure.querySelector(".legend");
  const entries = new Map();
  const dashes = { "6 4": "dash", "2 3": "dots", "9 3 2 3": "dash" };
  runs.forEach((c) => {
    const label = content.runs.length === 1 ? c.series.label
      : content.arms[c.arm] + (runs.some((o) => o.index) ? `, ${c.series.label}` : "");
    entries.set(label, c);
  });
  list.hidden = content.runs.length === 1 && entries.size === 1;
  list.replaceChildren(...[...entries].map(([label, c]) =>
    el("li", {}, el("i", { class: dashes[c.dash] ?? null, style: `border-color: ${c.colour}`, "aria-hidden": "true" }),
      label)), ...(means.length ? [el("li", {}, "bold: mean over seeds")] : []));
}

/** Fill the table of values when it is opened. */
function drawValues(figure, chart, runs, axis, format) {
  const details = figure.querySelector("details");
  const fill = () => {
    if (!details.open) return;
    const rows = runs.flatMap((c) => {
      const stride = Math.ceil((c.points.length * runs.length) / TABLE_ROWS);
      return c.points.filter((_, i) => i % stride === 0 || i === c.points.length - 1)
        .map((p) => [number(p.x), c.label, format(p.y), p.low == null ? "" : `${format(p.low)} to ${format(p.high)}`]);
    });
    const old = details.querySelector(".scroll");
    old?.remove();
    details.append(table(`${chart.title}, every so many points`, [AXIS[axis].name, "curve", "value", "95 % interval"], rows, (i) => i !== 1));
  };
  details.ontoggle = fill;
  fill();
}

/** Make a chart's figure; arrow keys walk along its first curve, up and down change the curve. */
function chartFigure(chart, isWide = false) {
  const box = el("div", { class: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart", "aria-label": `${chart.title}; arrow keys read values` });
  const figure = el("figure", { class: isWide ? "wide" : null },
    el("figcaption", {}, el("h3", {}, chart.title), el("p", {}, chart.about + (chart.unit ? ` Unit: ${chart.unit}.` : ""))),
    box, el("ul", { class: "legend" }), el("details", {}, el("summary", {}, "Values")));
  let [curve, index] = [0, -1];
  box.addEventListener("keydown", (event) => {
    const along = { ArrowRight: 1, ArrowLeft: -1 }[event.key] ?? 0;
    const across = { ArrowDown: 1, ArrowUp: -1 }[event.key] ?? 0;
    if (!(along || across || event.key === "Home" || event.key === "End") || !figure.points?.length) return;
    event.preventDefault();
    curve = (curve + across + figure.points.length) % figure.points.length;
    const points = figure.points[curve];
    index = event.key === "Home" ? 0 : event.key === "End" ? points.length - 1 : index + along;
    index = Math.min(Math.max(index, 0), points.length - 1);
    say(points[index].told.replace("\n", ", "));
    if ("x" in points[index]) point(box.querySelector("svg"), points[index]);
  });
  return figure;
}

/** Show the tip at a point, as the mouse would. */
function point(svg, p) {
  const frame = svg.getBoundingClientRect();
  const zoom = frame.width / svg.viewBox.baseVal.width;
  const where = {
    clientX: frame.left + zoom * svg.scale("x").apply(p.x), clientY: frame.top + zoom * svg.scale("y").apply(p.y),
    pointerType: "mouse", bubbles: true,
  };
  svg.dispatchEvent(new PointerEvent("pointerenter", where));
  svg.dispatchEvent(new PointerEvent("pointermove", where));
}
