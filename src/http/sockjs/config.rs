//! What an endpoint's SockJS is configured with.

use std::time::Duration;

use crate::transport::sockjs::registry::Kind;

/// A transport as the config names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SockJsTransport {
    WebSocket,
    Xhr,
    XhrStreaming,
    EventSource,
    HtmlFile,
    Jsonp,
    /// The page that the `iframe-...` transports of the client load.
    Iframe,
}

impl SockJsTransport {
    pub const ALL: [Self; 7] = [
        Self::WebSocket,
        Self::Xhr,
        Self::XhrStreaming,
        Self::EventSource,
        Self::HtmlFile,
        Self::Jsonp,
        Self::Iframe,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Xhr => "xhr",
            Self::XhrStreaming => "xhr_streaming",
            Self::EventSource => "eventsource",
            Self::HtmlFile => "htmlfile",
            Self::Jsonp => "jsonp",
            Self::Iframe => "iframe",
        }
    }

    /// As `/info` and clients name it.
    #[must_use]
    pub const fn public_name(self) -> &'static str {
        match self {
            Self::Xhr => "xhr-polling",
            Self::XhrStreaming => "xhr-streaming",
            Self::Jsonp => "jsonp-polling",
            Self::WebSocket | Self::EventSource | Self::HtmlFile | Self::Iframe => self.name(),
        }
    }

    /// Whether it is a script or a page to the browser, which says no Origin.
    #[must_use]
    pub const fn is_script(self) -> bool {
        matches!(self, Self::HtmlFile | Self::Jsonp)
    }

    pub(super) const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Xhr => Self::Xhr,
            Kind::XhrStreaming => Self::XhrStreaming,
            Kind::EventSource => Self::EventSource,
            Kind::HtmlFile => Self::HtmlFile,
            Kind::Jsonp => Self::Jsonp,
        }
    }
}

/// An endpoint's options; names and defaults are Spring's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SockJsConfig {
    pub transports: Vec<SockJsTransport>,
    /// What `/info` tells clients to use for everything else.
    pub base_url: Option<String>,
    /// The sockjs-client that the iframe loads. It must be of the same version as the page's.
    pub client_library_url: String,
    /// A streaming response ends after so many bytes.
    pub stream_bytes_limit: usize,
    /// Whether answers set a cookie, for balancers that go by it.
    pub session_cookie_needed: bool,
    /// Whether a client's own cookie is sent back to it, as the protocol's tests want it. Next to
    /// an application with a cookie of that name this would take `SameSite` and the like from it.
    pub session_cookie_repeated: bool,
    /// Silence after which a client is sent `h`.
    pub heartbeat_time: Duration,
    /// How long a session lives between two requests.
    pub disconnect_delay: Duration,
    /// Messages kept ready for a client that is between two requests; the mailbox holds more.
    pub http_message_cache_size: usize,
    /// Leaves CORS headers to somebody else.
    pub suppress_cors: bool,
}

impl SockJsConfig {
    #[must_use]
    pub fn has(&self, transport: SockJsTransport) -> bool {
        self.transports.contains(&transport)
    }
}
