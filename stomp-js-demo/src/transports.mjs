// The ways to the relay that a person can choose from.

import SockJS from "sockjs-client";

export const RAW = "raw";
export const SOCKJS = "sockjs";

/** What SockJS calls each transport, and what `/info` must list for it. */
const FORCED = {
  websocket: ["websocket"],
  "xhr-streaming": ["xhr-streaming"],
  eventsource: ["eventsource"],
  "xhr-polling": ["xhr-polling"],
  "iframe-eventsource": ["iframe", "eventsource"],
  "iframe-xhr-polling": ["iframe", "xhr-polling"],
  htmlfile: ["htmlfile"],
  "iframe-htmlfile": ["iframe", "htmlfile"],
  "jsonp-polling": ["jsonp-polling"],
};

export const forced = Object.keys(FORCED);

export const isTransport = (id) => id === RAW || id === SOCKJS || Object.hasOwn(FORCED, id);

/** Whether the relay serves it; `served` is null where nobody knows. */
export const isServed = (id, served) =>
  served === null ||
  id === RAW ||
  (id === SOCKJS ? served.length > 0 : FORCED[id].every((name) => served.includes(name)));

/** What to call a connection; `used` is the transport that SockJS came to. */
export function describe(id, used) {
  if (id === RAW) return "WebSocket";
  return used ? `SockJS ${used}` : "SockJS";
}

/** What the relay's SockJS has on. */
export async function ask() {
  try {
    const answer = await fetch("/ws/info", { cache: "no-store" });
    if (!answer.ok) return [];
    const { transports } = await answer.json();
    return Array.isArray(transports) ? transports : null;
  } catch {
    return null;
  }
}

const rawURL = () => `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;

/** A new socket to the relay that served this page. */
export function open(id) {
  if (id === RAW) return new WebSocket(rawURL(), ["v12.stomp", "v11.stomp", "v10.stomp"]);
  return new SockJS("/ws", null, id === SOCKJS ? {} : { transports: [id] });
}
