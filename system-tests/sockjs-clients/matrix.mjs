#!/usr/bin/env node
// Prints the matrix of clients and transports and the table of nginx, and writes both into
// docs/sockjs.md. Exit code 1 where a cell fails that should not.

import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { launch } from "../../stomp-js-demo/test/browser.mjs";
import { until } from "../../stomp-js-demo/test/servers.mjs";
import { openTab, runInNode, show } from "./cells.mjs";
import { SOCKJS, TRANSPORTS, endpoints, writePages } from "./clients.mjs";
import { NODE_TRANSPORTS, SETUPS, showTries, startNodes, tryOften } from "./nodes.mjs";
import { scene, startRelay } from "./servers.mjs";
import { stompClients } from "./story.mjs";

const docs = new URL("../../docs/sockjs.md", import.meta.url).pathname;
const CHOICES = [null, ...TRANSPORTS];
const SITES = { "same origin": "127.0.0.1", "cross-site": "localhost" };

/** One column: by transport, what each STOMP client got. */
async function column(title, run) {
  const cells = new Map();
  for (const forced of CHOICES) {
    const shown = [];
    for (const stomp of stompClients) {
      const result = await run({ forced, stomp });
      shown.push(show(result, forced));
      console.error(`${title}, ${forced ?? "default"}, ${stomp}: ${shown.at(-1)} (${result.ms} ms)`);
    }
    const all = shown.every((text) => text === shown[0]);
    cells.set(forced, all ? shown[0] : stompClients.map((stomp, at) => `${stomp}: ${shown[at]}`).join("; "));
  }
  return { title, cells };
}

async function matrix() {
  const stage = await scene();
  try {
    const pages = path.join(stage.folder, "pages");
    await writePages(pages, SOCKJS.map((client) => client.version));
    const relay = await startRelay(stage, () => endpoints(pages));
    const browser = await launch();
    stage.stops.push(() => browser.close());
    const columns = [];
    for (const { version, path: where, node } of SOCKJS) {
      const url = relay.url + where;
      for (const [site, host] of Object.entries(SITES)) {
        const tab = await openTab(browser, `http://${host}:${relay.port}`, version);
        columns.push(await column(`${version} ${site}`, (cell) => tab.run({ url, ...cell })));
        await tab.close();
      }
      if (node) columns.push(await column(`${version} Node`, (cell) => runInNode({ url, version, ...cell })));
    }
    await until("all sessions are gone", async () => (await relay.sessions()) === 0);
    return { columns, browser: browser.version() };
  } finally {
    await stage.stop();
  }
}

const table = (head, rows) =>
  [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

async function nginx() {
  const rows = [];
  for (const setup of Object.values(SETUPS)) {
    const stage = await scene();
    try {
      const { url } = await startNodes(stage, setup);
      const row = [setup.title];
      for (const forced of [...NODE_TRANSPORTS, null]) {
        const results = await tryOften(url, forced);
        if (setup.works && results.some((result) => !result.ok)) process.exitCode = 1;
        row.push(showTries(results, forced));
      }
      rows.push(row);
    } finally {
      await stage.stop();
    }
  }
  return table(["nginx before two nodes", ...NODE_TRANSPORTS, "default"], rows);
}

/** Puts a text between the marks of that name. */
async function write(name, text) {
  const old = await readFile(docs, "utf8");
  const part = new RegExp(`(<!-- ${name}: [^>]*-->\\n)[^]*?(<!-- ${name} end -->)`);
  if (!part.test(old)) throw new Error(`no part "${name}" in ${docs}`);
  await writeFile(docs, old.replace(part, (_, begin, end) => `${begin}\n${text}\n\n${end}`));
}

const { columns, browser } = await matrix();
const clients = table(
  ["", ...columns.map(({ title }) => title)],
  CHOICES.map((forced) => [forced ?? "default", ...columns.map(({ cells }) => cells.get(forced))]),
);
const seen = `Chromium ${browser}, Node ${process.versions.node}:`;
const nodes = await nginx();
console.log(`${seen}\n\n${clients}\n\n${nodes}`);
await write("matrix", `${seen}\n\n${clients}`);
await write("nginx", nodes);
if (columns.some(({ cells }) => [...cells.values()].some((text) => text.includes("fails")))) process.exitCode = 1;
