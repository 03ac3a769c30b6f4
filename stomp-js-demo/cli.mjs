#!/usr/bin/env node
// The relay from a terminal, with the same stomp.js as the page.

import { parseArgs } from "node:util";
import { Client } from "@stomp/stompjs";
import WebSocket from "ws";
import { INBOX, ROOM, encode, inboxOf, message } from "./src/wire.mjs";

const USAGE = `usage: node cli.mjs [--url ws://127.0.0.1:8080/ws] --user NAME --passcode PASSCODE COMMAND
  listen            print the room and direct messages, stored ones first, until Ctrl-C
  send USER TEXT    send a direct message; it waits for USER where USER is away
  unread            list what is unread
  read-all          mark everything read`;

const COMMANDS = { listen, send, unread, "read-all": readAll };

let args;
try {
  args = parseArgs({
    allowPositionals: true,
    options: {
      url: { type: "string", default: "ws://127.0.0.1:8080/ws" },
      user: { type: "string" },
      passcode: { type: "string" },
    },
  });
} catch (error) {
  usage(error.message);
}
const { url, user, passcode } = args.values;
const [name, ...words] = args.positionals;
const command = Object.hasOwn(COMMANDS, name ?? "") ? COMMANDS[name] : usage("which command?");
if (!user || passcode === undefined) usage("--user and --passcode are needed");
if (command === send && words.length !== 2) usage("send takes a user and a text");

const client = new Client({
  webSocketFactory: () => new WebSocket(url, ["v12.stomp", "v11.stomp", "v10.stomp"]),
  connectHeaders: { login: user, passcode },
  reconnectDelay: 0, // A command tries once.
  onConnect: () => command(...words),
  onStompError: (frame) => fail(frame.headers.message ?? "refused", frame.body.trim()),
  onWebSocketError: (event) => fail(`cannot reach ${url}`, event.message ?? ""),
  onWebSocketClose: (event) => client.active && fail("the server closed the connection", event.reason),
});
process.on("SIGINT", end);
process.on("SIGTERM", end);
client.activate();

function listen() {
  refusals();
  client.subscribe(ROOM, (frame) => print("lobby", message(frame)));
  client.subscribe(INBOX, (frame) => print("direct", message(frame)), {
    "x-unread": "replay",
    receipt: receipt(() => console.error(`listening as ${user}`)),
  });
}

function send(to, text) {
  refusals();
  client.publish({
    destination: inboxOf(to),
    body: encode(user, text),
    headers: {
      persistent: "true",
      "content-type": "application/json",
      receipt: receipt((frame) => {
        console.log(frame.headers["x-receipt-level"] ?? "received");
        end();
      }),
    },
  });
}

/** One page after the other, each closed by an end frame. */
function unread(after = null) {
  let last = after;
  client.subscribe(
    "/app/unread",
    (frame) => {
      const { headers } = frame;
      if (headers["x-unread-end"] !== "true") {
        last = headers["unread-id"];
        print(`${last} ${headers["x-destination"]}`, message(frame));
      } else if (Number(headers["x-unread-left"]) > 0) {
        unread(last);
      } else {
        end();
      }
    },
    after === null ? {} : { "x-unread-after": after },
  );
}

function readAll() {
  refusals();
  client.publish({
    destination: "/app/unread/read",
    body: JSON.stringify({ all: true }),
    headers: { receipt: receipt(end) },
  });
}

/** What the server refuses without ending the session. */
function refusals() {
  client.subscribe("/user/queue/errors", (frame) => fail(frame.headers.message, ""));
}

let receipts = 0;
function receipt(callback) {
  receipts += 1;
  const id = `r${receipts}`;
  client.watchForReceipt(id, callback);
  return id;
}

/** A control character in a message must not steer the reader's terminal. */
function print(where, { from, text }) {
  console.log(`[${where}] ${from}: ${text}`.replace(/[\u0000-\u001f\u007f-\u009f]/g, " "));
}

async function end() {
  await client.deactivate();
  process.exit(process.exitCode ?? 0);
}

function fail(what, detail) {
  console.error(detail ? `${what}: ${detail}` : what);
  process.exitCode = 1;
  void end();
}

function usage(problem) {
  console.error(`${problem}\n${USAGE}`);
  process.exit(2);
}
