// The page's transport switch: every transport that the relay has on, and what is off cannot be chosen.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Tab, launch } from "./browser.mjs";
import { startRelay } from "./servers.mjs";

const ALL = `
[[endpoint]]
path = "/ws"
allowed_origins = ["*"]
transports = ["websocket", "xhr", "xhr_streaming", "eventsource", "htmlfile", "iframe", "jsonp"]
client_library_url = "/sockjs.min.js"
`;
/** What is chosen, and what the page then says. */
const CHOICES = {
  sockjs: "SockJS websocket",
  websocket: "SockJS websocket",
  "xhr-streaming": "SockJS xhr-streaming",
  eventsource: "SockJS eventsource",
  "xhr-polling": "SockJS xhr-polling",
  "iframe-eventsource": "SockJS iframe-eventsource",
  "iframe-xhr-polling": "SockJS iframe-xhr-polling",
  htmlfile: "SockJS htmlfile",
  "iframe-htmlfile": "SockJS iframe-htmlfile",
  "jsonp-polling": "SockJS jsonp-polling",
  raw: "WebSocket",
};

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

const says = (tab, transport) =>
  tab.at("status").getByText(`${transport}, STOMP 1.2`).waitFor();

async function choose(tab, id) {
  await tab.at("status").click();
  await tab.at("transport").selectOption(id);
}

test("alice switches through all transports while bob stays on one", { timeout: 120_000 }, async () => {
  const relay = await startRelay("embedded", ALL);
  try {
    const wide = { viewport: { width: 1280, height: 800 }, colorScheme: "light" };
    const alice = await Tab.open(await browser.newContext(wide), `${relay.url}?user=alice`);
    await alice.at("login-transport").selectOption("xhr-polling");
    await alice.login("alice");
    await alice.connected();
    await says(alice, "SockJS xhr-polling");
    // A link has the transport too.
    const narrow = { viewport: { width: 390, height: 800 }, colorScheme: "dark" };
    const bob = await Tab.open(await browser.newContext(narrow), `${relay.url}?user=bob&transport=xhr-streaming`);
    await bob.login("bob");
    await bob.connected();
    await bob.at("nav-room").click();

    for (const [id, expected] of Object.entries(CHOICES)) {
      await choose(alice, id);
      await says(alice, expected);
      if (id === "eventsource") await alice.shot("transport-1280");
      await alice.say(`alice by ${id}`);
      await bob.message(`alice by ${id}`).waitFor();
      await bob.say(`bob to ${id}`);
      await alice.message(`bob to ${id}`).waitFor();
    }
    await bob.at("status").click();
    await bob.shot("transport-390");
    // Whatever is touched beside the panel closes it.
    await bob.at("chat-input").click();
    await bob.at("transport").waitFor({ state: "hidden" });

    // A direct message that was kept while the transport changed is there after it, also for who
    // asks for it before the relay can have replayed it.
    await bob.at("chat-back").click();
    await bob.at("nav-user-alice").click();
    await bob.say("Which one was the fastest?");
    await alice.at("unread-badge").getByText("1 unread", { exact: true }).waitFor();
    await alice.page.evaluate(() => {
      const status = document.querySelector("[data-testid=status]");
      const observer = new MutationObserver(() => {
        if (!status.textContent.includes("SockJS xhr-streaming, STOMP 1.2")) return;
        observer.disconnect();
        document.querySelector("[data-testid=unread-badge]").click();
      });
      observer.observe(status, { childList: true, subtree: true, characterData: true });
    });
    await choose(alice, "xhr-streaming");
    await says(alice, "SockJS xhr-streaming");
    await alice.message("Which one was the fastest?").waitFor();
    await alice.at("unread-badge").waitFor({ state: "hidden" });

    for (const tab of [alice, bob]) {
      assert.deepEqual(tab.problems, []);
      await tab.close();
    }
  } finally {
    await relay.stop();
  }
});

test("what is off in the config cannot be chosen", { timeout: 60_000 }, async () => {
  const relay = await startRelay("embedded");
  try {
    const tab = await Tab.open(await browser.newContext({ viewport: { width: 390, height: 800 } }), relay.url);
    const options = tab.at("login-transport").locator("option:disabled");
    await options.first().waitFor({ state: "attached" });
    const off = ["iframe-eventsource", "iframe-xhr-polling", "htmlfile", "iframe-htmlfile", "jsonp-polling"];
    assert.deepEqual(await options.evaluateAll((all) => all.map((option) => option.value)), off);
    await tab.shot("transport-login-390");
    await tab.page.setViewportSize({ width: 1280, height: 800 });
    await tab.shot("transport-login-1280");
    // An old link may still name one: the page says what is wrong.
    await tab.page.goto(`${relay.url}?user=alice&transport=jsonp-polling`);
    await tab.login("alice");
    await tab.at("login-error").getByText("All transports failed").waitFor();
    await tab.close();
  } finally {
    await relay.stop();
  }
});
