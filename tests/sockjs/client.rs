//! A SockJS client over each transport, which shows what came.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http::{Answer, Http, Request, get, post, request};
use crate::relay::Relay;
use crate::ws::{Ws, WsSaid};

/// How a session receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    WebSocket,
    Xhr,
    XhrStreaming,
    EventSource,
    HtmlFile,
    Jsonp,
}

/// A SockJS frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Open,
    Heartbeat,
    Messages(Vec<String>),
    Close(u16, String),
}

impl Via {
    pub(crate) const ALL: [Self; 6] = [
        Self::WebSocket,
        Self::Xhr,
        Self::XhrStreaming,
        Self::EventSource,
        Self::HtmlFile,
        Self::Jsonp,
    ];
    /// Those that are many requests.
    pub(crate) const HTTP: [Self; 5] =
        [Self::Xhr, Self::XhrStreaming, Self::EventSource, Self::HtmlFile, Self::Jsonp];

    pub(crate) fn is_polling(self) -> bool {
        matches!(self, Self::Xhr | Self::Jsonp)
    }

    /// The request that receives.
    pub(crate) fn request(self, session: &str) -> Request {
        match self {
            Self::WebSocket => get(&format!("{session}/websocket")).upgrade(),
            Self::Xhr => request("POST", &format!("{session}/xhr")),
            Self::XhrStreaming => request("POST", &format!("{session}/xhr_streaming")),
            Self::EventSource => get(&format!("{session}/eventsource")),
            Self::HtmlFile => get(&format!("{session}/htmlfile?c=cb")),
            Self::Jsonp => get(&format!("{session}/jsonp?c=cb")),
        }
    }

    /// The SockJS frame in a piece of an answer.
    pub(crate) fn unwrap(self, piece: &[u8]) -> String {
        let text = std::str::from_utf8(piece).unwrap();
        let inner = |before: &str, after: &str| {
            let inner = text.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            inner.unwrap_or_else(|| panic!("{self:?}: {text:?}")).to_owned()
        };
        match self {
            Self::WebSocket => text.to_owned(),
            Self::Xhr | Self::XhrStreaming => inner("", "\n"),
            // As clients read it: with `decodeURI`.
            Self::EventSource => percent_decoded(&inner("data: ", "\r\n\r\n")),
            Self::HtmlFile => {
                let script = inner("<script>\np(", ");\n</script>\r\n");
                serde_json::from_str(&script).unwrap()
            }
            Self::Jsonp => serde_json::from_str(&inner("/**/cb(", ");\r\n")).unwrap(),
        }
    }

    /// The only SockJS frame in a whole answer.
    pub(crate) fn unwrap_last(self, body: &[u8]) -> String {
        let at = match self {
            Self::WebSocket | Self::Xhr | Self::Jsonp => 0,
            Self::XhrStreaming => 2049,
            Self::EventSource => 2,
            Self::HtmlFile => {
                let at = body.windows(4).position(|window| window == b"\r\n\r\n");
                at.unwrap() + 4
            }
        };
        let (prelude, frame) = body.split_at(at);
        assert!(self.is_prelude(prelude));
        self.unwrap(frame)
    }

    /// What an answer begins with.
    pub(crate) fn is_prelude(self, piece: &[u8]) -> bool {
        match self {
            Self::WebSocket | Self::Xhr | Self::Jsonp => piece.is_empty(),
            Self::XhrStreaming => {
                piece.strip_suffix(b"\n").is_some_and(|h| h == [b'h'; 2048].as_slice())
            }
            Self::EventSource => piece == b"\r\n",
            Self::HtmlFile => piece.len() > 1024 && piece.starts_with(b"<!doctype html>\n"),
        }
    }
}

impl Said {
    pub(crate) fn read(frame: &str) -> Self {
        let (kind, rest) = frame.split_at(1);
        match kind {
            "o" if rest.is_empty() => Self::Open,
            "h" if rest.is_empty() => Self::Heartbeat,
            "a" => Self::Messages(serde_json::from_str(rest).unwrap()),
            "c" => {
                let (code, reason) = serde_json::from_str(rest).unwrap();
                Self::Close(code, reason)
            }
            _ => panic!("no SockJS frame: {frame:?}"),
        }
    }
}

/// A name that no other session has.
pub(crate) fn fresh(path: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{path}/000/s{:07}", NEXT.fetch_add(1, Ordering::SeqCst))
}

/// `Authorization` of a `--dev` account.
pub(crate) fn login(user: &str) -> (String, String) {
    let account = STANDARD.encode(format!("{user}:{user}"));
    ("Authorization".into(), format!("Basic {account}"))
}

/// One session.
pub(crate) struct Client {
    address: SocketAddr,
    pub(crate) via: Via,
    /// `/ws/000/NAME`.
    pub(crate) session: String,
    headers: Vec<(String, String)>,
    receiver: Option<Http>,
    /// A poll is under way.
    is_asked: bool,
    sender: Option<Http>,
    ws: Option<Ws>,
    /// STOMP that came and was not read.
    heard: VecDeque<String>,
}

impl Client {
    /// A session of nobody.
    pub(crate) fn open(relay: &Relay, path: &str, via: Via) -> Self {
        Self::with(relay, path, via, Vec::new())
    }

    /// A session with headers of its own.
    pub(crate) fn with(
        relay: &Relay,
        path: &str,
        via: Via,
        headers: Vec<(String, String)>,
    ) -> Self {
        Self::at(relay.http, path, via, headers)
    }

    /// A session of a server elsewhere.
    pub(crate) fn at(
        address: SocketAddr,
        path: &str,
        via: Via,
        headers: Vec<(String, String)>,
    ) -> Self {
        let mut client = Self {
            address,
            via,
            session: fresh(path),
            headers,
            receiver: None,
            is_asked: false,
            sender: None,
            ws: None,
            heard: VecDeque::new(),
        };
        if via == Via::WebSocket {
            let handshake = via.request(&client.session).with_all(&client.headers);
            client.ws = Some(Ws::with(address, &handshake));
        }
        assert_eq!(client.next(), Said::Open);
        client
    }

    /// Asks for what comes next, where nobody has asked.
    pub(crate) fn ask(&mut self) {
        if self.via == Via::WebSocket || self.is_asked {
            return;
        }
        let mut http = match self.receiver.take() {
            Some(http) => http,
            None => Http::to(self.address),
        };
        http.ask(&self.via.request(&self.session).with_all(&self.headers));
        self.is_asked = true;
        if !self.via.is_polling() {
            let head = http.head();
            assert_eq!(head.status, 200, "{head:?}");
            let prelude = http.chunk().unwrap();
            assert!(self.via.is_prelude(&prelude));
        }
        self.receiver = Some(http);
    }

    /// Waits for what comes next with two receivers. The first one goes on; what the second one
    /// heard.
    pub(crate) fn ask_twice(&mut self) -> String {
        self.ask();
        let mut second = Http::to(self.address);
        second.ask(&self.via.request(&self.session).with_all(&self.headers));
        let first = self.receiver.as_mut().unwrap();
        if self.via.is_polling() {
            // Nobody knows which of two polls the server has seen first.
            while !second.speaks() {
                if first.speaks() {
                    std::mem::swap(first, &mut second);
                }
            }
        }
        let answer = second.whole(false);
        assert_eq!(answer.status(), 200, "{answer:?}");
        self.via.unwrap_last(&answer.body)
    }

    /// The next SockJS frame.
    pub(crate) fn next(&mut self) -> Said {
        if let Some(ws) = &mut self.ws {
            return match ws.next() {
                WsSaid::Text(frame) => Said::read(&frame),
                other => panic!("{other:?}"),
            };
        }
        loop {
            self.ask();
            let http = self.receiver.as_mut().unwrap();
            if self.via.is_polling() {
                let answer = http.whole(false);
                self.is_asked = false;
                assert_eq!(answer.status(), 200, "{answer:?}");
                return Said::read(&self.via.unwrap(&answer.body));
            }
            match http.chunk() {
                Some(chunk) => return Said::read(&self.via.unwrap(&chunk)),
                // Its limit: the next one goes on.
                None => self.is_asked = false,
            }
        }
    }

    /// The next piece of an answer as it came.
    pub(crate) fn piece(&mut self) -> String {
        self.ask();
        let http = self.receiver.as_mut().unwrap();
        let piece = if self.via.is_polling() {
            self.is_asked = false;
            http.whole(false).body
        } else {
            http.chunk().unwrap()
        };
        String::from_utf8(piece).unwrap()
    }

    /// Goes away without a word.
    pub(crate) fn abort(&mut self) {
        (self.receiver, self.is_asked, self.ws) = (None, false, None);
    }

    /// The messages of the next frame that has some.
    pub(crate) fn messages(&mut self) -> Vec<String> {
        loop {
            match self.next() {
                Said::Messages(messages) => return messages,
                Said::Heartbeat => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Code and reason of the end. What comes before it is lost.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        loop {
            if let Said::Close(code, reason) = self.next() {
                return (code, reason);
            }
        }
    }

    /// Sends a body as it is.
    pub(crate) fn post(&mut self, body: &str) -> Answer {
        if let Some(ws) = &mut self.ws {
            ws.text(body);
            return Answer::nothing();
        }
        let request = match self.via {
            Via::Jsonp => post(&format!("{}/jsonp_send", self.session), body)
                .with("Content-Type", "text/plain"),
            _ => post(&format!("{}/xhr_send", self.session), body),
        };
        let request = request.with_all(&self.headers);
        let sender = self.sender.get_or_insert_with(|| Http::to(self.address));
        let answer = sender.answer(&request);
        if answer.header("connection") == Some("close") {
            self.sender = None;
        }
        answer
    }

    /// Sends messages.
    pub(crate) fn send<S: AsRef<str>>(&mut self, messages: &[S]) {
        let messages: Vec<&str> = messages.iter().map(AsRef::as_ref).collect();
        let answer = self.post(&serde_json::to_string(&messages).unwrap());
        assert!(matches!(answer.status(), 200 | 204), "{answer:?}");
    }

    pub(crate) fn ws(&mut self) -> &mut Ws {
        self.ws.as_mut().unwrap()
    }

    /// The next STOMP frame without its NUL; heart-beats are passed over. The server writes
    /// whole frames, one a message.
    pub(crate) fn frame(&mut self) -> String {
        loop {
            match self.heard.pop_front() {
                Some(message) if message == "\n" => {}
                Some(message) => return message.strip_suffix('\0').unwrap().to_owned(),
                None => {
                    let messages = self.messages();
                    self.heard.extend(messages);
                }
            }
        }
    }

    /// SEND, and its RECEIPT, before which nothing else comes.
    pub(crate) fn publish(&mut self, destination: &str, body: &str) {
        let frame = format!("SEND\ndestination:{destination}\nreceipt:sent\n\n{body}\0");
        self.send(&[frame]);
        let receipt = self.frame();
        assert!(receipt.starts_with("RECEIPT\nreceipt-id:sent\n"), "{receipt}");
    }

    /// CONNECT as `guest`, or as who is logged in already.
    pub(crate) fn connect(&mut self) {
        self.send(&["CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\n\n\0"]);
        let frame = self.frame();
        assert!(frame.starts_with("CONNECTED\n"), "{frame}");
    }

    /// DISCONNECT, and the end.
    pub(crate) fn bye(&mut self) {
        self.send(&["DISCONNECT\n\n\0"]);
        assert_eq!(self.closed(), (1000, "DISCONNECT".into()), "{:?}", self.via);
    }

    /// SUBSCRIBE, and its RECEIPT.
    pub(crate) fn subscribe(&mut self, id: &str, destination: &str) {
        let frame =
            format!("SUBSCRIBE\nid:{id}\ndestination:{destination}\nreceipt:sub-{id}\n\n\0");
        self.send(&[frame]);
        let receipt = self.frame();
        assert!(receipt.starts_with(&format!("RECEIPT\nreceipt-id:sub-{id}\n")), "{receipt}");
    }
}

/// The value of a STOMP header.
pub(crate) fn header<'a>(frame: &'a str, name: &str) -> Option<&'a str> {
    let (head, _) = frame.split_once("\n\n").unwrap();
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// The body of a STOMP frame.
pub(crate) fn body(frame: &str) -> &str {
    frame.split_once("\n\n").unwrap().1
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).unwrap()
}
