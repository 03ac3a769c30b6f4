// The clients that today's pages have, over the transports they come to: a part of
// `make sockjs-matrix`.

import assert from "node:assert/strict";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { launch } from "../../../stomp-js-demo/test/browser.mjs";
import { until } from "../../../stomp-js-demo/test/servers.mjs";
import { openTab, runInNode, show } from "../cells.mjs";
import { SOCKJS, endpoints, writePages } from "../clients.mjs";
import { scene, startRelay } from "../servers.mjs";
import { stompClients } from "../story.mjs";

const [{ version, path: where }] = SOCKJS;
const MAIN = ["websocket", "xhr-streaming", "eventsource", "xhr-polling"];
/** These are on because the endpoint names them. */
const OLD = ["iframe-eventsource", "iframe-xhr-polling", "jsonp-polling", "htmlfile"];

describe("sockjs-client 1.6.1", { timeout: 120_000 }, () => {
  let stage, relay, browser, url;

  before(async () => {
    stage = await scene();
    const pages = path.join(stage.folder, "pages");
    await writePages(pages, [version]);
    relay = await startRelay(
      stage,
      (port) => `${endpoints(pages)}
[[endpoint]]
path = "/listed"
allowed_origins = ["http://localhost.:${port}"]
`,
    );
    browser = await launch();
    url = relay.url + where;
  });

  after(async () => {
    await browser?.close();
    await stage?.stop();
  });

  for (const stomp of stompClients) {
    test(`${stomp} in Node`, async () => {
      for (const forced of MAIN) {
        assert.equal(show(await runInNode({ url, version, forced, stomp }), forced), "ok", forced);
      }
    });
  }

  for (const [site, host] of [["same origin", "127.0.0.1"], ["cross-site", "localhost"]]) {
    test(`@stomp/stompjs 7 in Chromium, ${site}`, async () => {
      const tab = await openTab(browser, `http://${host}:${relay.port}`, version);
      for (const forced of [null, ...MAIN, ...OLD]) {
        // A browser does not let a page call into a frame of another origin.
        const no = forced === "htmlfile" && site === "cross-site";
        const expected = no ? "n/a" : forced ? "ok" : "websocket";
        assert.equal(show(await tab.run({ url, forced, stomp: stompClients[0] }), forced), expected, forced ?? "default");
      }
      await tab.close();
    });
  }

  // With the dot it is no loopback name to the relay, all of which --dev allows.
  test("a list of origins lets its pages in and no others", async () => {
    const listed = `${relay.url}/listed`;
    const tab = await openTab(browser, `http://localhost.:${relay.port}`, version);
    for (const forced of MAIN) {
      assert.equal(show(await tab.run({ url: listed, forced, stomp: stompClients[0] }), forced), "ok", forced);
    }
    await tab.close();
    const other = await startRelay(stage, () => `[static]\ndir = ${JSON.stringify(path.join(stage.folder, "pages"))}`);
    const stranger = await openTab(browser, `http://localhost.:${other.port}`, version);
    const refused = await stranger.run({ url: listed, forced: null, stomp: stompClients[0] });
    assert.match(refused.why, /^closed 1002 Cannot connect to server/);
    await stranger.close();
  });

  test("a page that is left takes its session with it", async () => {
    const tab = await openTab(browser, relay.url, version);
    for (const forced of [...MAIN, ...OLD]) {
      await until("no session", async () => (await relay.sessions()) === 0);
      await tab.page.goto(`${relay.url}/page-${version}.html`);
      await tab.page.evaluate(
        ([address, transport]) =>
          new Promise((resolve, reject) => {
            const client = new globalThis.StompJs.Client({
              webSocketFactory: () => new globalThis.SockJS(address, null, { transports: [transport] }),
              connectHeaders: { login: "alice", passcode: "alice" },
              onConnect: resolve,
              onWebSocketClose: ({ code, reason }) => reject(new Error(`${transport}: ${code} ${reason}`)),
            });
            client.activate();
          }),
        [url, forced],
      );
      assert.equal(await relay.sessions(), 1, forced);
      await tab.page.goto("about:blank");
    }
    await tab.close();
  });

  test("no session is left", async () => {
    await until("all sessions are gone", async () => (await relay.sessions()) === 0);
  });
});
