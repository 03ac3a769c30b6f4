// The relay keeps what is unread, not what was read: that is the front end's business. This page
// keeps the last direct messages of each user in the browser's storage, until log out.

const LIMIT = 200;
const key = (user) => `stomp-relay-demo:${user}`;

export function loadHistory(user) {
  try {
    const list = JSON.parse(localStorage.getItem(key(user)) ?? "[]");
    return list.map((message) => ({ ...message, at: new Date(message.at), unreadId: null }));
  } catch {
    return []; // Storage is off or holds something else: no history.
  }
}

/** Other tabs of the same user write too, so theirs are kept. */
export function saveHistory(user, messages) {
  const all = new Map(loadHistory(user).map((message) => [message.id, message]));
  for (const message of messages) all.set(message.id, message);
  const last = [...all.values()].sort((a, b) => a.at - b.at).slice(-LIMIT);
  try {
    localStorage.setItem(key(user), JSON.stringify(last));
  } catch {
    // Full or off: the page works without.
  }
}

export function forgetHistory(user) {
  try {
    localStorage.removeItem(key(user));
  } catch {
    // Nothing was kept.
  }
}

/** Calls back where another tab of this user wrote. */
export function onHistory(getUser, callback) {
  addEventListener("storage", (event) => {
    if (getUser() && event.key === key(getUser())) callback();
  });
}
