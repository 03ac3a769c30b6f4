// Two nodes behind a real nginx: with the documented config every transport works; a request that
// comes to the wrong node ends the connection at once.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { NODE_TRANSPORTS, SETUPS, startNodes, tryOften } from "../nodes.mjs";
import { scene } from "../servers.mjs";

describe("two nodes behind nginx", { timeout: 120_000 }, () => {
  let stage, sticky, roundRobin, named;

  before(async () => {
    stage = await scene();
    sticky = await startNodes(stage, SETUPS.hash);
    roundRobin = await startNodes(stage, SETUPS.roundRobin);
    named = await startNodes(stage, SETUPS.baseUrl);
  });

  after(() => stage?.stop());

  for (const forced of NODE_TRANSPORTS) {
    test(`${forced} with the documented config`, async () => {
      for (const result of await tryOften(sticky.url, forced, 2)) assert.ok(result.ok, result.why);
    });

    test(`${forced} where /info names the node`, async () => {
      for (const result of await tryOften(named.url, forced, 2)) assert.ok(result.ok, result.why);
    });
  }

  test("a request to the wrong node ends the connection at once", async () => {
    for (const forced of NODE_TRANSPORTS.filter((name) => name !== "websocket")) {
      const [result] = await tryOften(roundRobin.url, forced, 1);
      assert.equal(result.code, 1006, `${forced}: ${result.why}`);
      assert.ok(result.ms < 2000, `${forced}: ${result.ms} ms`);
    }
  });
});
