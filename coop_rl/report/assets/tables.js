"use strict";
// What stands in tables and bars: tiles, facts, time, differences, config.

const AXIS_OF_TABLE = { steps: "equal steps", tokens: "equal tokens", device_seconds: "equal device-seconds" };

function tiles(content) {
  return el("dl", { class: "tiles" }, content.tiles.map((tile) => el("div", { class: "tile" },
    el("dt", {}, tile.label), el("dd", {}, el("span", { class: "value" }, tile.value)),
    el("dd", { class: "small soft" }, tile.about))));
}

function facts(run) {
  const told = Object.entries(run.facts).filter(([, value]) => value !== null && value !== "");
  return el("dl", { class: "facts" }, told.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));
}

function runsTable(content) {
  const rows = content.runs.map((run) => [run.name, content.arms[run.arm], run.method, String(run.seed), run.facts.steps, run.status]);
  return table("Runs", ["run", "arm", "method", "seed", "steps", "status"], rows);
}

/** Seconds by stage: one bar a run. */
function drawTime(figure, content) {
  const rows = content.runs.flatMap((run) => Object.entries(run.seconds).map(([stage, seconds]) => ({ run: flat(run.name), stage, seconds })));
  const sums = d3.rollup(rows, (group) => d3.sum(group, (r) => r.seconds), (r) => r.stage);
  const stages = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a));
  const box = figure.querySelector(".plot");
  const width = Math.max(260, box.clientWidth || 900);
  const isOne = content.runs.length === 1;
  const shown = (r) => `${r.stage} ${number(r.seconds, 3)} s`;
  const svg = Plot.plot({
    width, height: 46 + content.runs.length * 34, marginLeft: isOne ? 4 : Math.min(150, width / 3), marginRight: 12, marginBottom: 34, marginTop: 6,
    style: { fontSize: "12px", background: "none" },
    ariaLabel: `Seconds by stage. ${stages.map((s) => `${s} ${number(sums.get(s), 3)}`).join(", ")}`,
    x: { label: "seconds", labelArrow: "none", ticks: width < 420 ? 4 : 8, tickSize: 0 },
    y: { label: null, tickSize: 0, axis: isOne ? null : "left" },
    color: { domain: stages, range: stages.map((_, i) => colour(i)) },
    marks: [
      Plot.barX(rows, { x: "seconds", y: "run", z: "stage", fill: "stage", order: stages, insetLeft: 0.5, insetRight: 0.5, insetTop: 3, insetBottom: 3 }),
      Plot.tip(rows, Plot.pointer(Plot.stackX({ x: "seconds", y: "run", z: "stage", order: stages, title: shown, ariaHidden: "true", fill: "var(--paper)", stroke: "var(--line)", fontSize: 12 }))),
    ],
  });
  place(box, svg);
  const total = d3.sum(sums.values());
  figure.points = [stages.map((stage) => ({ told: `${stage} ${number(sums.get(stage), 3)} s` }))];
  figure.querySelector(".legend").replaceChildren(...stages.map((stage, i) => el("li", {},
    el("i", { class: "box", style: `background: ${colour(i)}`, "aria-hidden": "true" }), `${stage} ${((100 * sums.get(stage)) / total).toFixed(0)} %`)));
  const details = figure.querySelector("details");
  details.querySelector(".scroll")?.remove();
  details.append(table("Seconds by stage", ["stage", ...content.runs.map((r) => r.name)],
    stages.map((stage) => [stage, ...content.runs.map((r) => number(r.seconds[stage] ?? 0, 4))]), (i) => i > 0));
}

function interval(d) {
  if (d.value === null) return d.over;
  const between = d.low === null ? "" : ` [${signed(d.low)}, ${signed(d.high)}]`;
  return `${signed(d.value)}${between}`;
}

/** Whether an interval lies on one side of zero, and whether that side is the better. */
function verdictOf(d) {
  if (d.low === null || (d.low <= 0 && d.high >= 0)) return "";
  return d.low > 0 !== d.is_lower_better ? "good" : "bad";
}

function differencesTable(content) {
  const keys = d3.group(content.differences, (d) => JSON.stringify([d.other, d.reference, d.figure]));
  const head = ["arm", "figure", ...Object.values(AXIS_OF_TABLE), "interval over"];
  const rows = [...keys.values()].map((group) => {
    const by = Object.fromEntries(group.map((d) => [d.axis, d]));
    const over = group.find((d) => d.value !== null)?.over ?? "";
    // Fewer seeds may have evaluations at equal cost on one axis than on another.
    const cell = (d) => el("span", { class: verdictOf(d) }, interval(d),
      d.value !== null && d.over !== over ? el("small", {}, `over ${d.over}`) : null);
    return [`${group[0].other} − ${group[0].reference}`, group[0].figure, cell(by.steps), cell(by.tokens), cell(by.device_seconds), over];
  });
  return table("Differences with 95 % intervals; green: better, red: worse, where the interval leaves out zero. A loss is better when lower.", head, rows, (i) => i > 1 && i < 5);
}

/** Whether a figure stands in the picture: accuracies and rewards, which share a scale. */
function isMain(figure) {
  return figure === "training reward" || / (pass@1|avg@\d+)$/.test(figure);
}

/** Intervals of one axis as a forest. */
function drawForest(figure, content, axis) {
  const rows = content.differences.filter((d) => d.axis === axis && d.value !== null && isMain(d.figure))
    .map((d) => ({ ...d, key: `${d.other}|${d.figure}`, told: flat(`${d.other}: ${d.figure} ${interval(d)}`) }));
  const box = figure.querySelector(".plot");
  const width = Math.max(260, box.clientWidth || 900);
  const index = (d) => colour(content.arms.indexOf(d.other));
  figure.points = [rows];
  if (!rows.length) {
    box.replaceChildren(el("p", { class: "soft" }, `Nothing was stored at ${AXIS_OF_TABLE[axis]}: evaluations on the way (evaluation.every) make more comparable.`));
    return;
  }
  const svg = Plot.plot({
    width, height: 56 + rows.length * 40, marginLeft: 12, marginRight: 12, marginTop: 8, marginBottom: 36,
    style: { fontSize: "12px", background: "none" }, ariaLabel: `At ${AXIS_OF_TABLE[axis]}: ${rows.map((r) => r.told).join("; ")}`,
    x: { label: "difference, with its 95 % interval", labelArrow: "none", tickSize: 0, nice: true, ticks: width < 420 ? 4 : 8, zero: true, tickFormat: "+~g" },
    y: { axis: null, domain: rows.map((r) => r.key) }, color: { type: "identity" },
    marks: [
      Plot.gridX({ stroke: "var(--grid)", strokeOpacity: 1 }), Plot.ruleX([0], { stroke: "var(--soft)" }),
      Plot.text(rows, { y: "key", text: "told", frameAnchor: "left", dy: -9, textAnchor: "start", fill: "var(--ink)", stroke: "var(--card)", strokeWidth: 4 }),
      Plot.ruleY(rows.filter((r) => r.low !== null), { y: "key", x1: "low", x2: "high", stroke: index, strokeWidth: 3, dy: 8, strokeLinecap: "round" }),
      Plot.dot(rows, { y: "key", x: "value", fill: index, r: 5, dy: 8, stroke: "var(--card)", strokeWidth: 1.5 }),
    ],
  });
  place(box, svg);
}

function configTable(content) {
  const { title, columns, rows } = content.config;
  if (!rows.length) return el("p", { class: "soft" }, "The runs do not differ in any field.");
  return table(title, ["field", ...columns], rows);
}
