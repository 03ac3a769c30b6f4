// Ties the state, the connection and the view together: what a person or a frame does, happens here.

import { byId } from "./dom.mjs";
import { forgetHistory, loadHistory, onHistory, saveHistory } from "./history.mjs";
import * as model from "./state.mjs";
import { Connection } from "./stomp.mjs";
import { RAW, ask, isTransport } from "./transports.mjs";
import { render } from "./view.mjs";
import { decode, isUserName, newId } from "./wire.mjs";

let state = model.newState();
let connection = null;

const draw = () => render(state);

/** Nobody is logged in; what was chosen for the page as such stays. */
const fresh = () => ({ ...model.newState(), transport: state.transport, served: state.served });

// What the connection says.
const on = {
  connected(headers, used) {
    model.beginSession(state);
    state.loginError = "";
    state.link = {
      phase: "connected",
      retryAt: 0,
      used,
      version: headers.version,
      server: headers.server ?? "",
      session: headers.session ?? "",
      heartBeat: headers["heart-beat"] ?? "",
    };
    if (state.jobs.taking) connection.takeJobs();
    draw();
  },
  closed(retryInMs, why, wasConnected) {
    model.loseJob(state);
    if (wasConnected) {
      state.link = { ...state.link, phase: "waiting", retryAt: Date.now() + retryInMs };
      if (why) model.addNotice(state, `Connection closed: ${why}`);
    } else {
      logout(why || "The server cannot be reached.");
    }
    draw();
  },
  refused(text) {
    logout(text);
  },
  room(message) {
    model.addToRoom(state, message);
    draw();
  },
  direct(message) {
    model.addReceived(state, message);
    saveHistory(state.me, state.direct.values());
    if (state.showUnread) showUnread();
    readWhatIsShown();
    draw();
  },
  replayed() {
    state.replayed = true;
    if (state.showUnread) showUnread();
    draw();
  },
  unread(change) {
    state.unread = change.unread;
    if (change.read) model.applyRead(state, change.read);
    draw();
  },
  job(frame) {
    state.jobs.current = {
      ...decode(frame.body),
      redelivered: frame.headers.redelivered === "true",
      frame,
    };
    draw();
  },
  error(text) {
    model.addNotice(state, text);
    draw();
  },
};

function login(user, passcode) {
  state = fresh();
  state.me = user;
  state.link.phase = "connecting";
  for (const message of loadHistory(user)) state.direct.set(message.id, message);
  keepInAddress();
  connection = new Connection(user, passcode, state.transport, on);
  show({ kind: "room" }, "list");
}

/** So that a reload has the name and the transport again. */
function keepInAddress() {
  const words = new URLSearchParams();
  if (state.me) words.set("user", state.me);
  if (state.transport !== RAW) words.set("transport", state.transport);
  history.replaceState(null, "", `?${words}`);
}

/** For the next session, and where there is one, at once. */
function useTransport(transport) {
  state.transport = transport;
  keepInAddress();
  if (connection) {
    model.loseJob(state);
    state.link = { ...state.link, phase: "connecting", used: "" };
    void connection.switchTo(transport);
  }
  draw();
}

function logout(error = "") {
  void connection?.close();
  connection = null;
  const name = state.me ?? "";
  state = fresh();
  state.loginError = error;
  draw();
  byId("login-name").value = name;
  byId("login-passcode").value = "";
  byId("login-passcode").focus();
}

// On a narrow screen either the list or what was chosen from it is shown.
function show(view, pane = "detail") {
  state.view = view;
  state.showUnread = false;
  byId("app").dataset.pane = pane;
  if (view.kind === "jobs" && state.jobs.taking === null) takePart(true);
  readWhatIsShown();
  draw();
  const narrow = matchMedia("(max-width: 719px)").matches;
  if (pane === "detail") {
    // A touch keyboard that jumps up would hide what one wanted to read.
    const input = view.kind === "jobs" ? byId("jobs-input") : byId("chat-input");
    (narrow ? byId(view.kind === "jobs" ? "jobs-title" : "chat-title") : input).focus();
  }
}

/** The first conversation with something unread; it may still be on its way after a reconnect. */
function showUnread() {
  const peer = model.peerWithUnread(state);
  state.showUnread = peer === undefined && !state.replayed;
  if (peer !== undefined) show({ kind: "user", peer });
  else if (state.replayed) model.addNotice(state, "What is unread is not a message of this page.", "info");
}

/** What a person has before their eyes is read; the relay tells all tabs. */
function readWhatIsShown() {
  const { view } = state;
  const hiddenByList =
    byId("app").dataset.pane === "list" && matchMedia("(max-width: 719px)").matches;
  if (view.kind !== "user" || hiddenByList) return;
  if (document.visibilityState !== "visible" || !connection?.connected) return;
  const ids = model.takeToRead(state, view.peer);
  if (ids.length > 0) connection.markRead(ids);
}

/** Who opens the queue takes part in it, until they pause. A job that was held goes back then. */
function takePart(taking) {
  const held = state.jobs.current;
  state.jobs.taking = taking;
  if (!taking) model.loseJob(state);
  if (!connection?.connected) return;
  if (taking) {
    connection.takeJobs();
  } else {
    connection.stopJobs();
    // UNSUBSCRIBE leaves open what was delivered; after it, the job cannot come back to us.
    held?.frame.nack();
  }
}

function logJob(kind, text) {
  state.jobs.log.unshift({ id: newId(), kind, text, at: new Date() });
  state.jobs.log.length = Math.min(state.jobs.log.length, 50);
}

function settleJob(kind) {
  const job = state.jobs.current;
  if (!job || !connection?.connected) return;
  state.jobs.current = null;
  if (kind === "done") job.frame.ack();
  else job.frame.nack();
  logJob(kind, job.text);
  draw();
}

function sendDirect(peer, text) {
  const message = { id: newId(), from: state.me, text, at: new Date() };
  model.addSent(state, peer, message, "sending");
  connection.sendDirect(peer, text, (level) => {
    model.addSent(state, peer, message, level);
    saveHistory(state.me, state.direct.values());
    draw();
  });
}

/** A form whose one field is sent and emptied. */
function onSubmit(form, input, action) {
  byId(form).addEventListener("submit", (event) => {
    event.preventDefault();
    const text = byId(input).value.trim();
    if (!text || !connection?.connected) return;
    byId(input).value = "";
    action(text);
    draw();
  });
}

byId("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = byId("login-name").value.trim();
  if (isUserName(user)) login(user, byId("login-passcode").value);
});
for (const id of ["login-transport", "transport"]) {
  byId(id).addEventListener("change", (event) => useTransport(event.target.value));
}
// The panel of the connection closes like a menu: by Escape, or by what is beside it.
const panel = document.querySelector("details.status");
document.addEventListener("pointerdown", (event) => {
  if (!panel.contains(event.target)) panel.open = false;
});
panel.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  panel.open = false;
  panel.querySelector("summary").focus();
});
byId("logout").addEventListener("click", () => {
  forgetHistory(state.me);
  logout();
});

onSubmit("chat-form", "chat-input", (text) => {
  if (state.view.kind === "room") connection.sendToRoom(text);
  else sendDirect(state.view.peer, text);
});
onSubmit("jobs-form", "jobs-input", (text) => {
  connection.sendJob(text, (level) => {
    logJob("added", `${text} (${level})`);
    draw();
  });
});
onSubmit("open-form", "open-name", (name) => {
  if (!isUserName(name) || name === state.me) {
    model.addNotice(state, "A user name has 1 to 128 bytes, and is not your own.");
    return;
  }
  if (!state.opened.includes(name)) state.opened.push(name);
  show({ kind: "user", peer: name });
});

byId("nav-room").addEventListener("click", () => show({ kind: "room" }));
byId("nav-jobs").addEventListener("click", () => show({ kind: "jobs" }));
byId("people").addEventListener("click", (event) => {
  const peer = event.target.closest("[data-peer]")?.dataset.peer;
  if (peer !== undefined) show({ kind: "user", peer });
});
byId("unread-badge").addEventListener("click", () => {
  showUnread();
  draw();
});
byId("job-done").addEventListener("click", () => settleJob("done"));
byId("job-back").addEventListener("click", () => settleJob("given back"));
byId("jobs-toggle").addEventListener("click", () => {
  takePart(!state.jobs.taking);
  draw();
});
byId("notices").addEventListener("click", (event) => {
  const id = Number(event.target.closest("[data-notice]")?.dataset.notice);
  state.notices = state.notices.filter((notice) => notice.id !== id);
  draw();
});
for (const back of document.querySelectorAll("[data-back]")) {
  back.addEventListener("click", () => {
    byId("app").dataset.pane = "list";
    byId("nav-room").focus();
  });
}

document.addEventListener("visibilitychange", readWhatIsShown);
onHistory(
  () => state.me,
  () => {
    for (const message of loadHistory(state.me)) {
      if (!state.direct.has(message.id)) state.direct.set(message.id, message);
    }
    draw();
  },
);
// The seconds until the next attempt.
setInterval(() => {
  if (state.link.phase === "waiting") draw();
}, 500);

const words = new URLSearchParams(location.search);
if (isTransport(words.get("transport"))) state.transport = words.get("transport");
const asked = words.get("user");
if (asked) {
  byId("login-name").value = asked;
  byId("login-passcode").focus();
} else byId("login-name").focus();
draw();
state.served = await ask();
draw();
