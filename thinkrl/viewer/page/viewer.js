"use strict";
// What is asked for stands in the address, after the #; this file reads it, shows it, and listens to keys and controls.

const DEFAULTS = { stage: "", step: "", show: "all", order: "stored", find: "", prompt: "", group: "", page: "0", at: "", colour: "", tree: "" };
const LIST_FIELDS = ["stage", "step", "show", "order", "find", "prompt", "group", "page"];
const LOOK_SECONDS = 15; // between looks at a run that goes on
const WAIT_MS = 350; // after the last key in the search field
const NARROW = window.matchMedia("(max-width: 900px)");
const KEYS = [
  ["j, k", "next, previous response, or search tree"],
  ["n, p", "first response of the next, previous group of the list"],
  ["], [", "next, previous step"],
  ["c", "next colouring of tokens"],
  ["f, F", "next, previous filter"],
  ["/", "search"],
  ["Esc", "leave a field; back to the list on a narrow screen"],
  ["?", "these keys"],
];

const place = (id) => document.getElementById(id);
const source = openSource();
let run = null;
let shownList = { key: "", rows: [], pages: 1 };
let shownResponse = { key: "", detail: null };
let asked = 0;

// ---- the address

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) => [name, given.get(name) ?? value]));
}

function link(changes) {
  const state = { ...readState(), ...changes };
  const kept = Object.entries(state).filter(([name, value]) => String(value) !== DEFAULTS[name]);
  return `#${new URLSearchParams(kept)}`;
}

function go(changes, { quietly = false } = {}) {
  const address = link(changes);
  if (address === (location.hash || "#")) return;
  if (!quietly) location.hash = address;
  else {
    history.replaceState(null, "", address);
    update();
  }
}

// Changes of what the list shows begin at its first page, with nothing chosen.
function goList(changes) {
  go({ page: "0", at: "", tree: "", ...changes });
}

// ---- stage and step: empty in the address for the last ones

function currentStage(state) {
  return run.stages.find((one) => one.key === (state.stage || run.default_stage)) ?? null;
}

function currentStep(state, stage) {
  if (state.step === "all") return "";
  return state.step !== "" ? state.step : String(stage.steps.at(-1) ?? "");
}

function listQuery(state) {
  const stage = currentStage(state);
  const query = Object.fromEntries(LIST_FIELDS.map((name) => [name, state[name]]));
  return { ...query, stage: stage?.key ?? state.stage, step: stage ? currentStep(state, stage) : "" };
}

// ---- showing

async function update() {
  const turn = (asked += 1);
  const state = readState();
  fillControls(state);
  document.body.classList.toggle("reading", state.at !== "" || state.tree !== "");
  try {
    if (!currentStage(state)) return nothing(state);
    await showList(state, turn);
    if (turn === asked) await showResponse(readState(), turn);
  } catch (error) {
    if (turn === asked) fill(place("status"), make("span", { class: "problem" }, error.message));
  }
}

function nothing(state) {
  shownList = { key: "", rows: [], pages: 1 };
  fill(place("list"));
  fill(place("pager"));
  fill(place("response"));
  fill(place("status"), state.stage ? make("span", { class: "problem" }, `No stage '${state.stage}'.`) : "This run has kept no responses yet.");
}

async function showList(state, turn) {
  const query = listQuery(state);
  const key = JSON.stringify(query);
  if (key !== shownList.key) {
    fill(place("status"), "Reading …");
    let answer = await source.list(query);
    while (turn === asked) {
      renderList(answer, state, query);
      if (answer.searched >= answer.of) break;
      answer = await source.list(query);
    }
    if (turn !== asked) return;
    shownList = { key, rows: answer.rows, pages: answer.pages };
  }
  markCurrent(state);
  if (!shownList.rows.length || state.tree) return;
  const wanted = { first: 0, last: shownList.rows.length - 1 }[state.at] ?? (state.at === "" && !NARROW.matches ? 0 : null);
  if (wanted !== null) history.replaceState(null, "", link({ at: at(shownList.rows[wanted]) }));
  markCurrent(readState());
}

async function showResponse(state, turn) {
  const stage = currentStage(state);
  const key = stage.key + link({});
  if (key === shownResponse.key) return;
  const panel = place("response");
  if (state.tree) {
    const answer = await source.tree(stage.key, state.tree);
    if (turn === asked) fill(panel, backLink(), treeView(answer));
  } else if (state.at.includes(".")) {
    const [step, row] = state.at.split(".");
    const same = shownResponse.detail;
    const known = same && same.stage === stage.key && `${same.step}.${same.row}` === state.at;
    const detail = known ? same : await source.response(stage.key, step, row);
    if (turn !== asked) return;
    fill(panel, backLink(), responseView(detail, state, link));
    if (!known) {
      panel.scrollTop = 0;
      if (NARROW.matches) window.scrollTo(0, 0);
    }
    shownResponse.detail = detail;
  } else {
    fill(panel, make("p", { class: "soft" }, shownList.rows.length ? "Choose a response." : "Nothing to show."));
  }
  if (turn === asked) shownResponse.key = key;
}

function backLink() {
  return make("p", { class: "back" }, make("a", { href: link({ at: "", tree: "" }) }, "‹ List"));
}

function renderList(answer, state, query) {
  const counted = answer.total === 1 ? "1 response" : `${answer.total} responses`;
  const part = answer.searched < answer.of ? `, read ${answer.searched} of ${answer.of} …` : answer.total < answer.of ? ` of ${answer.of}` : "";
  fill(place("status"), counted + part, answer.problems.map((problem) => make("span", { class: "problem" }, ` ${problem}`)));
  for (const option of place("show").options) option.textContent = run.marks[option.value] + (answer.counts ? ` (${answer.counts[option.value]})` : "");
  const nodes = [];
  let group = null;
  for (const row of answer.rows) {
    const name = `${row.step} ${row.group_id}`;
    if (query.order === "stored" && name !== group) nodes.push(groupNode(row, answer.groups[name], query));
    group = name;
    nodes.push(rowNode(row, query));
  }
  fill(place("list"), nodes);
  const page = Number(query.page);
  const turner = (to, words) => (to >= 0 && to < answer.pages ? make("a", { href: link({ page: to, at: NARROW.matches ? "" : "first" }) }, words) : make("span", { class: "soft" }, words));
  fill(place("pager"), answer.pages > 1 ? [turner(page - 1, "‹ Earlier"), make("span", {}, `page ${page + 1} of ${answer.pages}`), turner(page + 1, "Later ›")] : null);
}

function groupNode(row, group, query) {
  const facts = [
    query.step === "" ? `step ${row.step}` : null,
    group?.correct === null || !group ? null : `${group.correct} of ${group.size} correct`,
    group?.flat ? "flat" : null,
  ].filter(Boolean);
  return make("li", { class: "group" }, make("b", {}, row.prompt_id || row.group_id), make("span", { class: "soft" }, ` ${facts.join(", ")}`), make("span", { class: "asked" }, row.asked));
}

function rowNode(row, query) {
  const facts = [
    verdictChip(row.verdict),
    row.reward === null ? null : make("span", {}, `reward ${shown(row.reward)}`),
    row.advantage === null ? null : make("span", { class: "soft" }, `advantage ${signed(row.advantage)}`),
    row.tokens === null ? null : make("span", { class: "soft" }, `${row.tokens} tokens`),
    row.finish_reason === "length" ? make("span", { class: "verdict open" }, "truncated") : null,
    query.order === "stored" ? null : make("span", { class: "soft" }, `step ${row.step}, ${row.prompt_id}`),
  ];
  return make("li", {}, make("a", { class: "row", href: link({ at: at(row), tree: "" }), "data-at": at(row) }, make("span", { class: "facts" }, facts), make("span", { class: "begins" }, row.begins || "(empty)")));
}

function at(row) {
  return `${row.step}.${row.row}`;
}

function markCurrent(state) {
  for (const node of place("list").querySelectorAll("a.row")) {
    const current = node.dataset.at === state.at;
    if (current) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
    if (current && !NARROW.matches) node.scrollIntoView({ block: "nearest" });
  }
}

// ---- controls

// Options are made anew only where they change: what a list adds to them stays, and so does an open menu.
function options(select, pairs, chosen) {
  const made = JSON.stringify(pairs);
  if (select.dataset.made !== made) fill(select, pairs.map(([value, words]) => make("option", { value }, words)));
  select.dataset.made = made;
  select.value = chosen;
}

function fillControls(state) {
  const stage = currentStage(state);
  options(place("stage"), run.stages.map((one) => [one.key, `${one.name}${one.steps.length ? "" : " (nothing kept)"}`]), stage?.key ?? "");
  const steps = stage?.steps ?? [];
  options(place("step"), [["all", `all ${steps.length}`], ...steps.map((step) => [String(step), String(step)])], state.step === "all" ? "all" : stage ? currentStep(state, stage) : "all");
  options(place("show"), Object.entries(run.marks), state.show);
  options(place("order"), Object.entries(run.orders), state.order);
  if (document.activeElement !== place("find")) place("find").value = state.find;
  const lifted = (field, words) => (state[field] ? make("a", { class: "choice", "aria-current": "true", href: link({ [field]: "", page: "0", at: "" }), title: "Show all again" }, `${words} ${state[field]} ×`) : null);
  fill(place("narrowed"), lifted("prompt", "prompt"), lifted("group", "group"));
  const trees = stage?.trees ?? [];
  place("trees").hidden = trees.length === 0;
  options(place("tree"), [["", `choose one of ${trees.length}`], ...trees.map((name) => [name, name])], state.tree);
}

function moveStep(by) {
  const state = readState();
  const stage = currentStage(state);
  if (!stage?.steps.length) return;
  const here = state.step === "all" ? stage.steps.length - 1 : stage.steps.indexOf(Number(currentStep(state, stage)));
  const to = stage.steps[here + by];
  if (to !== undefined) goList({ step: String(to), group: "" });
}

function moveResponse(by) {
  const state = readState();
  const rows = shownList.rows;
  const trees = currentStage(state)?.trees ?? [];
  if (state.tree || (!rows.length && trees.length)) {
    const next = trees[state.tree ? trees.indexOf(state.tree) + by : 0];
    return next !== undefined && go({ tree: next });
  }
  const here = rows.findIndex((row) => at(row) === state.at);
  const next = rows[here < 0 ? 0 : here + by];
  const page = Number(state.page) + by;
  if (next) go({ at: at(next) });
  else if (page >= 0 && page < shownList.pages) go({ page: String(page), at: by > 0 ? "first" : "last" });
}

function moveGroup(by) {
  const rows = shownList.rows;
  const name = (row) => `${row.step} ${row.group_id}`;
  const firsts = rows.filter((row, index) => index === 0 || name(row) !== name(rows[index - 1]));
  const current = rows.find((row) => at(row) === readState().at) ?? rows[0];
  const here = firsts.findIndex((row) => current && name(row) === name(current));
  const next = firsts[here + by];
  if (next) go({ at: at(next), tree: "" });
}

function moveColour(by) {
  const names = ["", ...(shownResponse.detail?.colours ?? []).map((one) => one.name)];
  const here = names.indexOf(readState().colour);
  go({ colour: names[(Math.max(here, 0) + by + names.length) % names.length] });
}

function moveFilter(by) {
  const names = Object.keys(run.marks);
  goList({ show: names[(names.indexOf(readState().show) + by + names.length) % names.length] });
}

function showKeys() {
  const dialog = place("keys");
  fill(
    dialog,
    make("h2", { id: "keys-title" }, "Keys"),
    make("dl", {}, KEYS.map(([keys, words]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, words)])),
    make("p", { class: "soft" }, "The address of the page is a link to what it shows."),
    make("button", { type: "button", click: () => dialog.close() }, "Close"),
  );
  dialog.showModal();
}

const ACTIONS = {
  j: () => moveResponse(1),
  k: () => moveResponse(-1),
  n: () => moveGroup(1),
  p: () => moveGroup(-1),
  "]": () => moveStep(1),
  "[": () => moveStep(-1),
  c: () => moveColour(1),
  f: () => moveFilter(1),
  F: () => moveFilter(-1),
  "/": () => place("find").focus(),
  "?": showKeys,
  Escape: () => NARROW.matches && go({ at: "", tree: "" }),
};

function listen() {
  place("stage").addEventListener("change", (event) => goList({ stage: event.target.value, step: "", prompt: "", group: "" }));
  place("step").addEventListener("change", (event) => goList({ step: event.target.value, group: "" }));
  place("show").addEventListener("change", (event) => goList({ show: event.target.value }));
  place("order").addEventListener("change", (event) => goList({ order: event.target.value }));
  place("tree").addEventListener("change", (event) => go({ tree: event.target.value, at: "" }));
  place("earlier").addEventListener("click", () => moveStep(-1));
  place("later").addEventListener("click", () => moveStep(1));
  place("help").addEventListener("click", showKeys);
  place("list").addEventListener("click", (event) => {
    const row = event.target.closest("a.row");
    if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go({ at: row.dataset.at, tree: "" }); // with what has changed since the list was made, such as the colouring
  });
  place("controls").addEventListener("submit", (event) => event.preventDefault());
  let typed = 0;
  place("find").addEventListener("input", (event) => {
    clearTimeout(typed);
    typed = setTimeout(() => goList({ find: event.target.value }), WAIT_MS);
  });
  // The fragment is the state, so the link that skips the list moves the focus by itself.
  place("skip").addEventListener("click", (event) => {
    event.preventDefault();
    place("response").focus();
  });
  window.addEventListener("hashchange", update);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || place("keys").open) return;
    const field = event.target.closest("input, select, textarea");
    if (field && event.key !== "Escape") return;
    if (field) return field.blur();
    const action = ACTIONS[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

// ---- beginning, and runs that go on

function renderRun() {
  const name = [run.recipe, run.name].join(" / ");
  fill(place("title"), name);
  document.title = visible(`${name} · thinkrl view`);
  const held = run.export ? ` · export of ${run.export.responses} of ${run.export.of} responses` : "";
  fill(place("outcome"), run.outcome + held);
}

async function look() {
  const before = JSON.stringify(run.stages);
  try {
    run = await source.run();
  } catch {
    return; // the next click says so
  }
  renderRun();
  if (JSON.stringify(run.stages) !== before) fillControls(readState());
  if (!run.finished) setTimeout(look, LOOK_SECONDS * 1000);
}

async function begin() {
  try {
    run = await source.run();
  } catch (error) {
    return fill(place("status"), make("span", { class: "problem" }, error.message));
  }
  renderRun();
  listen();
  await update();
  if (!run.finished && !run.export) setTimeout(look, LOOK_SECONDS * 1000);
}

begin();
