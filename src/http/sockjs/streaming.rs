//! The responses that receive: how each transport wraps a SockJS frame, and the body that streams
//! them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::Sleep;

use crate::transport::sockjs::escape;
use crate::transport::sockjs::pipe::Outbound;
use crate::transport::sockjs::registry::{Attached, Kind};

/// What htmlfile begins with; more than 1,024 bytes, below which old browsers show nothing.
const HTML_BYTES: usize = 1024;
/// The same for xhr_streaming.
const PRELUDE_BYTES: usize = 2048;

/// How a receiver's response is written.
#[derive(Clone, Debug)]
pub(super) struct Wrapping {
    kind: Kind,
    /// The function that a script calls. Checked: nothing in it needs an escape.
    callback: String,
}

impl Wrapping {
    pub(super) fn new(kind: Kind, callback: String) -> Self {
        Self { kind, callback }
    }

    pub(super) fn content_type(&self) -> &'static str {
        match self.kind {
            Kind::Xhr | Kind::XhrStreaming | Kind::Jsonp => "application/javascript; charset=UTF-8",
            Kind::EventSource => "text/event-stream",
            Kind::HtmlFile => "text/html; charset=UTF-8",
        }
    }

    /// What comes before the first frame and counts towards no limit.
    pub(super) fn prelude(&self) -> Option<Bytes> {
        match self.kind {
            Kind::Xhr | Kind::Jsonp => None,
            Kind::XhrStreaming => {
                const PRELUDE: [u8; PRELUDE_BYTES + 1] = {
                    let mut bytes = [b'h'; PRELUDE_BYTES + 1];
                    bytes[PRELUDE_BYTES] = b'\n';
                    bytes
                };
                Some(Bytes::from_static(&PRELUDE))
            }
            Kind::EventSource => Some(Bytes::from_static(b"\r\n")),
            Kind::HtmlFile => Some(Bytes::from(html(&self.callback))),
        }
    }

    /// A SockJS frame as this transport has it.
    pub(super) fn wrap(&self, frame: &[u8]) -> Vec<u8> {
        let callback = self.callback.as_bytes();
        match self.kind {
            Kind::Xhr | Kind::XhrStreaming => [frame, b"\n"].concat(),
            Kind::EventSource => {
                [b"data: ", escape::for_event(frame).as_slice(), b"\r\n\r\n"].concat()
            }
            Kind::HtmlFile => {
                [b"<script>\np(", escape::for_script(frame).as_slice(), b");\n</script>\r\n"]
                    .concat()
            }
            // The comment keeps the answer from being taken for something else than a script.
            Kind::Jsonp => {
                [b"/**/", callback, b"(", escape::for_script(frame).as_slice(), b");\r\n"].concat()
            }
        }
    }
}

/// The page of htmlfile (0.3.3, "HtmlFile").
fn html(callback: &str) -> Vec<u8> {
    let mut page = format!(
        "<!doctype html>\n<html><head>\n  \
         <meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\" />\n  \
         <meta http-equiv=\"Content-Type\" content=\"text/html; charset=UTF-8\" />\n\
         </head><body><h2>Don't panic!</h2>\n  <script>\n    \
         document.domain = document.domain;\n    var c = parent.{callback};\n    \
         c.start();\n    function p(d) {{c.message(d);}};\n    \
         window.onload = function() {{c.stop();}};\n  </script>"
    )
    .into_bytes();
    if page.len() < HTML_BYTES {
        page.resize(HTML_BYTES, b' ');
    }
    page.extend_from_slice(b"\r\n\r\n");
    page
}

/// The frame that `outbound` is, and whether it is the last one.
pub(super) fn frame(outbound: Outbound) -> (Vec<u8>, bool) {
    match outbound {
        Outbound::Open => (b"o".to_vec(), false),
        Outbound::Messages(frame) => (frame, false),
        Outbound::Close(frame) => (frame, true),
    }
}

/// A response that goes on: one chunk per frame, until its limit.
pub(super) struct Streaming {
    attached: Attached,
    wrapping: Wrapping,
    prelude: Option<Bytes>,
    /// Bytes of frames that may still come.
    left: usize,
    heartbeat: Duration,
    said: Instant,
    /// Asked for only where nothing was said for so long, and moved on where something was.
    beat: Pin<Box<Sleep>>,
    is_over: bool,
}

impl Streaming {
    pub(super) fn new(
        attached: Attached,
        wrapping: Wrapping,
        limit: usize,
        heartbeat: Duration,
    ) -> Self {
        Self {
            attached,
            prelude: wrapping.prelude(),
            wrapping,
            left: limit,
            heartbeat,
            said: Instant::now(),
            beat: Box::pin(tokio::time::sleep(heartbeat)),
            is_over: false,
        }
    }

    fn poll_beat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.beat.as_mut().poll(cx).is_ready() {
            let due = self.said + self.heartbeat;
            let is_due = due <= Instant::now();
            let next = if is_due { Instant::now() + self.heartbeat } else { due };
            self.beat.as_mut().reset(next.into());
            if is_due {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    fn chunk(&mut self, frame: &[u8], is_last: bool) -> Bytes {
        let chunk = self.wrapping.wrap(frame);
        self.said = Instant::now();
        self.left = self.left.saturating_sub(chunk.len());
        if is_last || self.left == 0 {
            self.is_over = true;
            // Before the chunk is on its way: the client may ask again as soon as it has it.
            self.attached.finish();
        }
        Bytes::from(chunk)
    }
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(prelude) = this.prelude.take() {
            return Poll::Ready(Some(Ok(Frame::data(prelude))));
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        let number = this.attached.number();
        let chunk = match this.attached.pipe().poll_outbound(number, cx) {
            Poll::Ready(outbound) => {
                let (frame, is_last) = frame(outbound);
                this.chunk(&frame, is_last)
            }
            Poll::Pending => {
                std::task::ready!(this.poll_beat(cx));
                this.chunk(b"h", false)
            }
        };
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }
}
