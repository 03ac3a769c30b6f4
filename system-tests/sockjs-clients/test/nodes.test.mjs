// Two nodes behind a real nginx: with the documented config every transport works; a request that
// comes to the wrong node ends the connection at once.

import assert from "node:assert/strict";
import path from "node:path";
import { Client } from "@stomp/stompjs";
import { after, before, describe, test } from "node:test";
import { launch } from "../../../stomp-js-demo/test/browser.mjs";
import { until } from "../../../stomp-js-demo/test/servers.mjs";
import { openTab, show } from "../cells.mjs";
import { nodeKit, writePages } from "../clients.mjs";
import { NODE_TRANSPORTS, SETUPS, startNodes, tryOften } from "../nodes.mjs";
import { scene } from "../servers.mjs";

describe("two nodes behind nginx", { timeout: 120_000 }, () => {
  let stage, browser, sticky, roundRobin, named;

  before(async () => {
    stage = await scene();
    const pages = path.join(stage.folder, "pages");
    await writePages(pages, ["1.6.1"]);
    sticky = await startNodes(stage, SETUPS.hash, pages);
    roundRobin = await startNodes(stage, SETUPS.roundRobin);
    named = await startNodes(stage, SETUPS.baseUrl);
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    await stage?.stop();
  });

  for (const forced of NODE_TRANSPORTS) {
    test(`${forced} with the documented config`, async () => {
      for (const result of await tryOften(sticky.url, forced, 2)) assert.ok(result.ok, result.why);
    });

    test(`${forced} where /info names the node`, async () => {
      for (const result of await tryOften(named.url, forced, 2)) assert.ok(result.ok, result.why);
    });
  }

  test("a page behind the documented config", async () => {
    const tab = await openTab(browser, sticky.url, "1.6.1");
    for (const forced of [null, ...NODE_TRANSPORTS]) {
      const result = await tab.run({ url: `${sticky.url}/ws`, forced, stomp: "@stomp/stompjs 7" });
      assert.equal(show(result, forced), forced ? "ok" : "websocket", forced ?? "default");
    }
    await tab.close();
  });

  // The last of those that need both nodes.
  test("clients of a node that stops come to the other", async () => {
    const { SockJS } = nodeKit("sockjs-client");
    for (const node of sticky.nodes) await until("no session", async () => (await node.sessions()) === 0);
    const clients = Array.from({ length: 16 }, (_, number) => {
      const transports = [NODE_TRANSPORTS[number % NODE_TRANSPORTS.length]];
      const seen = { connected: 0, codes: [], bodies: [] };
      const client = new Client({
        webSocketFactory: () => new SockJS(`${sticky.url}/ws`, null, { transports }),
        connectHeaders: { login: "alice", passcode: "alice" },
        reconnectDelay: 100,
        onConnect() {
          seen.connected += 1;
          client.subscribe(`/topic/own.${number}`, ({ body }) => seen.bodies.push(body));
          client.publish({ destination: `/topic/own.${number}`, body: String(seen.connected) });
        },
        onWebSocketClose: ({ code }) => seen.codes.push(code),
      });
      client.activate();
      return { client, seen, transport: transports[0] };
    });
    await until("all are connected", () => clients.every(({ seen }) => seen.bodies.length > 0));
    const [first, second] = sticky.nodes;
    const moving = await first.sessions();
    assert.ok(moving > 0 && (await second.sessions()) > 0);
    assert.equal(await first.end(), 0);
    await until("all are at the other node", async () => (await second.sessions()) === clients.length);
    await until("those that moved are heard", () => clients.every(({ seen }) => seen.bodies.length === seen.connected));
    assert.equal(clients.filter(({ seen }) => seen.connected > 1).length, moving);
    for (const { seen, transport } of clients.filter((one) => one.seen.connected > 1)) {
      assert.equal(seen.codes[0], 1012, transport);
    }
    await Promise.all(clients.map(({ client }) => client.deactivate()));
  });

  test("a request to the wrong node ends the connection at once", async () => {
    for (const forced of NODE_TRANSPORTS.filter((name) => name !== "websocket")) {
      const [result] = await tryOften(roundRobin.url, forced, 1);
      assert.equal(result.code, 1006, `${forced}: ${result.why}`);
      assert.ok(result.ms < 2000, `${forced}: ${result.ms} ms`);
    }
  });
});
