"use strict";
// Elements, and text that models wrote: always text nodes, never markup.

const ODD = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\u2028\u2029\ufffd]/u;

/** Make an element; attributes whose value is null or false are left out. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child instanceof Node) node.append(child);
    else if (child !== null && child !== undefined) node.append(visible(String(child)));
  }
  return node;
}

/** Whether a character shows as its number: controls, marks of direction, broken ones. */
function isOdd(character) {
  return ODD.test(character) && !"\n\t\u200c\u200d".includes(character);
}

function named(character) {
  return "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}

/** Return text as nodes in which no character is hidden, or turns the writing around. */
function visible(text) {
  const fragment = document.createDocumentFragment();
  let plain = "";
  for (const character of text.replaceAll("\r\n", "\n")) {
    if (!isOdd(character)) { plain += character; continue; }
    if (plain) fragment.append(plain);
    plain = "";
    const odd = document.createElement("span");
    odd.className = "odd";
    odd.textContent = named(character);
    fragment.append(odd);
  }
  if (plain) fragment.append(plain);
  return fragment;
}

/** The same as one string, where no elements can stand: in charts and options. */
function flat(text) {
  return [...String(text)].map((c) => (isOdd(c) ? `[${named(c)}]` : c)).join("");
}

/** Mark what was searched for. */
function marked(text, query) {
  if (!query) return [visible(text)];
  const nodes = [];
  const low = text.toLowerCase();
  let from = 0;
  // Lower case may be longer than the text (İ): then nothing is marked.
  if (low.length !== text.length) return [visible(text)];
  for (let at = low.indexOf(query); at >= 0; at = low.indexOf(query, from)) {
    nodes.push(visible(text.slice(from, at)), el("mark", {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  nodes.push(visible(text.slice(from)));
  return nodes;
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1e6 || (size < 1e-3 && size > 0) ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

function signed(value) {
  return value === null ? "–" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
}

function say(text) {
  document.getElementById("said").textContent = flat(text);
}

/** A table that scrolls inside itself, by keyboard too. */
function table(caption, head, rows, numeric = () => false) {
  const cell = (tag, text, i, scope) =>
    el(tag, { class: numeric(i) ? "number" : null, scope }, text);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": flat(caption) },
    el("table", {},
      el("caption", {}, caption),
      el("thead", {}, el("tr", {}, head.map((text, i) => cell("th", text, i, "col")))),
      el("tbody", {}, rows.map((row) =>
        el("tr", {}, row.map((text, i) => (i ? cell("td", text, i, null) : cell("th", text, i, "row")))))),
    ));
}
