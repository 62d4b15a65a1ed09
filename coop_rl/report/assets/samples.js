"use strict";
// Responses with their verdicts: filtered, searched, a page at a time.

const PAGE = 25;
const KINDS = [
  ["", "every verdict"], ["right", "right"], ["wrong", "wrong"], ["unscored", "not scored"],
  ["truncated", "cut off at the token limit"], ["gained", "wrong before, right after"], ["lost", "right before, wrong after"],
];

const TINTS = [["", "nothing"], ["log-prob", "log-prob of the token"], ["term", "what trains it"]];
const KEYS = {
  "log-prob": [["p4", "−5 nats or less"], ["p3", "to −2.5"], ["p2", "to −1"], ["p1", "to −0.3"], ["", "likelier, or not known"]],
  term: [["up", "RL, advantage above 0"], ["down", "RL, advantage below 0"], ["shown", "of a demonstration, given and not trained on"], ["", "not trained"]],
};

const chosen = { run: "", from: "", kind: "", colour: "", query: "", shown: PAGE };

function isChosen(sample) {
  const { run, from, kind, query } = chosen;
  return (run === "" || sample.run === Number(run)) && (from === "" || sample.from === from) && isOfKind(sample, kind) &&
    (!query || `${sample.prompt}\n${sample.response}\n${sample.gold}`.toLowerCase().includes(query));
}

function isOfKind(sample, kind) {
  if (kind === "truncated") return sample.is_truncated;
  if (kind === "gained" || kind === "lost") return sample.change === kind;
  if (kind === "unscored") return !["right", "wrong"].includes(sample.verdict);
  return !kind || sample.verdict === kind;
}

function picker(label, key, options, redraw) {
  const select = el("select", { onchange: () => { chosen[key] = select.value; chosen.shown = PAGE; redraw(); } },
    options.map(([value, text]) => el("option", { value }, flat(text))));
  select.value = chosen[key];
  return el("label", {}, label, select);
}

/** Make the section's inside; `samplesOf` returns what is there now. */
function samplesSection(content) {
  const list = el("div", {});
  const key = el("ul", { class: "legend", "aria-label": "Colours of tokens" });
  const count = el("p", { class: "soft small", role: "status" });
  const more = el("button", { type: "button", onclick: () => { chosen.shown += PAGE; draw(); } }, "Show more");
  const draw = () => {
    const found = content.samples.filter(isChosen);
    const shown = found.slice(0, chosen.shown);
    count.textContent = `${found.length.toLocaleString("en")} of ${content.samples.length.toLocaleString("en")} samples`
      + (content.num_left_out ? `; ${content.num_left_out.toLocaleString("en")} more stand in the run's files` : "");
    key.replaceChildren(...(KEYS[chosen.colour] ?? []).map(([kind, text]) => el("li", {}, el("span", { class: `token ${kind}` }, "abc"), text)));
    key.hidden = !chosen.colour;
    list.replaceChildren(...shown.map((sample) => card(content, sample)));
    more.hidden = shown.length === found.length;
  };
  const search = el("input", { type: "search", placeholder: "prompt, response, answer", oninput: () => { chosen.query = search.value.toLowerCase(); chosen.shown = PAGE; draw(); } });
  search.value = chosen.query;
  const sources = [...new Set(content.samples.map((s) => s.from))];
  const filters = el("div", { class: "filters" },
    content.runs.length > 1 ? picker("Run", "run", [["", "every run"], ...content.runs.map((r, i) => [String(i), r.name])], draw) : null,
    picker("From", "from", [["", "everywhere"], ...sources.map((s) => [s, s === "training" ? s : `evaluation ${s}`])], draw),
    picker("Verdict", "kind", KINDS, draw), content.samples.some((s) => s.tokens?.length) ? picker("Colour tokens by", "colour", TINTS, draw) : null, el("label", { class: "grow" }, "Search", search));
  draw();
  return el("div", {}, filters, key, count, list, more);
}

function card(content, sample) {
  const kind = ["right", "wrong"].includes(sample.verdict) ? sample.verdict : "other";
  const where = sample.from === "training" ? `step ${sample.step}` : `${sample.from}, after ${sample.step} steps`;
  const about = [
    content.runs.length > 1 ? content.runs[sample.run].name : null, where,
    sample.reward === null || sample.reward === undefined ? null : `reward ${number(sample.reward)}`,
    sample.num_tokens === null || sample.num_tokens === undefined ? null : `${sample.num_tokens} tokens`,
    typeof sample.advantage === "number" ? `advantage ${signed(sample.advantage)}` : null,
    sample.is_truncated ? "cut off" : null,
    { gained: "wrong before, right after", lost: "right before, wrong after" }[sample.change] ?? null,
    sample.gold ? `right answer: ${sample.gold}` : null,
  ];
  return el("article", { class: `sample ${kind}` },
    el("h3", {}, el("strong", {}, sample.verdict), about.filter((text) => text !== null).map((text) => el("span", {}, text))),
    sample.prompt ? words("prompt", sample.prompt, sample.prompt_cut) : null,
    words("response", sample.response, sample.response_cut, chosen.colour ? coloured(sample) : null));
}

function shade(logProb) {
  return ["p4", "p3", "p2", "p1"].find((_, i) => logProb <= [-5, -2.5, -1, -0.3][i]) ?? "";
}

/** The response token by token; null where its tokens are not known. */
function coloured(sample) {
  if (!sample.tokens?.length) return null;
  const letters = [...sample.response]; // the lengths count characters, not halves of them
  const nodes = [];
  const add = (text, kind, title) => nodes.push(el("span", { class: `token ${kind}`, title }, marked(text, chosen.query)));
  const isTerm = chosen.colour === "term";
  let at = sample.given;
  if (at) add(letters.slice(0, at).join(""), isTerm ? "shown" : "", "given, of a demonstration");
  const { advantage } = sample;
  const term = !advantage ? "" : advantage > 0 ? "up" : "down";
  const trained = typeof advantage === "number" ? `advantage ${signed(advantage)}` : "not trained";
  let logProbs = [];
  for (const [length, logProb] of sample.tokens) {
    logProbs.push(logProb);
    if (!length) continue; // the rest of its character is in the next
    const least = Math.min(...logProbs.map((value) => value ?? -Infinity));
    add(letters.slice(at, at + length).join(""), isTerm ? term : shade(least), `log-prob ${logProbs.map((v) => v ?? "none").join(", ")}; ${trained}`);
    at += length;
    logProbs = [];
  }
  if (at < letters.length) nodes.push(visible(letters.slice(at).join("")));
  return nodes;
}

function words(kind, text, cut, nodes = null) {
  // dir=auto: a text in Arabic or Hebrew runs its own way, inside its own box.
  const box = el("div", { class: `text ${kind}`, dir: "auto", tabindex: text.length > 600 ? "0" : null, role: text.length > 600 ? "region" : null, "aria-label": text.length > 600 ? kind : null });
  box.append(...(nodes ?? marked(text.replace(/\n+$/, ""), chosen.query)));
  return cut ? el("div", {}, box, el("p", { class: "soft small" }, `… ${cut.toLocaleString("en")} more characters`)) : box;
}
