// Idle pages behind nginx with its own timeouts, of which the 60 s of proxy_read_timeout matters:
// the relay has to keep both alive. This waits in real time, since nginx's clock is what is tested.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { Tab, launch } from "./browser.mjs";
import { freePort, start, startRelay } from "./servers.mjs";

const IDLE_MS = 180_000;
const stompBundle = new URL("../node_modules/@stomp/stompjs/bundles/stomp.umd.min.js", import.meta.url).pathname;

const config = (folder, port, relay) => `
${process.getuid() === 0 ? "user root;" : ""}
daemon off;
worker_processes 1;
pid ${folder}/nginx.pid;
error_log ${folder}/error.log;
events { worker_connections 64; }
http {
  access_log off;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server {
    listen 127.0.0.1:${port};
    location / {
      proxy_pass http://127.0.0.1:${relay};
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }
  }
}
`;

let relay, nginx, browser, folder, url;

before(async () => {
  relay = await startRelay("embedded");
  folder = await mkdtemp(path.join(tmpdir(), "stomp-relay-nginx-"));
  const port = await freePort();
  await writeFile(path.join(folder, "nginx.conf"), config(folder, port, relay.port));
  const program = existsSync("/usr/sbin/nginx") ? "/usr/sbin/nginx" : "nginx";
  nginx = await start(program, ["-p", folder, "-e", `${folder}/error.log`, "-c", `${folder}/nginx.conf`], port);
  url = `http://127.0.0.1:${port}/`;
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await nginx?.stop();
  await relay?.stop();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** Counts the WebSockets a page opens and those that close. */
function watchSockets(tab) {
  const seen = { opened: 0, closed: 0 };
  tab.page.on("websocket", (socket) => {
    seen.opened += 1;
    socket.on("close", () => (seen.closed += 1));
  });
  return seen;
}

test("idle pages live 3 minutes behind nginx, with and without heart-beats", { timeout: 300_000 }, async () => {
  // The demo page: stomp.js with its defaults, a beat every 10 s.
  const alice = new Tab(await (await browser.newContext()).newPage());
  const beating = watchSockets(alice);
  await alice.page.goto(url);
  await alice.login("alice");
  await alice.connected();

  // Heart-beats off: not a byte from the page, so it is up to the relay's PINGs.
  const bob = new Tab(await (await browser.newContext({ bypassCSP: true })).newPage());
  const silent = watchSockets(bob);
  await bob.page.goto(url);
  await bob.page.addScriptTag({ path: stompBundle });
  await bob.page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        globalThis.bodies = [];
        const client = new globalThis.StompJs.Client({
          brokerURL: `ws://${location.host}/ws`,
          connectHeaders: { login: "bob", passcode: "bob" },
          heartbeatIncoming: 0,
          heartbeatOutgoing: 0,
          reconnectDelay: 0,
          onConnect: () =>
            client.subscribe("/topic/room.lobby", (m) => globalThis.bodies.push(m.body), {
              receipt: "subscribed",
            }),
          onUnhandledReceipt: resolve,
          onWebSocketClose: (event) => reject(new Error(`closed ${event.code}`)),
          onStompError: (frame) => reject(new Error(frame.headers.message)),
        });
        client.activate();
      }),
  );

  await new Promise((resolve) => setTimeout(resolve, IDLE_MS));
  assert.deepEqual({ beating, silent }, { beating: { opened: 1, closed: 0 }, silent: { opened: 1, closed: 0 } });

  // Both are not only open but alive.
  await alice.say("Still there?");
  await alice.message("Still there?").waitFor();
  await bob.page.waitForFunction(() => globalThis.bodies.some((body) => body.includes("Still there?")));
  assert.deepEqual(alice.problems, []);
});
