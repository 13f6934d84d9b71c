"use strict";
// Everything on the page is made here. What models wrote becomes text nodes, and nothing else: there is no other way in.

// Characters that are not seen, or turn text around: shown by their number.
const UNSEEN = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff" +
    "\\u{e0000}-\\u{e007f}\\p{Cs}]",
  "gu",
);

function visible(text) {
  return String(text).replace(UNSEEN, (one) => `[U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

// An element with attributes and children. Children are nodes or become text; null leaves one out.
// `click` takes a function; null, undefined and false leave an attribute out.
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "click") node.addEventListener("click", value);
    else node.setAttribute(name, value === true ? "" : visible(value));
  }
  fill(node, ...children);
  return node;
}

// Puts children into a node in place of what is there.
function fill(node, ...children) {
  const given = children.flat(3).filter((child) => child !== null && child !== undefined && child !== "");
  node.replaceChildren(...given.map((child) => (child instanceof Node ? child : document.createTextNode(visible(child)))));
}

// A number for people: four significant digits at most, a dash where there is none.
function shown(value) {
  if (value === null || value === undefined || value === "") return "–";
  const number = Number(value);
  if (!Number.isFinite(number)) return Number.isNaN(number) ? "–" : number > 0 ? "∞" : "-∞";
  return Number.isInteger(number) && Math.abs(number) < 1e6 ? String(number) : String(Number(number.toPrecision(4)));
}

function signed(value) {
  const text = shown(value);
  return text === "–" || text.startsWith("-") || Number(value) === 0 ? text : `+${text}`;
}

function pretty(value) {
  if (typeof value === "string") return value;
  const line = JSON.stringify(value);
  return line.length <= 100 ? line : JSON.stringify(value, null, 1);
}

const VERDICTS = { correct: ["good", "correct"], wrong: ["bad", "wrong"], ungradable: ["open", "ungradable"], timeout: ["open", "timeout"] };

function verdictChip(verdict) {
  if (!verdict) return null;
  const [kind, word] = VERDICTS[verdict] ?? ["open", verdict];
  return make("span", { class: `verdict ${kind}` }, word);
}

function section(title, ...children) {
  return make("section", {}, make("h3", {}, title), ...children);
}

function table(headings, rows) {
  return make(
    "div",
    { class: "scroll" },
    make(
      "table",
      {},
      make("thead", {}, make("tr", {}, headings.map((heading) => make("th", { scope: "col" }, heading)))),
      make("tbody", {}, rows.map((cells) => make("tr", {}, cells.map((cell) => make("td", {}, cell))))),
    ),
  );
}
