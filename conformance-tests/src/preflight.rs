//! One connection before the suite: whether a STOMP server is there and lets the account in. What
//! is in the way is said in one line, with what to do about it.

mod advice;

use std::fmt;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use crate::dial::{DialError, Endpoint, Place, Wire, dial};
use crate::reader::{ServerFrame, first_frame};
use crate::secrets::Secrets;
use crate::sockjs::{self, SockJsFrame};
use crate::target::Target;
use crate::tls::Tls;
use crate::transcript::Transport;
use advice::{Advice, Answer};

/// What a server said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The STOMP version it chose; 1.0 where it named none.
    pub version: String,
    /// CONNECTED's `server`.
    pub server: Option<String>,
}

/// Why no case can be played, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightError(String);

impl fmt::Display for PreflightError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PreflightError {}

/// Connects and logs in once, within `limit` altogether.
///
/// # Errors
/// Where no STOMP server answers, or it refuses the account.
pub async fn preflight(target: &Target, limit: Duration) -> Result<Greeting, PreflightError> {
    let deadline = Instant::now() + limit;
    let secrets = Secrets::new(&target.account);
    let advice = Advice { target, limit };
    let greeting = match log_in(target, deadline, limit).await {
        Answer::Frame(frame) if frame.command == b"CONNECTED" => Ok(greeting(&frame)),
        answer => {
            let plain = target.endpoint.tls.is_none() && answer.may_be_tls();
            let tls = plain && speaks_tls(&target.endpoint, deadline).await;
            Err(if tls { advice.tls_port() } else { advice.of(&answer) })
        }
    };
    greeting
        .map_err(|text| PreflightError(format!("{}: {}", target.shown_url(), secrets.hide(&text))))
}

async fn log_in(target: &Target, deadline: Instant, limit: Duration) -> Answer {
    let transport = target.dialled();
    let mut wire = match dial(&target.endpoint, transport, &[], limit).await {
        Ok((wire, _)) => wire,
        Err(error) => return Answer::NoConnection(error),
    };
    let mut came = Vec::new();
    let answered = timeout_at(deadline, async {
        // Where the server closes instead of reading, what it says counts more.
        write(&mut wire, transport, connect_frame(target)).await.unwrap_or_default();
        loop {
            match read(&mut wire, transport, &mut came).await {
                Ok(()) => {}
                Err(Ended { error: Some(error), .. }) if error.get_ref().is_some() => {
                    // TLS 1.3 says only now what it has against the client.
                    return Answer::NoConnection(DialError::Tls(error));
                }
                Err(Ended { code, reason, .. }) => {
                    return Answer::Closed { code, reason, came: Vec::new() };
                }
            }
            if let Some(answer) = recognize(&came) {
                return answer;
            }
        }
    });
    let answer = answered.await.unwrap_or(Answer::Silence { came: Vec::new() });
    match answer {
        Answer::Closed { code, reason, .. } => Answer::Closed { code, reason, came },
        Answer::Silence { .. } => Answer::Silence { came },
        answer => answer,
    }
}

fn connect_frame(target: &Target) -> Vec<u8> {
    let head = format!("CONNECT\naccept-version:1.0,1.1,1.2\nhost:{}\n", target.host());
    let mut bytes = head.into_bytes();
    target.account.put(&mut bytes);
    bytes.extend_from_slice(b"\n\0");
    bytes
}

/// The first frame, or that there will be none.
fn recognize(came: &[u8]) -> Option<Answer> {
    let text = came.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let text = came.get(text?..).unwrap_or_default();
    let may_become = |command: &[u8]| {
        let length = text.len().min(command.len());
        text.get(..length) == command.get(..length)
    };
    let stomp = [&b"CONNECTED\n"[..], b"CONNECTED\r\n", b"ERROR\n", b"ERROR\r\n"];
    let others = [&b"MESSAGE\n"[..], b"RECEIPT\n", b"CONNECT\n"];
    if !stomp.iter().chain(&others).any(|command| may_become(command)) {
        return Some(Answer::NoStomp(text.to_vec()));
    }
    match first_frame(text) {
        Ok(frame) => frame.map(Answer::Frame),
        Err(text) => Some(Answer::Malformed(text)),
    }
}

fn greeting(frame: &ServerFrame) -> Greeting {
    let header = |name: &[u8]| {
        let value = frame.header(name)?;
        Some(crate::reader::show_bare(value))
    };
    Greeting {
        version: header(b"version").unwrap_or_else(|| "1.0".into()),
        server: header(b"server"),
    }
}

/// The server ended the connection.
struct Ended {
    code: Option<u16>,
    reason: String,
    error: Option<std::io::Error>,
}

impl Ended {
    fn by(error: Option<std::io::Error>) -> Self {
        Self { code: None, reason: String::new(), error }
    }
}

async fn write(wire: &mut Wire, transport: Transport, bytes: Vec<u8>) -> std::io::Result<()> {
    match wire {
        Wire::Plain(stream) => {
            stream.write_all(&bytes).await?;
            stream.flush().await
        }
        Wire::WebSocket(stream) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let is_sockjs = transport == Transport::SockJs;
            let text = if is_sockjs { sockjs::encode(&text) } else { text };
            stream.send(Message::text(text)).await.map_err(std::io::Error::other)
        }
        Wire::Gone => Ok(()),
    }
}

async fn read(wire: &mut Wire, transport: Transport, came: &mut Vec<u8>) -> Result<(), Ended> {
    match wire {
        Wire::Plain(stream) => match stream.read_buf(came).await {
            Ok(0) => Err(Ended::by(None)),
            Ok(_) => Ok(()),
            Err(error) => Err(Ended::by(Some(error))),
        },
        Wire::WebSocket(stream) => match stream.next().await {
            Some(Ok(Message::Text(text))) if transport == Transport::SockJs => {
                read_sockjs(&text, came)
            }
            Some(Ok(Message::Text(text))) => {
                came.extend_from_slice(text.as_bytes());
                Ok(())
            }
            Some(Ok(Message::Binary(bytes))) => {
                came.extend_from_slice(&bytes);
                Ok(())
            }
            Some(Ok(Message::Close(frame))) => {
                let code = frame.as_ref().map(|frame| u16::from(frame.code));
                let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                Err(Ended { code, reason, error: None })
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
            Some(Err(WsError::Io(error))) => Err(Ended::by(Some(error))),
            Some(Err(_)) | None => Err(Ended::by(None)),
        },
        Wire::Gone => Err(Ended::by(None)),
    }
}

/// What is no SockJS is kept as it is, to say what came.
fn read_sockjs(text: &str, came: &mut Vec<u8>) -> Result<(), Ended> {
    match sockjs::decode(text) {
        Ok(SockJsFrame::Open | SockJsFrame::Beat) => {}
        Ok(SockJsFrame::Messages(messages)) => {
            messages.iter().for_each(|message| came.extend_from_slice(message.as_bytes()));
        }
        Ok(SockJsFrame::Close(code, reason)) => {
            return Err(Ended { code: Some(code), reason, error: None });
        }
        Err(_) => came.extend_from_slice(text.as_bytes()),
    }
    Ok(())
}

/// Whether a server that does not take plain bytes takes TLS. Whose certificate it is is no
/// matter here: nothing is sent.
async fn speaks_tls(endpoint: &Endpoint, deadline: Instant) -> bool {
    let Place::Network(authority) = &endpoint.place else { return false };
    let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
    let Ok(name) = host.trim_matches(['[', ']']).to_owned().try_into() else { return false };
    let probe = Endpoint { tls: Some((Tls::unchecked(), name)), ..endpoint.clone() };
    let limit = deadline.saturating_duration_since(Instant::now());
    dial(&probe, Transport::Tcp, &[], limit).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        let cases: [(&[u8], &str); 15] = [
            (b"", "wait"),
            (b"\r\n", "wait"),
            (b"CONN", "wait"),
            (b"CONNECTED\nversion:1.2\n", "wait"),
            (b"ERROR\r\nmessage:x\r\n\r\n", "wait"),
            (b"\nCONNECTED\nversion:1.2\n\n\0", "CONNECTED"),
            (b"CONNECTED\r\nversion:1.1\r\n\r\n\0\r\n", "CONNECTED"),
            (b"ERROR\nmessage:x\n\n\0", "ERROR"),
            (b"CONNECT\naccept-version:1.2\n\n\0", "CONNECT"),
            (b"CONNECTED\nversion\n\n\0", "malformed"),
            (b"HTTP/1.1 400 Bad Request\r\n", "no stomp"),
            (b"SSH-2.0-x\r\n", "no stomp"),
            (b"\x15\x03\x03\0\x02", "no stomp"),
            (b"CONNECTION?", "no stomp"),
            (b"connected\n", "no stomp"),
        ];
        for (bytes, expected) in cases {
            let found = match recognize(bytes) {
                None => "wait".into(),
                Some(Answer::Frame(frame)) => String::from_utf8(frame.command).unwrap(),
                Some(Answer::Malformed(_)) => "malformed".into(),
                Some(Answer::NoStomp(_)) => "no stomp".into(),
                Some(_) => "another".to_owned(),
            };
            assert_eq!(found, expected, "{}", crate::reader::show(bytes));
        }
    }
}
