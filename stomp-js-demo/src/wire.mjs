// What goes over the wire: destinations and bodies. Shared by the page and the command line.

export const ROOM = "/topic/room.lobby";
export const JOBS = "/queue/jobs";
export const INBOX = "/user/queue/messages";

/** Where a message for one user is sent: `/` and `%` of a name are written as escapes. */
export const inboxOf = (user) =>
  `/user/${user.replace(/%/g, "%25").replace(/\//g, "%2F")}/queue/messages`;

/** A user name as the relay takes it: 1 to 128 bytes without control characters. */
export const isUserName = (name) =>
  !/[\u0000-\u001f\u007f-\u009f]/.test(name) &&
  name.length > 0 &&
  new TextEncoder().encode(name).length <= 128;

/** For what only this page tells apart. (randomUUID is missing on pages without TLS.) */
export const newId = () =>
  [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");

export const encode = (from, text) =>
  JSON.stringify({ text, from, at: new Date().toISOString() });

/**
 * Reads a body that anybody may have written: what is no JSON object of ours is shown as text.
 * `from` is what the sender says; nothing here should be decided by it.
 */
export function decode(body) {
  try {
    const value = JSON.parse(body);
    if (value && typeof value.text === "string") {
      const at = new Date(value.at);
      return {
        text: value.text,
        from: typeof value.from === "string" && isUserName(value.from) ? value.from : "unknown",
        at: Number.isNaN(at.getTime()) ? new Date() : at,
      };
    }
  } catch {
    // Not JSON: shown as it is.
  }
  return { text: body, from: "unknown", at: new Date() };
}

/** A decoded MESSAGE with the headers that tell it from others and say whether it is unread. */
export const message = (frame) => ({
  ...decode(frame.body),
  // Every message has an x-id, the same in every tab and every repetition.
  id: frame.headers["x-id"] ?? frame.headers["message-id"],
  unreadId: frame.headers["unread-id"] ?? null,
});
