// The story of two people and two tabs, told to the built relay by a real browser: with the
// embedded broker and SQLite by WebSocket and by SockJS, and with RabbitMQ and Redis.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Tab, launch } from "./browser.mjs";
import { startRelay, until } from "./servers.mjs";

const STORIES = [
  { name: "embedded", kind: "embedded", transport: "raw" },
  { name: "embedded-polling", kind: "embedded", transport: "xhr-polling" },
  { name: "rabbitmq", kind: "rabbitmq", transport: "raw" },
];

for (const { name, kind, transport } of STORIES) {
  describe(`page on ${kind} by ${transport}`, { timeout: 240_000 }, () => {
    let relay, browser, alices, bobs;

    before(async () => {
      relay = await startRelay(kind);
      browser = await launch();
    });

    // A context is one browser with its tabs; alice and bob sit at different machines.
    const people = async () => {
      alices = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
      bobs = await browser.newContext({ viewport: { width: 390, height: 800 }, colorScheme: "dark" });
    };

    after(async () => {
      await browser?.close();
      await relay?.stop();
    });

    const enter = async (context, user) => {
      const tab = await Tab.open(context, `${relay.url}?user=${user}&transport=${transport}`);
      assert.equal(await tab.at("login-name").inputValue(), user);
      await tab.login(user);
      await tab.connected();
      return tab;
    };

    test("a wrong passcode is refused with a reason, and no session", async () => {
      await people();
      const tab = await Tab.open(alices, relay.url);
      await tab.shot(`${name}-login-1280`);
      await tab.login("alice", "not-alice");
      await until("a reason", async () => (await tab.at("login-error").textContent()) !== "");
      assert.ok(await tab.at("login-form").isVisible());
      await tab.close();
    });

    test("room, message to an absent user, two tabs, read in one, reload", async () => {
      await people();
      const alice = await enter(alices, "alice");
      const bob = await enter(bobs, "bob");

      // The room.
      await bob.at("nav-room").click();
      await alice.say("Good morning! Is the new build out?");
      await bob.message("Is the new build out?").waitFor();
      await bob.say("Since ten minutes, on staging.");
      await alice.message("on staging").waitFor();
      assert.equal(await alice.at("message").count(), 2);
      await alice.shot(`${name}-room-1280`);
      await bob.shot(`${name}-room-390`);

      // Bob goes; alice writes to him; the relay keeps it.
      await bob.close();
      await alice.at("nav-user-bob").click();
      await alice.say("Could you send me the numbers when you are back?");
      await alice.message("the numbers").getByText("stored").waitFor();
      await alice.shot(`${name}-direct-1280`);

      // He comes back, in two tabs.
      const first = await enter(bobs, "bob");
      const second = await enter(bobs, "bob");
      for (const tab of [first, second]) {
        await tab.at("unread-badge").getByText("1 unread", { exact: true }).waitFor();
        await tab.at("unread-alice").waitFor();
      }
      await first.shot(`${name}-unread-390`);
      await second.page.setViewportSize({ width: 1280, height: 800 });
      await second.shot(`${name}-unread-1280`);

      // He reads it in one, and both know.
      await first.at("nav-user-alice").click();
      await first.message("the numbers").waitFor();
      for (const tab of [first, second]) {
        await tab.at("unread-badge").waitFor({ state: "hidden" });
        await tab.at("unread-alice").waitFor({ state: "detached" });
      }
      await first.shot(`${name}-read-390`);

      // A new page: still read, and still there to be looked at.
      await first.page.reload();
      await first.login("bob");
      await first.connected();
      await first.at("nav-user-alice").click();
      await first.message("the numbers").waitFor();
      assert.equal(await first.message("the numbers").count(), 1);
      assert.ok(await first.at("unread-badge").isHidden());
      assert.ok(await second.at("unread-badge").isHidden());

      // One that comes while he is here but looks elsewhere is unread until he looks.
      await second.at("nav-room").click();
      await first.at("chat-back").click();
      await alice.say("Found them.");
      for (const tab of [first, second]) {
        await tab.at("unread-badge").getByText("1 unread", { exact: true }).waitFor();
      }
      await second.at("unread-badge").click();
      await second.message("Found them.").waitFor();
      for (const tab of [first, second]) await tab.at("unread-badge").waitFor({ state: "hidden" });

      for (const tab of [alice, first, second]) {
        assert.deepEqual(tab.problems, []);
        const wider = await tab.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wider <= 0, `the page is ${wider} px wider than the window`);
        await tab.close();
      }
    });

    test("a job goes to one person, and given back to another", async () => {
      await people();
      const alice = await enter(alices, "alice");
      const bob = await enter(bobs, "bob");
      await alice.at("nav-jobs").click();
      await bob.at("nav-jobs").click();

      // Two people, two jobs: one each.
      for (const text of ["Check the invoices", "Call the printer"]) {
        await alice.at("jobs-input").fill(text);
        await alice.at("jobs-send").click();
      }
      for (const tab of [alice, bob]) await tab.at("job-done").waitFor();
      const jobs = await Promise.all([alice, bob].map((tab) => tab.at("job-text").textContent()));
      assert.deepEqual(jobs.sort(), ["Call the printer", "Check the invoices"]);
      await alice.shot(`${name}-jobs-1280`);
      await bob.shot(`${name}-jobs-390`);

      // Bob pauses: what he held goes to alice once she is free.
      const held = await bob.at("job-text").textContent();
      await bob.at("jobs-toggle").click();
      await bob.at("job-done").waitFor({ state: "hidden" });
      await alice.at("job-done").click();
      await alice.at("job-text").getByText(held).waitFor();
      await alice.at("job").getByText("it had come back to the queue").waitFor();

      // She gives it back, gets it again (nobody else is there), and does it.
      await alice.at("job-back").click();
      await alice.at("jobs-log").getByText("given back").waitFor();
      await alice.at("job-text").getByText(held).waitFor();
      await alice.at("job-done").click();
      await alice.at("job-text").getByText("Waiting for a job").waitFor();
      for (const tab of [alice, bob]) {
        assert.deepEqual(tab.problems, []);
        await tab.close();
      }
    });

    test("the relay drains with exit code 0 and the page says that it waits", async () => {
      await people();
      const alice = await enter(alices, "alice");
      assert.equal(await relay.end(), 0);
      await alice.at("status").getByText("Reconnecting").waitFor();
      assert.ok(await alice.at("chat-send").isDisabled());
    });
  });
}
