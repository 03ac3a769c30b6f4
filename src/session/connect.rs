//! CONNECT and STOMP: negotiation, and who it is (1.2, "Connecting").

use std::time::{Duration, Instant};

use crate::auth::{AuthError, Principal};
use crate::stomp::heartbeat::HeartBeat;
use crate::stomp::{Command, Frame, Headers, Version, left_trimmed};

use super::action::Action;
use super::error::{Violation, code};
use super::machine::{Phase, Session};

/// What this server offers: a beat every 10 s, each way.
const OFFER: HeartBeat =
    HeartBeat { sends: Duration::from_secs(10), wants: Duration::from_secs(10) };

/// What CONNECT asked for, while it is decided who sent it.
#[derive(Debug)]
pub(super) struct Connect {
    version: Version,
    heart_beat: HeartBeat,
}

impl Session {
    pub(super) fn connect(&mut self, headers: Headers, now: Instant, out: &mut Vec<Action>) {
        let receipt = headers.get("receipt").map(str::to_owned);
        let version = Version::negotiate(headers.get("accept-version"), self.subprotocol);
        let Some(version) = version else {
            let body = format!("Supported versions are {}\n", Version::SUPPORTED);
            let violation = Violation::new("Version mismatch", body);
            return self.fail(Violation { receipt, ..violation }, out);
        };
        let Ok(heart_beat) = HeartBeat::parse(headers.get("heart-beat")) else {
            let body = "'heart-beat' must be two numbers of milliseconds: heart-beat:10000,10000\n";
            return self.fail(Violation::new("Processing error", body), out);
        };
        // In 1.0 what follows the colon may begin with spaces; until now the version was unknown.
        let headers = if version == Version::V10 { left_trimmed(&headers) } else { headers };
        let connect = Connect { version, heart_beat };
        // Who was decided at the upgrade stays: countless pages send guest/guest here.
        match self.principal.clone() {
            Some(principal) => self.welcome(&connect, principal, now, out),
            None => {
                self.phase = Phase::Authenticating(connect);
                out.push(Action::Authenticate(headers));
            }
        }
    }

    /// The answer to [`Action::Authenticate`]; `expires` is when the login ends.
    pub fn authenticated(
        &mut self,
        result: Result<Principal, AuthError>,
        expires: Option<Instant>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        let Phase::Authenticating(_) = self.phase else { return };
        let Phase::Authenticating(connect) = std::mem::replace(&mut self.phase, Phase::Start)
        else {
            return;
        };
        match result {
            Ok(principal) => {
                self.expires = expires;
                self.welcome(&connect, principal, now, out);
            }
            Err(error) => {
                let (message, body) = error.stomp_text();
                let code = match error {
                    AuthError::Unavailable => code::TRY_LATER,
                    _ => code::POLICY,
                };
                self.fail(Violation { code, ..Violation::new(message, body) }, out);
            }
        }
    }

    fn welcome(
        &mut self,
        connect: &Connect,
        principal: Principal,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        self.version = connect.version;
        self.live.agree(OFFER.negotiate(connect.heart_beat));
        self.live.heard(now);
        self.live.said(now);
        let frame = Frame::new(Command::Connected)
            .with("version", self.version.name())
            .with("heart-beat", &OFFER.value())
            .with("server", concat!("stomp-relay/", env!("CARGO_PKG_VERSION")))
            .with("session", &self.name)
            .with("user-name", &principal.name)
            .with("x-receipt-level", self.settings.level.name());
        self.principal = Some(principal);
        self.phase = Phase::Connected;
        out.push(Action::Connected);
        out.push(Action::Send(frame));
    }
}
