//! HTTP by hand: requests as they are written, answers chunk by chunk.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::PATIENCE;

const MOMENT: Duration = Duration::from_millis(5);

/// One connection.
pub(crate) struct Http {
    stream: TcpStream,
    read: Vec<u8>,
    host: String,
}

/// What is asked.
#[derive(Clone)]
pub(crate) struct Request {
    method: String,
    path: String,
    version: &'static str,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

/// Status and headers of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn request(method: &str, path: &str) -> Request {
    Request {
        method: method.into(),
        path: path.into(),
        version: "1.1",
        headers: Vec::new(),
        body: None,
    }
}

pub(crate) fn get(path: &str) -> Request {
    request("GET", path)
}

pub(crate) fn options(path: &str) -> Request {
    request("OPTIONS", path)
}

pub(crate) fn post(path: &str, body: impl AsRef<[u8]>) -> Request {
    Request { body: Some(body.as_ref().to_vec()), ..request("POST", path) }
}

impl Request {
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn with_all(mut self, headers: &[(String, String)]) -> Self {
        self.headers.extend_from_slice(headers);
        self
    }

    pub(crate) fn http_1_0(mut self) -> Self {
        self.version = "1.0";
        self
    }

    /// The headers of a WebSocket's handshake.
    pub(crate) fn upgrade(self) -> Self {
        self.with("Upgrade", "websocket")
            .with("Connection", "Upgrade")
            .with("Sec-WebSocket-Version", "13")
            .with("Sec-WebSocket-Key", "x3JJHMbDL1EzLkh9GBhXDw==")
    }

    /// Another value of a header, or none.
    pub(crate) fn changed(mut self, name: &str, value: Option<&str>) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    fn bytes(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/{}\r\n", self.method, self.path, self.version);
        head += &format!("Host: {host}\r\n");
        let mut has_length = false;
        for (name, value) in &self.headers {
            has_length |= name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding");
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &self.body
            && !has_length
        {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        let body = self.body.as_deref().unwrap_or_default();
        [head.as_bytes(), b"\r\n", body].concat()
    }
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|coding| coding == "chunked")
    }
}

impl Answer {
    /// As one that has nothing in it.
    pub(crate) fn nothing() -> Self {
        Self { head: Head { status: 204, headers: Vec::new() }, body: Vec::new() }
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Http {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// A connection for which little is on its way at a time.
    pub(crate) fn narrow(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::over(socket.into())
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let host = stream.peer_addr().unwrap().to_string();
        Self { stream, read: Vec::new(), host }
    }

    /// Bytes as they are. A server that has closed takes them without complaint.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(crate) fn ask(&mut self, request: &Request) {
        let bytes = request.bytes(&self.host);
        self.bytes(&bytes);
    }

    /// A request and its whole answer.
    pub(crate) fn answer(&mut self, request: &Request) -> Answer {
        self.ask(request);
        self.whole(request.method == "HEAD")
    }

    /// The whole answer to what was asked before.
    pub(crate) fn whole(&mut self, is_head: bool) -> Answer {
        let head = self.head();
        let has_none = is_head || matches!(head.status, 100..200 | 204 | 304);
        let body = if has_none {
            Vec::new()
        } else if head.is_chunked() {
            let mut body = Vec::new();
            while let Some(chunk) = self.chunk() {
                body.extend(chunk);
            }
            body
        } else if let Some(length) = head.header("content-length") {
            self.exactly(length.parse().unwrap())
        } else {
            self.rest()
        };
        Answer { head, body }
    }

    pub(crate) fn head(&mut self) -> Head {
        let head = self.until(b"\r\n\r\n");
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(':').unwrap());
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        Head { status, headers: headers.collect() }
    }

    /// The next chunk of a body; none at its end.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = String::from_utf8(self.until(b"\r\n")).unwrap();
        let length = usize::from_str_radix(line.trim(), 16).unwrap();
        let chunk = self.exactly(length);
        assert_eq!(self.exactly(2), b"\r\n");
        (length > 0).then_some(chunk)
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.read)
    }

    /// Everything up to `end`, which is in it.
    pub(crate) fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return self.read.drain(..at + end.len()).collect();
            }
            assert!(self.fill(), "the end came after {:?}", String::from_utf8_lossy(&self.read));
        }
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            assert!(self.fill(), "the end came after {:?}", String::from_utf8_lossy(&self.read));
        }
        self.read.drain(..length).collect()
    }

    /// Ends the connection as a crash does: by a reset.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Whether something has come, after a moment at most.
    pub(crate) fn speaks(&mut self) -> bool {
        self.stream.set_read_timeout(Some(MOMENT)).unwrap();
        let mut buffer = [0];
        let is_there = !self.read.is_empty() || self.stream.peek(&mut buffer).is_ok();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        is_there
    }

    /// What was read and not taken.
    pub(crate) fn peek(&self) -> &[u8] {
        &self.read
    }

    /// Reads more; `false` at the end.
    pub(crate) fn fill(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) =>
            {
                false
            }
            Err(error) => panic!("neither bytes nor the end: {error}"),
        }
    }
}
