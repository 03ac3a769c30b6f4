import assert from "node:assert/strict";
import { test } from "node:test";
import * as model from "../src/state.mjs";
import { decode, inboxOf, isUserName, message } from "../src/wire.mjs";

const incoming = (id, unreadId, from = "alice") => ({ id, unreadId, from, text: "hi", at: new Date(0) });

function withUnread(...ids) {
  const state = model.newState();
  state.me = "bob";
  for (const id of ids) model.addReceived(state, incoming(`X${id}`, id));
  return state;
}

const unreadIds = (state) => model.unreadIn(state, "alice").map((m) => m.unreadId);

test("the same x-id twice is one message, and the newer word on unread counts", () => {
  const state = withUnread("1");
  model.addReceived(state, incoming("X1", "1"));
  assert.equal(model.conversation(state, "alice").length, 1);
  model.applyRead(state, { ids: ["1"] });
  assert.deepEqual(unreadIds(state), []);
  model.addReceived(state, incoming("X1", "1"));
  assert.deepEqual(unreadIds(state), ["1"]);
});

test("readings as the relay announces them", () => {
  for (const [read, left] of [
    [{ ids: ["2", "99"] }, ["1", "10"]],
    [{ upTo: "2" }, ["10"]],
    [{ upTo: "2", destination: "/user/queue/messages" }, ["10"]],
    [{ upTo: "10", destination: "/user/queue/other" }, ["1", "2", "10"]],
    [{ all: true }, []],
    [{}, ["1", "2", "10"]],
  ]) {
    const state = withUnread("1", "2", "10");
    model.applyRead(state, read);
    assert.deepEqual(unreadIds(state), left, JSON.stringify(read));
  }
});

test("an id is told to the relay once, and again after a reconnect", () => {
  const state = withUnread("1", "2");
  assert.deepEqual(model.takeToRead(state, "alice"), ["1", "2"]);
  assert.deepEqual(model.takeToRead(state, "alice"), []);
  model.beginSession(state);
  model.addReceived(state, incoming("X2", "2"));
  assert.deepEqual(model.takeToRead(state, "alice"), ["2"]);
});

test("a new session forgets what was unread and what was under way", () => {
  const state = withUnread("1");
  model.addSent(state, "alice", incoming("mine", null, "bob"), "sending");
  model.beginSession(state);
  assert.deepEqual(unreadIds(state), []);
  assert.equal(model.peerWithUnread(state), undefined);
  assert.equal(state.replayed, false);
  assert.equal(state.direct.get("mine").delivery, "unconfirmed");
});

test("people are the known ones, those opened and those who wrote, but not oneself", () => {
  const state = withUnread();
  state.opened.push("dave");
  model.addReceived(state, incoming("X9", "9", "erin"));
  assert.deepEqual(model.people(state), ["alice", "carol", "admin", "dave", "erin"]);
});

test("bodies that anybody may have written", () => {
  for (const [body, text, from] of [
    ['{"text":"hi","from":"alice"}', "hi", "alice"],
    ['{"text":"hi","from":"a\\nb"}', "hi", "unknown"],
    ['{"text":"hi","from":7}', "hi", "unknown"],
    ['{"text":7}', '{"text":7}', "unknown"],
    ["plain", "plain", "unknown"],
    ["null", "null", "unknown"],
    ["", "", "unknown"],
  ]) {
    const { at, ...rest } = decode(body);
    assert.deepEqual(rest, { text, from }, body);
    assert.ok(!Number.isNaN(at.getTime()));
  }
  const at = "2024-05-01T10:00:00.000Z";
  assert.equal(decode(JSON.stringify({ text: "", from: "a", at })).at.toISOString(), at);
});

test("a message is told by its x-id", () => {
  const frame = (headers) => ({ body: "hi", headers });
  assert.equal(message(frame({ "x-id": "X", "message-id": "m" })).id, "X");
  assert.equal(message(frame({ "message-id": "m" })).id, "m");
  assert.equal(message(frame({ "x-id": "X", "unread-id": "17" })).unreadId, "17");
});

test("user names, and where they stand in destinations", () => {
  assert.equal(inboxOf("bob"), "/user/bob/queue/messages");
  assert.equal(inboxOf("a/b%2F"), "/user/a%2Fb%252F/queue/messages");
  for (const [name, good] of [["bob", true], ["", false], ["a\nb", false], ["x".repeat(128), true], ["ä".repeat(65), false]]) {
    assert.equal(isUserName(name), good, name);
  }
});
