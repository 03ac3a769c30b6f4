import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { startRelay, until } from "./servers.mjs";

const cli = new URL("../cli.mjs", import.meta.url).pathname;
let relay;

before(async () => (relay = await startRelay("embedded")));
after(() => relay?.stop());

const words = (user, ...rest) => [cli, "--url", relay.ws, "--user", user, "--passcode", user, ...rest];

/** Runs to the end: exit code, stdout and stderr. */
const run = (args) =>
  new Promise((resolve) => {
    execFile(process.execPath, args, { timeout: 20_000 }, (error, stdout, stderr) =>
      resolve({ code: error ? error.code : 0, stdout, stderr }),
    );
  });

test("a message to an absent user waits, is listed, and is read", async () => {
  assert.deepEqual(await run(words("alice", "send", "bob", "hello\u001b[2J")), { code: 0, stdout: "stored\n", stderr: "" });
  const listed = await run(words("bob", "unread"));
  assert.match(listed.stdout, /^\[\d+ \/user\/queue\/messages\] alice: hello \[2J\n$/);
  assert.equal(listed.code, 0);
  assert.deepEqual(await run(words("bob", "read-all")), { code: 0, stdout: "", stderr: "" });
  assert.deepEqual(await run(words("bob", "unread")), { code: 0, stdout: "", stderr: "" });
});

test("unread lists more than one page", async () => {
  // The first page has 100 messages; 102 sends by 102 processes would take a minute.
  const { Client } = await import("@stomp/stompjs");
  const { default: WebSocket } = await import("ws");
  const { encode, inboxOf } = await import("../src/wire.mjs");
  await new Promise((resolve, reject) => {
    const client = new Client({
      webSocketFactory: () => new WebSocket(relay.ws, ["v12.stomp"]),
      connectHeaders: { login: "alice", passcode: "alice" },
      reconnectDelay: 0,
      onStompError: (frame) => reject(new Error(frame.headers.message)),
      onConnect: () => {
        client.watchForReceipt("last", () => client.deactivate().then(resolve));
        for (let i = 1; i <= 102; i += 1) {
          client.publish({
            destination: inboxOf("carol"),
            body: encode("alice", `number ${i}`),
            headers: i === 102 ? { receipt: "last" } : {},
          });
        }
      },
    });
    client.activate();
  });
  const { stdout } = await run(words("carol", "unread"));
  const texts = stdout.trim().split("\n").map((line) => line.replace(/^.*: /, ""));
  assert.deepEqual(texts, Array.from({ length: 102 }, (_, i) => `number ${i + 1}`));
});

test("listen shows what is stored, then what comes, and ends with Ctrl-C", async () => {
  await run(words("alice", "send", "admin", "before"));
  const child = spawn(process.execPath, words("admin", "listen"));
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (output += data));
  try {
    await until("listening", () => output.includes("listening as admin"));
    assert.match(output, /\[direct\] alice: before/);
    await run(words("alice", "send", "admin", "after"));
    await until("the live message", () => /\[direct\] alice: after/.test(output));
    const gone = once(child, "exit");
    child.kill("SIGINT");
    assert.deepEqual(await gone, [0, null]);
  } finally {
    child.kill("SIGKILL");
  }
});

test("what goes wrong is said, with an exit code", async () => {
  for (const [args, code, text] of [
    [[cli, "--url", relay.ws, "--user", "alice", "--passcode", "wrong", "unread"], 1, /\w/],
    [[cli, "--url", "ws://127.0.0.1:1/ws", "--user", "alice", "--passcode", "alice", "unread"], 1, /cannot reach/],
    [words("alice"), 2, /which command/],
    [words("alice", "dance"), 2, /which command/],
    [words("alice", "send", "bob"), 2, /send takes a user and a text/],
    [[cli, "unread"], 2, /--user and --passcode are needed/],
    [[cli, "--unknown"], 2, /usage/],
  ]) {
    const result = await run(args);
    assert.equal(result.code, code, args.join(" "));
    assert.match(result.stderr, text);
    assert.equal(result.stdout, "");
  }
});
