//! Frames that a script names by three bytes, so that a fuzzer gets deep with few of them: the
//! command, what is in it as bits, and which of a few names or of the messages that came.
//!
//! | bits of the second byte | |
//! |---|---|
//! | 0 | a receipt |
//! | 1-2 | no transaction, or one of three |
//! | 3-4 | SUBSCRIBE: the ack mode; NACK: `requeue:false` for 3; SEND: `reply-to` for 3 |
//! | 5-7 | SEND: one of eight more headers; SUBSCRIBE: the same |

use stomp_relay::stomp::{Command, Frame, Version};

const COMMANDS: [Command; 10] = [
    Command::Send,
    Command::Subscribe,
    Command::Ack,
    Command::Nack,
    Command::Unsubscribe,
    Command::Begin,
    Command::Commit,
    Command::Abort,
    Command::Disconnect,
    Command::Connect,
];
const TRANSACTIONS: [&str; 3] = ["t0", "t1", "t2"];
const TARGETS: [&str; 12] = [
    "/queue/a",
    "/queue/b",
    "/topic/a.b",
    "/topic/a.c",
    "/queue/a.dead",
    "/amq/queue/a",
    "/exchange/amq.direct/a",
    "/exchange/amq.fanout",
    "/user/guest/queue/a",
    "/app/unread/read",
    "/reply-queue/b",
    "/exchange/none/a",
];
const SOURCES: [&str; 12] = [
    "/queue/a",
    "/queue/b",
    "/topic/a.*",
    "/topic/#",
    "/topic/a.b",
    "/queue/a.dead",
    "/amq/queue/a",
    "/exchange/amq.direct/a",
    "/exchange/amq.fanout",
    "/user/queue/a",
    "/app/unread",
    "/user/queue/errors",
];
const OF_SEND: [(&str, &str); 8] = [
    ("persistent", "true"),
    ("expiration", "0"),
    ("x-max-length", "1"),
    ("durable", "false"),
    ("exclusive", "true"),
    ("x-unread", "never"),
    ("a:\n\\", "b:\r\n\\"),
    ("auto-delete", "true"),
];
const OF_SUBSCRIBE: [(&str, &str); 8] = [
    ("prefetch-count", "1"),
    ("durable", "true"),
    ("auto-delete", "true"),
    ("exclusive", "true"),
    ("x-queue-name", "b"),
    ("x-message-ttl", "0"),
    ("x-expires", "0"),
    ("x-max-length", "2"),
];

/// The frame that three bytes name. `ids`: those of the last messages that came.
pub(crate) fn frame([command, bits, which]: [u8; 3], version: Version, ids: &[String]) -> Frame {
    let command = COMMANDS[usize::from(command) % COMMANDS.len()];
    let mut frame = Frame::new(command);
    let which = usize::from(which);
    let choice = usize::from(bits >> 3 & 3);
    let more = usize::from(bits >> 5);
    let mut header = |(name, value): (&str, &str)| frame.headers.push(name, value);
    if bits & 1 != 0 {
        header(("receipt", ["r0", "r1", "r2"][which % 3]));
    }
    let transaction = usize::from(bits >> 1 & 3).checked_sub(1).map(|which| TRANSACTIONS[which]);
    match command {
        Command::Send => {
            header(("destination", TARGETS[which % TARGETS.len()]));
            transaction.into_iter().for_each(|name| header(("transaction", name)));
            if choice == 3 {
                header(("reply-to", "/temp-queue/a"));
            }
            header(OF_SEND[more]);
            frame.body = "{\"all\":true}".into();
        }
        Command::Subscribe => {
            header(("id", &format!("s{}", which / SOURCES.len())));
            header(("destination", SOURCES[which % SOURCES.len()]));
            header(("ack", ["auto", "client", "client-individual", "client"][choice]));
            header(OF_SUBSCRIBE[more]);
        }
        Command::Ack | Command::Nack => {
            let name = if version == Version::V12 { "id" } else { "message-id" };
            let id = which.checked_rem(ids.len()).map_or("none", |which| &ids[which]);
            header((name, id));
            transaction.into_iter().for_each(|name| header(("transaction", name)));
            if choice == 3 {
                header(("requeue", "false"));
            }
        }
        Command::Unsubscribe => header(("id", &format!("s{}", which % 22))),
        Command::Begin | Command::Commit | Command::Abort => {
            header(("transaction", transaction.unwrap_or(TRANSACTIONS[0])));
        }
        Command::Connect => {
            header(("accept-version", ["1.2", "1.1", "1.0", "1.0,1.1,1.2"][choice]));
            header(("login", "guest"));
            header(("passcode", "guest"));
            header(("heart-beat", ["0,0", "10000,10000", "0,10000", "60000,0"][more % 4]));
        }
        _ => {}
    }
    frame
}
