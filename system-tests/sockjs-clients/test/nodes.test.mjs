// Two nodes behind a real nginx: with the documented config every transport works; a request that
// comes to the wrong node ends the connection at once.

import assert from "node:assert/strict";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { launch } from "../../../stomp-js-demo/test/browser.mjs";
import { openTab, show } from "../cells.mjs";
import { writePages } from "../clients.mjs";
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
      for (const result of await tryOften(sticky, forced, 2)) assert.ok(result.ok, result.why);
    });

    test(`${forced} where /info names the node`, async () => {
      for (const result of await tryOften(named, forced, 2)) assert.ok(result.ok, result.why);
    });
  }

  test("a page behind the documented config", async () => {
    const tab = await openTab(browser, sticky, "1.6.1");
    for (const forced of [null, ...NODE_TRANSPORTS]) {
      const result = await tab.run({ url: `${sticky}/ws`, forced, stomp: "@stomp/stompjs 7" });
      assert.equal(show(result, forced), forced ? "ok" : "websocket", forced ?? "default");
    }
    await tab.close();
  });

  test("a request to the wrong node ends the connection at once", async () => {
    for (const forced of NODE_TRANSPORTS.filter((name) => name !== "websocket")) {
      const [result] = await tryOften(roundRobin, forced, 1);
      assert.equal(result.code, 1006, `${forced}: ${result.why}`);
      assert.ok(result.ms < 2000, `${forced}: ${result.ms} ms`);
    }
  });
});
