//! A STOMP server of few words: it lets in, answers DISCONNECT and receipts of transactions, and
//! ends every other conversation with ERROR.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Headers that a CONNECT must have. A value of none: it must not be there.
pub(crate) type Wanted = Arc<Vec<(&'static str, Option<&'static str>)>>;

pub(crate) async fn broker<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, wanted: Wanted) {
    let mut bytes = Vec::new();
    loop {
        let Some(end) = bytes.iter().position(|byte| *byte == 0) else {
            if !stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
                return;
            }
            continue;
        };
        let frame = String::from_utf8_lossy(&bytes[..end]).trim_start().replace('\r', "");
        bytes.drain(..=end);
        let (answer, ends) = answer(&frame, &wanted);
        stream.write_all(answer.as_bytes()).await.unwrap_or_default();
        stream.flush().await.unwrap_or_default();
        if ends {
            stream.shutdown().await.unwrap_or_default();
            return;
        }
    }
}

fn answer(frame: &str, wanted: &Wanted) -> (String, bool) {
    let mut lines = frame.lines();
    let command = lines.next().unwrap_or_default();
    let headers: HashMap<&str, &str> =
        lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':')).collect();
    let receipt = headers.get("receipt");
    let received = receipt.map(|id| format!("RECEIPT\nreceipt-id:{id}\n\n\0")).unwrap_or_default();
    match command {
        "CONNECT" | "STOMP" => {
            if let Some((name, _)) = wanted.iter().find(|(n, v)| headers.get(n).copied() != *v) {
                return (format!("ERROR\nmessage:Wrong {name}\n\n\0"), true);
            }
            let versions = headers.get("accept-version").copied().unwrap_or("1.0");
            let version = ["1.2", "1.1", "1.0"].into_iter().find(|v| versions.contains(v));
            match version {
                Some(version) => {
                    let head = format!("CONNECTED\nversion:{version}\nsession:1\nserver:few/1\n");
                    (head + "heart-beat:0,0\n\n\0", false)
                }
                None => ("ERROR\nmessage:No version\n\n\0".into(), true),
            }
        }
        "BEGIN" | "ABORT" => (received, false),
        "DISCONNECT" => (received, true),
        _ => ("ERROR\nmessage:Few words\n\n\0".into(), true),
    }
}
