//! One case played to one server: its steps in order, until the first that goes wrong.

mod expect;
mod heart_beats;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::{Instant, timeout_at};

use crate::connection::{Connection, Event};
use crate::dial::Endpoint;
use crate::profile::{Profile, Sync};
use crate::report::Failure;
use crate::secrets::Secrets;
use crate::target::Account;
use crate::template::{Template, Values};
use crate::trace::Trace;
use crate::transcript::{Action, Cut, FramePattern, MessageKind, Step, Transport, Version};
use crate::wrong::Wrong;
use heart_beats::Agreed;

/// What a case is played with.
pub(crate) struct Setting<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) account: &'a Account,
    pub(crate) transport: Transport,
    pub(crate) version: Version,
    pub(crate) profile: &'a Profile,
    /// How long an answer may take.
    pub(crate) limit: Duration,
    pub(crate) values: Values,
}

struct Play<'a> {
    setting: Setting<'a>,
    trace: Trace,
    connections: BTreeMap<String, Peer>,
    barriers: u32,
}

struct Peer {
    connection: Connection,
    /// Whether CONNECTED came.
    connected: bool,
    last_kind: Option<MessageKind>,
    beats: Agreed,
}

/// Plays the steps, then asks every connection left open for a receipt: nothing else may come.
pub(crate) async fn play(setting: Setting<'_>, steps: &[Step]) -> Result<(), Failure> {
    let secrets = Secrets::new(setting.account);
    let unique = setting.values.get("unique").cloned().unwrap_or_default();
    let trace = Trace::new(&secrets);
    let mut play = Play { setting, trace, connections: BTreeMap::new(), barriers: 0 };
    let mut result = Ok(());
    let mut line = 0;
    for step in steps {
        line = step.line;
        result = play.step(step).await;
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = play.nothing_is_left().await;
    }
    for peer in play.connections.values_mut() {
        peer.connection.finish().await;
    }
    // Names are fresh in every run; what is said of them must not be.
    let unique = String::from_utf8_lossy(&unique).into_owned();
    let shown = |text: &str| secrets.hide(&text.replace(&unique, "${unique}"));
    result.map_err(|wrong| Failure {
        line,
        kind: shown(&wrong.what),
        text: shown(&wrong.to_string()),
        trace: play.trace.lines(&secrets),
    })
}

impl Play<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), Wrong> {
        let name = step.connection.as_str();
        match &step.action {
            Action::Open { offer, select } => self.open(name, offer, select.as_deref()).await,
            Action::Connect { headers } => self.connect(name, headers).await,
            Action::Drop => {
                self.peer(name)?.connection.drop_socket();
                Ok(())
            }
            Action::Subscribe { headers } => self.subscribe(name, headers).await,
            Action::Send { bytes, cut } => {
                let bytes = bytes.for_account(self.setting.account).fill(&self.setting.values);
                self.send(name, &bytes, *cut).await
            }
            Action::Socket { bytes } => {
                let (bytes, limit) = (bytes.fill(&self.setting.values), self.setting.limit);
                self.peer(name)?.connection.send_on_socket(&bytes, limit).await;
                Ok(())
            }
            Action::Pong { payload } => self.pong(name, payload).await,
            Action::Frames(patterns) => self.frames(name, patterns).await,
            Action::Error { codes, message } => {
                let silent = self.setting.profile.silent_close;
                self.error(name, codes, message.as_ref(), silent, Duration::ZERO).await
            }
            Action::Refused { codes } => self.error(name, codes, None, true, Duration::ZERO).await,
            Action::Ends { seconds, codes } => {
                let time = Duration::from_secs((*seconds).into());
                self.error(name, codes, None, true, time).await
            }
            Action::Close { codes } => self.close(name, codes).await,
            Action::Beat => self.any_beat(name).await,
            Action::Beats { intervals } => self.beats(name, *intervals).await,
            Action::NoBeat { seconds } => self.no_beat(name, *seconds).await,
            Action::Silence => self.silence(name).await,
            Action::KeepAlive { intervals } => self.keep_alive(name, *intervals).await,
            Action::Nothing => self.nothing(name).await,
            Action::Differ { texts } => self.differ(texts),
            Action::As(kind) => self.kind(name, *kind),
        }
    }

    async fn open(
        &mut self,
        name: &str,
        offer: &[String],
        want: Option<&str>,
    ) -> Result<(), Wrong> {
        let Setting { endpoint, transport, limit, .. } = self.setting;
        let trace = self.trace.clone();
        let opened = Connection::open(name, endpoint, transport, offer, limit, trace.clone()).await;
        let (connection, selected) = opened.map_err(|error| {
            trace.note(name, format!("! {error}"));
            Wrong::from(error.to_string())
        })?;
        let beats = Agreed::default();
        let peer = Peer { connection, connected: false, last_kind: None, beats };
        self.connections.insert(name.to_owned(), peer);
        let selected = selected.as_deref().unwrap_or("none");
        match want {
            Some(want)
                if matches!(transport, Transport::WsText | Transport::WsBinary)
                    && selected != want =>
            {
                let came = format!(", got {selected}");
                Err(Wrong::new(format!("expected subprotocol {want}"), came))
            }
            _ => Ok(()),
        }
    }

    async fn connect(&mut self, name: &str, more: &[(String, Template)]) -> Result<(), Wrong> {
        let Setting { account, version, values, .. } = &self.setting;
        let mut bytes = b"CONNECT\n".to_vec();
        // A 1.0 client knows neither header.
        if *version > Version::V10 {
            let host = values.get("host").map_or(&[][..], Vec::as_slice);
            put_header(&mut bytes, "accept-version", version.name().as_bytes());
            put_header(&mut bytes, "host", host);
        }
        account.put(&mut bytes);
        for (key, value) in more {
            put_header(&mut bytes, key, &value.fill(values));
        }
        bytes.extend_from_slice(b"\n\0");
        let wish = more.iter().find(|(key, _)| key == "heart-beat");
        let wish = wish.map(|(_, value)| value.fill(values)).unwrap_or_default();
        let mut pattern = FramePattern::of("CONNECTED");
        if *version > Version::V10 {
            pattern.headers.push(("version".into(), Template::bytes(version.name().as_bytes())));
        }
        self.send(name, &bytes, Cut::Whole).await?;
        let frame = self.frame(name, &pattern).await?;
        let offer = frame.header(b"heart-beat").unwrap_or_default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.peer(name)?.beats = Agreed::new(&text(&wish), &text(offer));
        Ok(())
    }

    async fn subscribe(&mut self, name: &str, headers: &[(String, Template)]) -> Result<(), Wrong> {
        let mut bytes = b"SUBSCRIBE\n".to_vec();
        for (key, value) in headers {
            put_header(&mut bytes, key, &value.fill(&self.setting.values));
        }
        match self.setting.profile.sync {
            Sync::Receipt => {
                self.barriers += 1;
                let receipt = format!("subscribed-{}", self.barriers);
                bytes.extend_from_slice(format!("receipt:{receipt}\n\n\0").as_bytes());
                self.send(name, &bytes, Cut::Whole).await?;
                let mut pattern = FramePattern::of("RECEIPT");
                pattern.headers.push(("receipt-id".into(), Template::bytes(receipt.as_bytes())));
                self.frame(name, &pattern).await?;
                Ok(())
            }
            // What comes meanwhile is for the steps that follow.
            Sync::Quiet(time) => {
                bytes.extend_from_slice(b"\n\0");
                self.send(name, &bytes, Cut::Whole).await?;
                self.let_pass(Instant::now() + time).await;
                Ok(())
            }
        }
    }

    async fn send(&mut self, name: &str, bytes: &[u8], cut: Cut) -> Result<(), Wrong> {
        if !self.connections.contains_key(name) {
            self.open(name, &[], None).await?;
        }
        // What has come already came before this.
        for peer in self.connections.values_mut() {
            peer.connection.read_ready();
        }
        let limit = self.setting.limit;
        self.peer(name)?.connection.send(bytes, cut, limit).await;
        Ok(())
    }

    fn peer(&mut self, name: &str) -> Result<&mut Peer, Wrong> {
        self.connections
            .get_mut(name)
            .ok_or_else(|| Wrong::from(format!("connection `{name}` is not open")))
    }

    /// The next event of one connection. All are read meanwhile, so that the trace tells in which
    /// order things came.
    async fn next(&mut self, name: &str, deadline: Instant) -> Result<Event, Wrong> {
        loop {
            if let Some(event) = self.peer(name)?.connection.take() {
                return Ok(event);
            }
            if !self.read_any(deadline).await {
                return Ok(Event::Silence);
            }
        }
    }

    /// Reads whatever comes until the deadline.
    async fn let_pass(&mut self, deadline: Instant) {
        while self.read_any(deadline).await {}
    }

    /// Whether something came before the deadline.
    async fn read_any(&mut self, deadline: Instant) -> bool {
        let open = self.connections.values_mut().filter(|peer| peer.connection.is_open());
        let reads: Vec<_> = open.map(|peer| Box::pin(peer.connection.read())).collect();
        if reads.is_empty() {
            tokio::time::sleep_until(deadline).await;
            return false;
        }
        timeout_at(deadline, select_all(reads)).await.is_ok()
    }
}

fn put_header(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b':');
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}
