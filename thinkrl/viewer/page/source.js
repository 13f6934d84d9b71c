"use strict";
// Where the page's data come from: a server, or the files of an export. Both answer the same four questions.

class ServerSource {
  run() {
    return this.ask("run", {});
  }

  list(query) {
    return this.ask("list", query);
  }

  response(stage, step, row) {
    return this.ask("response", { stage, step, row });
  }

  tree(stage, name) {
    return this.ask("tree", { stage, name });
  }

  async ask(name, query) {
    let answer;
    try {
      answer = await fetch(`${name}?${new URLSearchParams(query)}`);
    } catch {
      throw new Error("the server does not answer: is thinkrl view still running?");
    }
    const value = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
    if (!answer.ok) throw new Error(value.error);
    return value;
  }
}

// The files of an export call `receive` with their value; a page that was opened as a file may load nothing else.
const waiting = new Map();

function receive(name, value) {
  waiting.get(name)?.(value);
}

const ORDER_KEYS = {
  longest: ["tokens", -1],
  shortest: ["tokens", 1],
  reward: ["reward", -1],
  lowest_reward: ["reward", 1],
  advantage: ["advantage", -1],
  lowest_advantage: ["advantage", 1],
};

class ExportSource {
  constructor() {
    this.loaded = new Map();
    const only = (path) => {
      if (!/^data\/[^/]+\.js$/.test(path)) throw new TypeError("not a file of this export");
      return path;
    };
    this.policy = window.trustedTypes?.createPolicy("shards", { createScriptURL: only }) ?? { createScriptURL: only };
  }

  async run() {
    this.overview = await this.load("run");
    return this.overview;
  }

  async list(query) {
    const stage = this.overview.stages.find((one) => one.key === query.stage);
    if (!stage) throw new Error(`no stage '${query.stage}'`);
    const steps = query.step === "" ? stage.steps : [Number(query.step)];
    const lists = await Promise.all(steps.map((step) => this.load(`list-${query.stage}-${step}`)));
    const all = lists.flatMap((one) => one.rows);
    const counts = Object.fromEntries(
      Object.keys(this.overview.marks).map((mark) => [mark, all.filter((row) => marked(row, mark)).length]),
    );
    let rows = all.filter(
      (row) =>
        marked(row, query.show) &&
        (!query.prompt || row.prompt_id === query.prompt) &&
        (!query.group || row.group_id === query.group),
    );
    if (query.find) rows = await this.holding(rows, query.find.toLowerCase());
    const [key, direction] = ORDER_KEYS[query.order] ?? ["", 0];
    // What has no number comes last; equal ones stay in order.
    if (key) {
      const worth = (row) => (row[key] ?? Infinity * direction) * direction;
      rows.sort((a, b) => worth(a) - worth(b) || 0);
    }
    const size = this.overview.page_size;
    const page = Number(query.page);
    return {
      rows: rows.slice(page * size, (page + 1) * size),
      groups: Object.assign({}, ...lists.map((one) => one.groups)),
      page,
      pages: Math.max(1, Math.ceil(rows.length / size)),
      total: rows.length,
      searched: all.length,
      of: all.length,
      counts,
      problems: [],
    };
  }

  async response(stage, step, row) {
    const held = await this.load(`responses-${stage}-${step}-${Math.floor(row / this.overview.export.shard)}`);
    const found = held.find((one) => one.row === Number(row));
    if (!found) throw new Error("this response is not in this export");
    return found;
  }

  async tree(stage, name) {
    const place = this.overview.stages.find((one) => one.key === stage)?.trees.indexOf(name) ?? -1;
    if (place < 0) throw new Error("this search tree is not in this export");
    return this.load(`tree-${stage}-${place}`);
  }

  async holding(rows, text) {
    const kept = await Promise.all(
      rows.map(async (row) => {
        const whole = await this.response(row.stage, row.step, row.row);
        return [whole.text, ...whole.messages.map((turn) => turn.content)].some((one) => one.toLowerCase().includes(text));
      }),
    );
    return rows.filter((_, place) => kept[place]);
  }

  load(name) {
    if (!this.loaded.has(name)) {
      this.loaded.set(
        name,
        new Promise((resolve, reject) => {
          waiting.set(name, resolve);
          const script = document.createElement("script");
          script.src = this.policy.createScriptURL(`data/${encodeURIComponent(name)}.js`);
          script.addEventListener("error", () => reject(new Error("this is not in this export")));
          document.head.append(script);
        }),
      );
    }
    return this.loaded.get(name);
  }
}

function marked(row, mark) {
  return mark === "all" || row.marks.includes(mark);
}

function openSource() {
  return document.documentElement.dataset.export ? new ExportSource() : new ServerSource();
}
