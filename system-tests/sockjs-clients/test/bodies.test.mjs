// Bodies that are no text, which SockJS cannot carry.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Client } from "@stomp/stompjs";
import WebSocket from "ws";
import { NODE_TRANSPORTS } from "../nodes.mjs";
import { nodeKit } from "../clients.mjs";
import { scene, startRelay } from "../servers.mjs";

const { SockJS } = nodeKit("sockjs-client");
const LOGIN = { login: "alice", passcode: "alice" };

describe("bodies that are no text", { timeout: 60_000 }, () => {
  let stage, relay, raw;

  /** A connected client; `failure` resolves to the ERROR that it gets. */
  async function connect(webSocketFactory) {
    const client = new Client({ webSocketFactory, connectHeaders: LOGIN, reconnectDelay: 0 });
    const failure = new Promise((resolve) => (client.onStompError = resolve));
    await new Promise((resolve) => {
      client.onConnect = resolve;
      client.activate();
    });
    return { client, failure };
  }

  const sockjs = (transport) => connect(() => new SockJS(`${relay.url}/ws`, null, { transports: [transport] }));

  before(async () => {
    stage = await scene();
    relay = await startRelay(stage, () => "");
    ({ client: raw } = await connect(() => new WebSocket(`${relay.ws}/ws`)));
  });

  after(async () => {
    await raw?.deactivate();
    await stage?.stop();
  });

  for (const transport of NODE_TRANSPORTS) {
    test(`come in base64 over ${transport}`, async () => {
      const { client } = await sockjs(transport);
      const message = await new Promise((resolve) => {
        client.subscribe(`/topic/${transport}`, resolve, { receipt: "there" });
        client.watchForReceipt("there", () =>
          raw.publish({ destination: `/topic/${transport}`, binaryBody: new Uint8Array([0xff, 0, 0xfe]) }),
        );
      });
      assert.equal(message.headers["x-body-encoding"], "base64");
      assert.equal(message.body, "/wD+");
      await client.deactivate();
    });

    test(`are refused with a reason over ${transport}`, async () => {
      const { client, failure } = await sockjs(transport);
      client.publish({ destination: "/topic/a", binaryBody: new Uint8Array([0xff]) });
      const { headers, body } = await failure;
      assert.equal(headers.message, "SockJS carries text only");
      assert.match(body, /base64/);
      await client.deactivate();
    });
  }
});
