// What the page knows. Plain data and functions that change it; no DOM, no network.

import { INBOX } from "./wire.mjs";

const KNOWN_PEOPLE = ["alice", "bob", "carol", "admin"];
const ROOM_LIMIT = 500;

export function newState() {
  return {
    me: null,
    /** The chosen transport, and those the relay has on (null: not known). */
    transport: "raw",
    served: null,
    link: { phase: "out", retryAt: 0, used: "", version: "", server: "", session: "", heartBeat: "" },
    loginError: "",
    view: { kind: "room" },
    room: [],
    /** Direct messages by x-id, in the order they came. */
    direct: new Map(),
    /** Names opened by hand; those with messages are people too. */
    opened: [],
    /** The relay's count: all destinations, all tabs. */
    unread: 0,
    /** Whether all that was kept has come in this session, and whether somebody waits to see it. */
    replayed: false,
    showUnread: false,
    /** Unread ids that the relay was told are read, and has not confirmed yet. */
    reading: new Set(),
    /** `taking` is null until the view is opened for the first time. */
    jobs: { taking: null, current: null, log: [] },
    notices: [],
  };
}

export function people(state) {
  const names = new Set([...KNOWN_PEOPLE, ...state.opened]);
  for (const message of state.direct.values()) names.add(message.peer);
  names.delete(state.me);
  return [...names];
}

export const conversation = (state, peer) =>
  [...state.direct.values()].filter((message) => message.peer === peer);

export const unreadIn = (state, peer) =>
  conversation(state, peer).filter((message) => message.unreadId !== null);

/** A room message; the same one twice (after a reconnect) is one. */
export function addToRoom(state, message) {
  if (state.room.some((known) => known.id === message.id)) return;
  state.room.push(message);
  if (state.room.length > ROOM_LIMIT) state.room.shift();
}

/**
 * A direct message that came in. The same x-id may come live, replayed, and again after a
 * connection that died: it is one message, and the last word on whether it is unread counts.
 */
export function addReceived(state, message) {
  const known = state.direct.get(message.id);
  if (known) known.unreadId = message.unreadId ?? known.unreadId;
  else state.direct.set(message.id, { ...message, peer: message.from, mine: false });
}

/** A direct message of our own; `delivery` follows its RECEIPT. */
export function addSent(state, peer, message, delivery) {
  state.direct.set(message.id, { ...message, peer, mine: true, unreadId: null, delivery });
}

/** What `/user/queue/unread` says of a reading, here or in another tab. */
export function applyRead(state, read) {
  const ids = new Set(read.ids ?? []);
  for (const message of state.direct.values()) {
    const upTo =
      read.upTo !== undefined &&
      (read.destination === undefined || read.destination === INBOX) &&
      Number(message.unreadId) <= Number(read.upTo);
    if (message.unreadId !== null && (read.all || upTo || ids.has(message.unreadId))) {
      message.unreadId = null;
    }
  }
}

/** A new session: what is unread is what the relay replays now, and nothing is under way. */
export function beginSession(state) {
  state.reading.clear();
  state.replayed = false;
  for (const message of state.direct.values()) {
    message.unreadId = null;
    if (message.delivery === "sending") message.delivery = "unconfirmed";
  }
}

export const peerWithUnread = (state) =>
  people(state).find((name) => unreadIn(state, name).length > 0);

/** Unread ids of a conversation that nobody has told the relay of yet; now somebody does. */
export function takeToRead(state, peer) {
  const ids = unreadIn(state, peer)
    .map((message) => message.unreadId)
    .filter((id) => !state.reading.has(id));
  for (const id of ids) state.reading.add(id);
  return ids;
}

/** Without its subscription a job that was held is somebody else's. */
export function loseJob(state) {
  state.jobs.current = null;
}

let noticeNumber = 0;
export function addNotice(state, text, kind = "error") {
  if (state.notices.some((notice) => notice.text === text)) return;
  noticeNumber += 1;
  state.notices.push({ id: noticeNumber, kind, text });
  if (state.notices.length > 3) state.notices.shift();
}
