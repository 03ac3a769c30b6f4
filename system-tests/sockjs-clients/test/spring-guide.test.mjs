// A page after Spring's guide, unchanged, over every transport that it may come to. Its users are
// known by a cookie, since it says no login itself.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { cp } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Client } from "@stomp/stompjs";
import WebSocket from "ws";
import { launch } from "../../../stomp-js-demo/test/browser.mjs";
import { until } from "../../../stomp-js-demo/test/servers.mjs";
import { writePages } from "../clients.mjs";
import { scene, startRelay } from "../servers.mjs";

const SECRET = "a secret of this test, and long enough for HS256";

function token(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const body = `${part({ alg: "HS256" })}.${part({ sub: user, exp: Math.floor(Date.now() / 1000) + 600 })}`;
  return `${body}.${createHmac("sha256", SECRET).update(body).digest("base64url")}`;
}

const config = (pages) => `
[static]
dir = ${JSON.stringify(pages)}

[auth.jwt]
cookie = "login"

[[auth.jwt.keys]]
alg = "HS256"
secret = ${JSON.stringify(SECRET)}

[errors]
unknown_destination = "message"

[[endpoint]]
path = "/gs-guide-websocket"
auth = "handshake"
`;

/** What the guide's server does by itself: a stranger to the page that publishes. */
async function publisher(relay) {
  const client = new Client({
    webSocketFactory: () => new WebSocket(`${relay.ws}/gs-guide-websocket`, { headers: { cookie: `login=${token("server")}` } }),
    reconnectDelay: 0,
  });
  await new Promise((resolve, reject) => {
    client.onConnect = resolve;
    client.onStompError = (frame) => reject(new Error(frame.headers.message));
    client.onWebSocketClose = (event) => reject(new Error(`closed ${event.code}`));
    client.activate();
  });
  return client;
}

describe("a page after Spring's guide", { timeout: 60_000 }, () => {
  let stage, relay, browser, server;

  before(async () => {
    stage = await scene();
    const pages = path.join(stage.folder, "pages");
    await writePages(pages, ["1.6.1"]);
    await cp(new URL("../gs-guide", import.meta.url).pathname, path.join(pages, "gs-guide"), { recursive: true });
    relay = await startRelay(stage, () => config(pages));
    browser = await launch();
    server = await publisher(relay);
  });

  after(async () => {
    await server?.deactivate();
    await browser?.close();
    await stage?.stop();
  });

  async function open(user) {
    const context = await browser.newContext();
    if (user) await context.addCookies([{ name: "login", value: token(user), url: relay.url }]);
    const page = await context.newPage();
    page.setDefaultTimeout(15_000);
    const problems = [];
    page.on("pageerror", (error) => problems.push(String(error)));
    return { context, page, problems };
  }

  const greet = (content) => server.publish({ destination: "/topic/greetings", body: JSON.stringify({ content }) });

  /** Publishes until the page shows it: its SUBSCRIBE has no receipt to wait for. */
  async function greeted(page, content) {
    await until(content, async () => {
      greet(content);
      return (await page.getByText(content, { exact: true }).count()) > 0;
    });
  }

  // Where the ones before are blocked the client goes on to the next.
  const blocked = {
    websocket: [],
    "xhr-streaming": ["websocket"],
    eventsource: ["websocket", "xhr_streaming"],
    "xhr-polling": ["websocket", "xhr_streaming", "eventsource"],
  };
  for (const [transport, without] of Object.entries(blocked)) {
    test(`connects, subscribes and shows greetings by ${transport}`, async () => {
      const { context, page, problems } = await open("alice");
      for (const name of without) {
        await page.route(`**/gs-guide-websocket/*/*/${name}*`, (route) => route.abort());
        await page.routeWebSocket(`**/gs-guide-websocket/*/*/${name}`, (socket) => socket.close());
      }
      await page.goto(`${relay.url}/gs-guide/index.html`);
      await page.click("#connect");
      await page.locator("#conversation").waitFor();
      assert.equal(await page.evaluate("stompClient.ws.transport"), transport);
      await greeted(page, `Hello by ${transport}!`);
      await page.click("#disconnect");
      assert.deepEqual(problems, []);
      await context.close();
    });
  }

  test("a SEND to /app/hello, which nobody handles, is refused and the page lives on", async () => {
    const { context, page, problems } = await open("bob");
    await page.goto(`${relay.url}/gs-guide/index.html`);
    await page.click("#connect");
    await page.locator("#conversation").waitFor();
    await page.fill("#name", "Bob");
    // The guide's page does not listen to refusals: for it nothing happens.
    await page.click("#send");
    await greeted(page, "still here");
    // One that does is told.
    await page.evaluate(() => {
      globalThis.refusals = [];
      stompClient.subscribe("/user/queue/errors", ({ headers, body }) => {
        globalThis.refusals.push({ error: headers["x-error"], ...JSON.parse(body) });
      });
    });
    await page.click("#send");
    const [refusal] = await (await page.waitForFunction(() => globalThis.refusals.length > 0 && globalThis.refusals)).jsonValue();
    assert.equal(refusal.error, "unknown_destination");
    assert.equal(refusal.kind, "unknown_destination");
    assert.equal(refusal.command, "SEND");
    assert.equal(refusal.destination, "/app/hello");
    await greeted(page, "and still");
    assert.deepEqual(problems, []);
    await context.close();
  });

  test("without the cookie there is no session", async () => {
    const { context, page } = await open(null);
    await page.goto(`${relay.url}/gs-guide/index.html`);
    const closed = page.waitForEvent("console", (line) => line.text().includes("Lost connection"));
    await page.click("#connect");
    await closed;
    assert.ok(await page.locator("#conversation").isHidden());
    await context.close();
  });
});
