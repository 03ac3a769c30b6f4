// Two relay nodes behind nginx, set up in several ways, and what the transports make of it.

import { readFile } from "node:fs/promises";
import { freePort } from "../../stomp-js-demo/test/servers.mjs";
import { runInNode } from "./cells.mjs";
import { startNginx, startRelay } from "./servers.mjs";

const docs = new URL("../../docs/sockjs.md", import.meta.url).pathname;

/** The config that the documentation shows, for these two nodes. */
async function documented(port, nodes) {
  const [, config] = /```nginx\n([^]*?)```/.exec(await readFile(docs, "utf8")) ?? [];
  if (config === undefined) throw new Error(`no nginx config in ${docs}`);
  const names = ["10.0.0.1:8080", "10.0.0.2:8080"];
  const replaced = names.reduce((text, name, at) => text.replace(name, `127.0.0.1:${nodes[at].port}`), config);
  const result = replaced.replace("listen 80;", `listen 127.0.0.1:${port};`);
  if (/10\.0\.0|listen 80/.test(result)) throw new Error("the documented nginx config has other names now");
  return result;
}

const upstream = (nodes, how = "") =>
  `upstream relay { ${how} ${nodes.map((node) => `server 127.0.0.1:${node.port};`).join(" ")} }`;

const HASH = `map $uri $session { "~^/[^/]+/[^/.]+/(?<name>[^/.]+)/[a-z_]+$" $name; default $request_id; }`;

const server = (port, directives = "") =>
  `server { listen 127.0.0.1:${port}; location / { proxy_pass http://relay; ${directives} } }`;

const UPGRADE = `proxy_http_version 1.1; proxy_set_header Host $http_host;
  proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;`;

/**
 * How nginx is set up. `baseUrl`: `/info` names the node itself; `works`: every transport is to
 * work, with the others it depends.
 */
export const SETUPS = {
  hash: { title: "hash on the session's name, as above", works: true, http: documented },
  roundRobin: {
    title: "round robin, upgrades passed on",
    http: (port, nodes) => `${upstream(nodes)} ${server(port, UPGRADE)}`,
  },
  baseUrl: {
    title: "the same, `base_url` of each node in its `/info`",
    baseUrl: true,
    works: true,
    http: (port, nodes) => `${upstream(nodes)} ${server(port, UPGRADE)}`,
  },
  plain: {
    title: "nothing but `proxy_pass` (no upgrades), and the hash",
    http: (port, nodes) => `${HASH} ${upstream(nodes, "hash $session consistent;")} ${server(port)}`,
  },
  buffering: {
    title: "the same, `X-Accel-Buffering` ignored",
    http: (port, nodes) =>
      `${HASH} ${upstream(nodes, "hash $session consistent;")}
       ${server(port, "proxy_ignore_headers X-Accel-Buffering;")}`,
  },
};

/** Starts two nodes and nginx before them; `pages` is a folder they serve. */
export async function startNodes(stage, setup, pages = null) {
  const endpoint = (port) => `
trusted_proxies = ["127.0.0.1"]
${pages ? `static.dir = ${JSON.stringify(pages)}` : ""}
[[endpoint]]
path = "/ws"
${setup.baseUrl ? `base_url = "http://127.0.0.1:${port}/ws"` : ""}
`;
  const nodes = [await startRelay(stage, endpoint), await startRelay(stage, endpoint)];
  const port = await freePort();
  await startNginx(stage, await setup.http(port, nodes), port);
  return { url: `http://127.0.0.1:${port}`, nodes };
}

export const TRIES = 5;
export const NODE_TRANSPORTS = ["websocket", "xhr-streaming", "eventsource", "xhr-polling"];

/** Several tries with sockjs-client 1.6.1 and stomp.js 7; `forced` null is the client's choice. */
export async function tryOften(url, forced, tries = TRIES) {
  const results = [];
  for (let count = 0; count < tries; count += 1) {
    const client = { version: "1.6.1", stomp: "@stomp/stompjs 7" };
    results.push(await runInNode({ ...client, url: `${url}/ws`, forced }));
  }
  return results;
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

/** Several tries as the table shows them. */
export function showTries(results, forced) {
  const good = results.filter((result) => result.ok);
  const bad = results.filter((result) => !result.ok);
  const count = `${good.length}/${results.length}`;
  if (bad.length > 0) {
    const why = [...new Set(bad.map((result) => result.why.replace(/^closed /, "").replace(/ before CONNECTED$/, "")))];
    return `${count}: ${why.join("; ")} (after ${median(bad.map((result) => result.ms))} ms)`;
  }
  if (forced) return count;
  const used = [...new Set(good.map((result) => result.transport))].join(", ");
  return `${used} after ${median(good.map((result) => result.connectedMs))} ms`;
}
