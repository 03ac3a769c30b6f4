//! WebSocket by hand, rules kept or broken.

use std::net::SocketAddr;

use crate::http::{Http, Request, get};

/// WebSocket's opcodes (RFC 6455, 5.2), the last frame of a message.
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;

const MASK: [u8; 4] = [7, 99, 3, 250];

/// A connection after its handshake.
pub(crate) struct Ws {
    http: Http,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WsSaid {
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    /// 1005: without a code.
    Close(u16, String),
    /// The connection ended without a Close.
    End,
}

impl Ws {
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        Self::with(address, &get(path).upgrade())
    }

    pub(crate) fn with(address: SocketAddr, handshake: &Request) -> Self {
        let mut http = Http::to(address);
        http.ask(handshake);
        let head = http.head();
        assert_eq!(head.status, 101, "{head:?}");
        assert_eq!(head.header("sec-websocket-accept"), Some("HSmrc0sMlYUkAGmm5OPpG2HaGWk="));
        assert!(!head.has("content-length"));
        Self { http }
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.frame(TEXT, text.as_bytes());
    }

    /// A masked frame with that first byte.
    pub(crate) fn frame(&mut self, first: u8, payload: &[u8]) -> bool {
        self.http.bytes(&frame(first, payload))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.http.bytes(bytes)
    }

    /// What comes next. PINGs are answered.
    pub(crate) fn next(&mut self) -> WsSaid {
        loop {
            while self.http.peek().len() < 2 {
                if !self.http.fill() {
                    return WsSaid::End;
                }
            }
            let head = self.http.exactly(2);
            assert_eq!(head[1] & 0x80, 0, "a server must not mask");
            let length = match head[1] & 0x7f {
                126 => usize::from(u16::from_be_bytes(self.http.exactly(2).try_into().unwrap())),
                127 => {
                    let length = u64::from_be_bytes(self.http.exactly(8).try_into().unwrap());
                    usize::try_from(length).unwrap()
                }
                length => usize::from(length),
            };
            let payload = self.http.exactly(length);
            return match head[0] {
                TEXT => WsSaid::Text(String::from_utf8(payload).unwrap()),
                BINARY => WsSaid::Binary(payload),
                PING => {
                    self.frame(0x8A, &payload);
                    continue;
                }
                0x8A => WsSaid::Pong(payload),
                CLOSE => match payload.split_first_chunk() {
                    Some((code, reason)) => {
                        let reason = String::from_utf8(reason.to_vec()).unwrap();
                        WsSaid::Close(u16::from_be_bytes(*code), reason)
                    }
                    None => WsSaid::Close(1005, String::new()),
                },
                other => panic!("a frame that begins with {other:x}"),
            };
        }
    }
}

/// A frame of a client.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
