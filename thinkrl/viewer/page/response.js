"use strict";
// One response: its prompt, its text with marked parts and coloured tokens, its rewards, its turns, its judges.

// Put on the page at once; the rest follows as it is scrolled to.
const PIECES = 3000;
const CHARACTERS = 20000;
const SHADES = 4;
const KINDS = { think: "thinking", answer: "answer", given: "not sampled by the policy" };

// The nodes of a response. `link` makes an address from changes to the present one.
function responseView(detail, state, link) {
  return [
    heading(detail, link),
    siblings(detail, link),
    promptSection(detail),
    textSection(detail, state, link),
    partsSection(detail),
    timelineSection(detail),
    judgedSection(detail),
    factsSection(detail),
  ];
}

function heading(detail, link) {
  const facts = [
    verdictChip(detail.verdict),
    detail.reward === null && detail.parts.length === 0 ? null : `reward ${shown(detail.reward)}`,
    detail.advantage === null ? null : `advantage ${signed(detail.advantage)}`,
    detail.token_ends.length ? `${detail.token_ends.length} tokens` : `${detail.text.length} characters`,
    detail.finish_reason === "length" ? make("span", { class: "verdict open" }, "truncated") : null,
  ].filter(Boolean);
  return [
    make("h2", {}, `Step ${detail.step}, prompt ${detail.prompt_id || "without an id"}`),
    make("p", { class: "facts" }, facts.map((fact) => make("span", {}, fact))),
    make(
      "p",
      { class: "links" },
      detail.prompt_id ? make("a", { href: link({ prompt: detail.prompt_id, step: "all", group: "", page: "0" }) }, "This prompt at every step") : null,
      make("a", { href: link({ group: detail.group_id, step: detail.step, prompt: "", page: "0" }) }, "This group alone"),
    ),
  ];
}

function siblings(detail, link) {
  if (detail.group.length < 2) return null;
  const correct = detail.group.filter((one) => one.verdict === "correct").length;
  const judged = detail.group.some((one) => one.verdict);
  return make(
    "nav",
    { class: "siblings", "aria-label": "Responses of this group" },
    make("span", { class: "soft" }, `Group of ${detail.group.length}${judged ? `, ${correct} correct` : ""}:`),
    detail.group.map((one, place) =>
      make(
        "a",
        {
          href: link({ at: `${detail.step}.${one.row}` }),
          class: `sibling ${(VERDICTS[one.verdict] ?? ["none"])[0]}`,
          "aria-current": one.row === detail.row ? "true" : null,
          title: [one.verdict, one.finish_reason === "length" ? "truncated" : "", `advantage ${signed(one.advantage)}`].filter(Boolean).join(", "),
        },
        `${place + 1}`,
        make("small", {}, shown(one.reward)),
      ),
    ),
  );
}

function promptSection(detail) {
  const turns = detail.messages.map((turn) =>
    make("div", { class: "turn" }, make("span", { class: "who" }, turn.role || "prompt"), make("pre", { tabindex: 0 }, turn.content)),
  );
  const images = detail.images.map((image, place) => {
    const name = `image ${place + 1} of the prompt`;
    // Only pictures, checked by the server, and only as data: nothing is ever fetched.
    if (/^data:image\/(png|jpeg|gif|webp);base64,/.test(image.url ?? "")) return make("img", { src: image.url, alt: name });
    return make("p", { class: "problem" }, `${name} is not shown: ${image.problem ?? "no picture"}`);
  });
  const reference = detail.reference === null ? null : make("p", { class: "soft" }, "Reference: ", make("code", {}, pretty(detail.reference)));
  return section("Prompt", turns, images, reference);
}

function textSection(detail, state, link) {
  const colour = detail.colours.find((one) => one.name === state.colour) ?? null;
  const choices = [null, ...detail.colours].map((one) =>
    make(
      "a",
      { href: link({ colour: one?.name ?? "" }), class: "choice", "aria-current": one === colour ? "true" : null, title: one?.label ?? null },
      one ? colourName(one) : "none",
    ),
  );
  const about = make("p", { class: "token soft", "aria-live": "off" }, colour ? "Point at a token to read its numbers." : "");
  return section(
    "Response",
    detail.colours.length ? make("p", { class: "choices" }, make("span", { class: "soft" }, "Tokens coloured by (c):"), choices) : null,
    legend(detail, colour),
    colour ? about : null,
    responseText(detail, colour, about),
  );
}

function colourName(colour) {
  return colour.label.split(" (")[0];
}

function legend(detail, colour) {
  const kinds = [...new Set(detail.segments.flatMap((one) => one.kinds))].map((kind) => make("span", { class: `key ${kind}` }, KINDS[kind] ?? kind));
  const shades = [];
  if (colour) {
    const steps = colour.signed ? [-4, -3, -2, -1, 1, 2, 3, 4] : [1, 2, 3, 4];
    shades.push(
      make("span", { class: "shades" }, colour.signed ? shown(-colour.scale) : "0", steps.map((step) => make("i", { class: step < 0 ? `minus${-step}` : `plus${step}` })), shown(colour.scale * scaleSign(colour))),
      make("span", { class: "soft" }, colour.label),
    );
  }
  return kinds.length || shades.length ? make("p", { class: "legend" }, kinds, shades) : null;
}

// Log-probabilities are shaded by their size, and are not above 0.
function scaleSign(colour) {
  return !colour.signed && colour.values.some((value) => Number(value) < 0) ? -1 : 1;
}

function shade(value, colour) {
  const number = value === null || value === undefined ? NaN : Number(value);
  const level = Math.min(SHADES, Math.ceil((Math.abs(number) / colour.scale) * SHADES - 1e-9));
  if (!(level > 0)) return "";
  return `${colour.signed && number < 0 ? "minus" : "plus"}${level}`;
}

// The text in pieces: whole segments, or where tokens are coloured a token or the part of one that lies in a segment.
function* pieces(detail, colour) {
  const ends = detail.token_ends;
  let token = 0;
  for (const [place, part] of detail.segments.entries()) {
    let at = part.start;
    const last = place === detail.segments.length - 1;
    while (colour && token < ends.length && (at < part.end || (last && ends[token] <= at))) {
      const stop = Math.min(Math.max(ends[token], at), part.end);
      yield { text: detail.text.slice(at, stop), kinds: part.kinds, token };
      at = stop;
      if (ends[token] > part.end) break; // the rest of it lies in the next segment
      token += 1;
    }
    while (at < part.end) {
      let stop = Math.min(at + CHARACTERS, part.end);
      if (stop < part.end && /[\ud800-\udbff]/.test(detail.text[stop - 1])) stop += 1; // both halves of a character
      yield { text: detail.text.slice(at, stop), kinds: part.kinds, token: null };
      at = stop;
    }
  }
}

function responseText(detail, colour, about) {
  const text = make("pre", { class: colour ? "text coloured" : "text", tabindex: 0, "aria-label": "Text of the response" });
  if (!detail.text && !detail.token_ends.length) fill(text, make("span", { class: "soft" }, "(empty)"));
  const left = pieces(detail, colour);
  const more = make("button", { type: "button", class: "more", click: grow }, "More of this response");
  const watcher = new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && grow());
  let done = false;
  function grow() {
    const made = document.createDocumentFragment();
    let characters = 0;
    for (let count = 0; count < PIECES && characters < CHARACTERS && !done; count += 1) {
      const next = left.next();
      done = next.done;
      if (done) break;
      made.append(pieceNode(next.value, colour));
      characters += next.value.text.length;
    }
    text.append(made);
    if (!done) return;
    watcher.disconnect();
    more.remove();
  }
  grow();
  if (!done) watcher.observe(more);
  text.addEventListener("mouseover", (event) => {
    const token = event.target.dataset?.token;
    if (token !== undefined) fill(about, ...tokenFacts(detail, Number(token)));
  });
  return [text, done ? null : more];
}

function pieceNode(piece, colour) {
  const kinds = piece.kinds.join(" ");
  if (piece.token === null) return kinds ? make("span", { class: kinds }, piece.text) : document.createTextNode(visible(piece.text));
  const empty = piece.text === "";
  const classes = `${kinds} ${shade(colour.values[piece.token], colour)}${empty ? " empty" : ""}`.trim();
  return make("span", { class: classes || null, "data-token": piece.token }, empty ? "▯" : piece.text);
}

function tokenFacts(detail, token) {
  const begin = token ? detail.token_ends[token - 1] : 0;
  const text = detail.text.slice(begin, detail.token_ends[token]);
  const numbers = detail.colours.map((colour) => `${colourName(colour)} ${shown(colour.values[token])}`);
  return [
    `Token ${token} `,
    make("code", {}, text === "" ? "(no text)" : JSON.stringify(text)),
    [detail.token_ids.length ? `, id ${detail.token_ids[token]}` : "", detail.given[token] ? ", given" : "", ...numbers.map((one) => `, ${one}`)].join(""),
  ];
}

function partsSection(detail) {
  if (!detail.parts.length) return null;
  const rows = detail.parts.map((part) => [part.name, shown(part.value), shown(part.weight), signed(part.contribution), part.note]);
  return section("Reward", make("div", { class: "rewards" }, table(["part", "value", "weight", "adds", "reason"], [...rows, ["all", "", "", shown(detail.reward), ""]])));
}

function timelineSection(detail) {
  if (!detail.timeline.length) return null;
  const names = { policy: "policy", tool: "tool", given: "inserted" };
  const entries = detail.timeline.map((turn) =>
    make(
      "li",
      { class: `event ${turn.who}` },
      make("span", { class: "who" }, names[turn.who] ?? turn.who),
      turn.text ? make("pre", { tabindex: 0 }, turn.text, turn.left ? make("span", { class: "soft" }, `\n${turn.left} more characters`) : null) : null,
      turn.call ? callNode(turn.call) : null,
      turn.outcomes ? make("p", { class: "soft" }, turn.outcomes.join("; ")) : null,
      turn.scores ? make("p", { class: "soft" }, `score ${shown(turn.scores[0])} → ${shown(turn.scores[1])}`) : null,
    ),
  );
  return section("Timeline", make("ol", { class: "timeline" }, entries));
}

function callNode(call) {
  if (call.problem) return make("div", { class: "call" }, make("p", { class: "problem" }, `A call that cannot be read: ${call.problem}`), make("pre", { tabindex: 0 }, call.raw));
  const values = Object.entries(call.arguments).map(([name, value]) => [make("dt", {}, name), make("dd", {}, make("pre", { tabindex: 0 }, pretty(value)))]);
  return make("div", { class: "call" }, make("p", {}, "calls ", make("code", {}, call.name)), make("dl", {}, values));
}

function judgedSection(detail) {
  if (!detail.judged.length) return null;
  const calls = detail.judged.map((call) =>
    make(
      "details",
      { class: "judged" },
      make("summary", {}, `${call.judge}: ${call.call}`, call.fault ? make("span", { class: "problem" }, ` ${call.fault}`) : null),
      (call.messages ?? []).map((turn) => make("div", { class: "turn" }, make("span", { class: "who" }, turn.role), make("pre", { tabindex: 0 }, turn.content))),
      make("div", { class: "turn" }, make("span", { class: "who" }, "judge"), make("pre", { tabindex: 0 }, call.reply || "(no text)")),
      Object.keys(call.option_logprobs ?? {}).length
        ? table(["option", "log-probability"], Object.entries(call.option_logprobs).map(([option, value]) => [option, shown(value)]))
        : null,
    ),
  );
  return section("Judges", calls);
}

function factsSection(detail) {
  const own = { stage: detail.stage, step: detail.step, "row of the file": detail.row, response: detail.response_id, group: detail.group_id, prompt: detail.prompt_id, source: detail.source, "ended by": detail.finish_reason };
  const given = { ...own, ...detail.other };
  const metadata = detail.metadata && Object.keys(detail.metadata).length ? { "prompt's metadata": detail.metadata } : {};
  const rows = Object.entries({ ...given, ...metadata }).filter(([, value]) => value !== "" && value !== null);
  return make(
    "details",
    { class: "all" },
    make("summary", {}, "Everything else the run keeps of it"),
    make("dl", {}, rows.map(([name, value]) => [make("dt", {}, name), make("dd", {}, make("code", {}, pretty(value)))])),
  );
}

// Search trees: children are made when their parent is opened.
function treeView(answer) {
  const below = new Map();
  answer.nodes.forEach((node, place) => {
    const parent = node.parent ?? "roots";
    if (!below.has(parent)) below.set(parent, []);
    below.get(parent).push(place);
  });
  const item = (place, depth = 0) => {
    const node = answer.nodes[place];
    const children = below.get(place) ?? [];
    const numbers = [`value ${shown(node.value)}`, `visits ${shown(node.visits)}`, ...Object.entries(node.other).map(([name, value]) => `${name}: ${pretty(value)}`)];
    const content = [make("span", { class: "soft" }, numbers.join(" · ")), node.text ? make("pre", { tabindex: 0 }, node.text) : null];
    if (!children.length) return make("li", {}, content);
    const list = make("ol", { class: "tree" });
    const grow = () => !list.childNodes.length && fill(list, children.map((child) => item(child, depth + 1)));
    const open = depth < 2 && children.length <= 8;
    const details = make("details", { open }, make("summary", {}, `${children.length} ${children.length === 1 ? "child" : "children"}`), list);
    details.addEventListener("toggle", () => details.open && grow());
    if (open) grow();
    return make("li", {}, content, details);
  };
  const roots = (below.get("roots") ?? []).map((place) => {
    const facts = Object.entries(answer.facts[answer.nodes[place].tree] ?? {});
    const known = make("dl", { class: "known" }, facts.map(([name, value]) => [make("dt", {}, name), make("dd", {}, make("code", {}, pretty(value)))]));
    return [facts.length ? known : null, make("ol", { class: "tree" }, item(place))];
  });
  return [
    make("h2", {}, `Search tree ${answer.name}`),
    answer.left ? make("p", { class: "problem" }, `${answer.left} more nodes are left out here.`) : null,
    roots,
  ];
}
