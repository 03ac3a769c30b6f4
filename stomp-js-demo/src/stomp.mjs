// The connection: stock stomp.js against the relay. Frames in, calls of `on` out; no DOM here.

import { Client } from "@stomp/stompjs";
import { open } from "./transports.mjs";
import { INBOX, JOBS, ROOM, encode, inboxOf, message, newId } from "./wire.mjs";

const RECONNECT_MS = 3000;

/**
 * `on` has: connected(headers, used), where `used` is the transport that SockJS came to,
 * closed(retryInMs, text, everConnected), refused(text), room(message), direct(message),
 * replayed(), unread(change), job(frame), error(text).
 */
export class Connection {
  #client;
  #transport;
  #jobs = null;
  #everConnected = false;
  #lastError = "";

  constructor(user, passcode, transport, on) {
    this.on = on;
    this.#transport = transport;
    this.#client = new Client({
      webSocketFactory: () => open(this.#transport),
      connectHeaders: { login: user, passcode },
      reconnectDelay: RECONNECT_MS,
      connectionTimeout: 10_000,
      onConnect: (frame) => this.#connected(frame),
      onStompError: (frame) => this.#refused(frame),
      onWebSocketClose: (event) => this.#closed(event),
    });
    this.user = user;
    this.#client.activate();
  }

  get connected() {
    return this.#client.connected;
  }

  close() {
    return this.#client.deactivate();
  }

  /** Ends this session and begins another by that transport. */
  async switchTo(transport) {
    this.#transport = transport;
    this.#jobs = null;
    await this.#client.deactivate();
    // Switched again meanwhile: the later one has activated it.
    if (this.#transport === transport && !this.#client.active) this.#client.activate();
  }

  // Every session begins here, the first and each one after a reconnect.
  #connected(frame) {
    const client = this.#client;
    this.#everConnected = true;
    this.#lastError = "";
    this.on.connected(frame.headers, client.webSocket?.transport ?? "");

    // What the relay refuses without ending the session.
    client.subscribe("/user/queue/errors", (m) =>
      this.on.error(m.headers.message || m.body),
    );

    // Changes first, then the count: a change that comes in between is the newer one.
    let changed = false;
    client.subscribe("/user/queue/unread", (m) => {
      changed = true;
      this.on.unread(JSON.parse(m.body));
    });
    client.subscribe(
      "/app/unread",
      (m) => {
        // With its end frame this subscription is over by itself.
        if (m.headers["x-unread-end"] === "true" && !changed) {
          this.on.unread({ unread: Number(m.headers["x-unread-left"]) });
        }
      },
      { "x-unread-limit": "0" },
    );

    client.subscribe(ROOM, (m) => this.on.room(message(m)));
    // Stored ones first, then the RECEIPT, then live ones, no gap and none twice.
    const receipt = newId();
    client.watchForReceipt(receipt, () => this.on.replayed());
    client.subscribe(INBOX, (m) => this.on.direct(message(m)), { "x-unread": "replay", receipt });
  }

  // ERROR: the server closes after it. Before CONNECTED it is the login that was refused.
  #refused(frame) {
    const [detail] = frame.body.trim().split("\n");
    this.#lastError = [frame.headers.message, detail].filter(Boolean).join(": ") || "refused";
    if (!this.#client.connected) {
      void this.#client.deactivate();
      this.on.refused(this.#lastError);
    }
  }

  #closed(event) {
    this.#jobs = null;
    if (!this.#client.active) return;
    const why = this.#lastError || event.reason;
    // Only after a login that worked is it worth staying on the page.
    this.on.closed(RECONNECT_MS, why, this.#everConnected);
  }

  // A RECEIPT says how far the message has got: x-receipt-level.
  #send(destination, body, headers, onReceipt) {
    const receipt = newId();
    this.#client.watchForReceipt(receipt, (frame) =>
      onReceipt?.(frame.headers["x-receipt-level"] ?? "received"),
    );
    this.#client.publish({
      destination,
      body,
      headers: { receipt, "content-type": "application/json", ...headers },
    });
  }

  sendToRoom(text) {
    this.#send(ROOM, encode(this.user, text), {});
  }

  /** `persistent:true` keeps it as unread even where its receiver is online. */
  sendDirect(to, text, onReceipt) {
    this.#send(inboxOf(to), encode(this.user, text), { persistent: "true" }, onReceipt);
  }

  sendJob(text, onReceipt) {
    this.#send(JOBS, encode(this.user, text), { persistent: "true" }, onReceipt);
  }

  markRead(ids) {
    this.#client.publish({ destination: "/app/unread/read", body: JSON.stringify({ ids }) });
  }

  /** One job at a time: the next comes when this one is done or given back. */
  takeJobs() {
    this.#jobs ??= this.#client.subscribe(JOBS, (frame) => this.on.job(frame), {
      ack: "client-individual",
      "prefetch-count": "1",
    });
  }

  stopJobs() {
    this.#jobs?.unsubscribe();
    this.#jobs = null;
  }
}
