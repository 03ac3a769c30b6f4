// Runs cells of the matrix: in tabs of Chromium, and in this process.

import diagnostics from "node:diagnostics_channel";
import { SOCKJS, nodeKit } from "./clients.mjs";
import { story } from "./story.mjs";

const LOGIN = { login: "alice", passcode: "alice" };
/** A request of a session, or for the page that an iframe loads; not `/info`. */
const OF_SESSION = /\/(\d{3}\/[^/?]+\/|iframe[^/?]*\.html)/;

/**
 * Whether a client has tried a transport. Requests of sessions known from earlier cells do not
 * count: an old session's last poll may come late.
 */
class Watch {
  #known = new Set();
  #tried = false;

  begin() {
    this.#tried = false;
  }

  see(url) {
    const [, what] = OF_SESSION.exec(url) ?? [];
    if (what === undefined || this.#known.has(what)) return;
    if (!what.startsWith("iframe")) this.#known.add(what);
    this.#tried = true;
  }

  get tried() {
    return this.#tried;
  }
}

let number = 0;
const newTopic = () => `/topic/cell.${(number += 1)}`;

/**
 * A tab with `page-VERSION.html` from `origin`; `run` does one cell after the other. `tried` is
 * whether the client asked for more than `/info`, `problems` what its scripts threw.
 */
export async function openTab(browser, origin, version) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const watch = new Watch();
  page.on("request", (request) => watch.see(request.url()));
  page.on("websocket", (socket) => watch.see(socket.url()));
  const problems = [];
  page.on("pageerror", (error) => {
    // 0.3.4 throws this where an answer comes after its own close(): at the end, and without effect.
    if (version !== "0.3.4" || error.message !== "INVALID_STATE_ERR") problems.push(String(error));
  });
  await page.goto(`${origin}/page-${version}.html`);
  await page.waitForFunction(() => globalThis.cell !== undefined);
  return {
    page,
    async run({ url, forced, stomp, login = LOGIN }) {
      watch.begin();
      const old = version === "0.3.4";
      const result = await page.evaluate((cell) => globalThis.cell(cell), {
        url, forced, old, stomp, topic: newTopic(), login,
      });
      return { ...result, tried: watch.tried, problems: problems.splice(0) };
    },
    close: () => context.close(),
  };
}

const inNode = new Watch();
diagnostics.subscribe("http.client.request.start", ({ request }) => {
  inNode.see(request.path);
});

/** The same in Node. One at a time, or `tried` means nothing. */
export async function runInNode({ url, version, forced, stomp, login = LOGIN }) {
  const { SockJS, libraries } = nodeKit(SOCKJS.find((client) => client.version === version).node);
  inNode.begin();
  const sockjs = () => new SockJS(url, null, forced ? { transports: [forced] } : {});
  const result = await story({ libraries, sockjs, stomp, topic: newTopic(), login });
  return { ...result, tried: inNode.tried, problems: [] };
}

/** A cell as the table shows it. */
export function show(result, forced) {
  if (result.problems.length > 0) return `fails: ${result.problems.join(", ")}`;
  if (result.ok && forced && result.transport !== forced) return `fails: used ${result.transport}`;
  if (result.ok) return forced ? "ok" : result.transport;
  if (!result.tried && result.code === 2000) return "n/a";
  return `fails: ${result.why}`;
}
