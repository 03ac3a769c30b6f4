// Draws the state. Called after every change; decides nothing.

import { byId, h, hue, initials, setText, syncList } from "./dom.mjs";
import { conversation, people, unreadIn } from "./state.mjs";
import { RAW, SOCKJS, describe, forced, isServed } from "./transports.mjs";

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

const DELIVERY = {
  sending: "sending…",
  stored: "stored",
  pushed: "delivered",
  confirmed: "confirmed",
  unconfirmed: "not confirmed",
};

export function render(state) {
  const loggedIn = state.link.phase !== "out";
  byId("login").hidden = loggedIn;
  byId("app").hidden = !loggedIn;
  renderNotices(state);
  for (const id of ["login-transport", "transport"]) renderTransports(byId(id), state);
  setText(byId("login-error"), state.loginError);
  document.title = loggedIn && state.unread > 0 ? `(${state.unread}) stomp-relay` : "stomp-relay";
  if (!loggedIn) return;
  renderBar(state);
  renderSide(state);
  const jobs = state.view.kind === "jobs";
  byId("chat").hidden = jobs;
  byId("jobs").hidden = !jobs;
  if (jobs) renderJobs(state);
  else renderChat(state);
}

function renderTransports(select, { transport, served }) {
  const option = (id, text) => {
    const off = !isServed(id, served);
    return h("option", { value: id, disabled: off ? "" : null }, off ? `${text} (off in the config)` : text);
  };
  // Only where it differs: an open list must not be replaced under somebody's hand.
  const print = JSON.stringify(served);
  if (select.dataset.print !== print) {
    select.dataset.print = print;
    select.replaceChildren(
      option(RAW, "WebSocket"),
      option(SOCKJS, "SockJS, by what works best"),
      h("optgroup", { label: "SockJS by one transport" }, ...forced.map((id) => option(id, id))),
    );
  }
  if (select.value !== transport) select.value = transport;
}

function renderBar(state) {
  const { link } = state;
  const badge = byId("unread-badge");
  badge.hidden = state.unread === 0;
  setText(badge, `${state.unread} unread`);

  setText(byId("me"), state.me);
  const avatar = byId("me-avatar");
  avatar.className = `avatar ${hue(state.me)}`;
  setText(avatar, initials(state.me));

  byId("app").dataset.phase = link.phase;
  const transport = describe(state.transport, link.used);
  const seconds = Math.ceil((link.retryAt - Date.now()) / 1000);
  setText(
    byId("status"),
    {
      connecting: "Connecting…",
      connected: "Connected",
      waiting: seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting…",
    }[link.phase],
  );
  setText(
    byId("status-more"),
    link.phase === "connected" ? `${transport}, STOMP ${link.version}, ${link.server || "unnamed server"}` : "",
  );
  const rows = [
    ["Transport", transport],
    ["STOMP version", link.version],
    ["Server", link.server],
    ["Session", link.session],
    ["Heart-beat", link.heartBeat],
  ].filter(([, value]) => value);
  syncList(
    byId("status-detail"),
    rows,
    ([name]) => name,
    ([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)),
    (row) => row.join("="),
  );
}

function renderSide(state) {
  const { view } = state;
  mark(byId("nav-room"), view.kind === "room");
  mark(byId("nav-jobs"), view.kind === "jobs");
  byId("nav-jobs-held").hidden = state.jobs.current === null;
  syncList(
    byId("people"),
    people(state),
    (name) => name,
    (name) => {
      const unread = unreadIn(state, name).length;
      const button = h(
        "button",
        { class: "item", testid: `nav-user-${name}`, "data-peer": name },
        h("span", { class: `avatar ${hue(name)}`, "aria-hidden": "true" }, initials(name)),
        h("span", { class: "name" }, name),
        unread === 0
          ? null
          : h("span", { class: "pill", testid: `unread-${name}` }, String(unread), h("span", { class: "sr-only" }, " unread")),
      );
      mark(button, view.kind === "user" && view.peer === name);
      return h("li", {}, button);
    },
    (name) => `${unreadIn(state, name).length} ${view.kind === "user" && view.peer === name}`,
  );
}

function mark(button, current) {
  if (current) button.setAttribute("aria-current", "page");
  else button.removeAttribute("aria-current");
}

function renderChat(state) {
  const { view } = state;
  const room = view.kind === "room";
  const messages = room ? state.room : conversation(state, view.peer);
  setText(byId("chat-title"), room ? "Lobby" : view.peer);
  setText(
    byId("chat-about"),
    room
      ? "Everybody who is here sees it; nothing is kept."
      : "Reaches every tab, or waits until its reader is back.",
  );
  byId("chat-empty").hidden = messages.length > 0;
  setText(byId("chat-empty"), room ? "Nobody has said anything yet." : `No messages with ${view.peer} yet.`);
  byId("chat-input").placeholder = room ? "Message to the lobby" : `Message to ${view.peer}`;
  byId("chat-send").disabled = state.link.phase !== "connected";

  const scroll = byId("chat-scroll");
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
  const log = byId("chat-log");
  const name = room ? "room" : `user ${view.peer}`;
  const other = log.dataset.of !== name;
  log.dataset.of = name;
  syncList(
    log,
    messages,
    (message) => `${name} ${message.id}`,
    (message) => bubble(state, message),
    (message) => `${message.id} ${message.delivery ?? ""}`,
  );
  if (atEnd || other) scroll.scrollTop = scroll.scrollHeight;
}

function bubble(state, message) {
  const mine = message.mine || message.from === state.me;
  return h(
    "li",
    { class: mine ? "message mine" : "message", testid: "message" },
    h("span", { class: `avatar ${hue(message.from)}`, "aria-hidden": "true" }, initials(message.from)),
    h(
      "div",
      { class: "bubble" },
      h(
        "p",
        { class: "meta" },
        h("b", {}, mine ? "You" : message.from),
        h("time", { datetime: message.at.toISOString() }, time.format(message.at)),
        message.delivery
          ? h("span", { class: "delivery", testid: "delivery" }, DELIVERY[message.delivery] ?? message.delivery)
          : null,
      ),
      h("p", { class: "text" }, message.text),
    ),
  );
}

function renderJobs(state) {
  const { jobs } = state;
  const job = jobs.current;
  setText(byId("jobs-toggle"), jobs.taking ? "Pause" : "Take part");
  byId("job").classList.toggle("held", job !== null);
  setText(byId("job-text"), job ? job.text : jobs.taking ? "Waiting for a job…" : "You are not taking jobs.");
  setText(
    byId("job-about"),
    job ? `from ${job.from}${job.redelivered ? ", it had come back to the queue" : ""}` : "",
  );
  byId("job-actions").hidden = job === null;
  byId("jobs-send").disabled = state.link.phase !== "connected";
  byId("jobs-past").hidden = jobs.log.length === 0;
  syncList(
    byId("jobs-log"),
    jobs.log,
    (event) => event.id,
    (event) =>
      h(
        "li",
        { class: event.kind },
        h("time", { datetime: event.at.toISOString() }, time.format(event.at)),
        h("b", {}, event.kind),
        h("span", {}, event.text),
      ),
    (event) => event.kind,
  );
}

function renderNotices(state) {
  syncList(
    byId("notices"),
    state.notices,
    (notice) => notice.id,
    (notice) =>
      h(
        "div",
        { class: `notice ${notice.kind}`, testid: "notice" },
        h("p", {}, notice.text),
        h("button", { class: "quiet", "aria-label": "Close", "data-notice": String(notice.id) }, "×"),
      ),
  );
}
