//! CONNECT: who it is, in which version, and how often something is said (1.2, "Connecting",
//! "Protocol Negotiation", "Heart-beating").

use std::time::Duration;

use conformance_tests::Version;

use super::fault::Fault;
use super::frame::Frame;
use super::refusal::Refusal;
use super::session::{Beats, Phase, State};

impl State {
    pub(super) fn connect(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        let mut version = self.negotiate(frame)?;
        if let Some(of) = self.sessions[me].subprotocol
            && self.has(Fault::SubprotocolDecides)
        {
            version = of;
        }
        if frame.get("host").is_none() && version > Version::V10 && self.has(Fault::HostRequired) {
            return Err(Refusal::syntax("Missing header"));
        }
        let known = ["accept-version", "host", "login", "passcode", "heart-beat", "receipt"];
        let unknown = frame.headers.iter().any(|(name, _)| !known.contains(&name.as_str()));
        if unknown && self.has(Fault::UnknownConnectHeaderRefused) {
            return Err(Refusal::syntax("Invalid header"));
        }
        let is_account = frame.get("login") == Some(super::LOGIN)
            && frame.get("passcode") == Some(super::PASSCODE);
        if !is_account && !self.has(Fault::AnybodyConnects) {
            return Err(Refusal::limit("Bad CONNECT"));
        }
        let offer = "10000,10000";
        let beats =
            self.agree(frame.get("heart-beat").filter(|_| version > Version::V10), offer)?;
        let session = &mut self.sessions[me];
        session.version = version;
        session.phase = Phase::Connected;
        session.beats = beats;
        let mut answer = Frame::new("CONNECTED");
        answer = answer.with("version", version.name()).with("heart-beat", offer);
        answer = answer.with("server", "faulty/1.0").with("session", &session.name);
        if self.has(Fault::SessionsSame) {
            answer.set("session", "session-1");
        }
        for (fault, name) in [
            (Fault::ConnectedWithoutVersion, "version"),
            (Fault::ConnectedWithoutHeartBeat, "heart-beat"),
            (Fault::ConnectedWithoutServer, "server"),
            (Fault::ConnectedWithoutSession, "session"),
        ] {
            if self.has(fault) {
                answer.remove(name);
            }
        }
        if self.has(Fault::ConnectedWithBody) {
            answer.body = b"welcome".to_vec();
        }
        self.say(me, &answer);
        // 1.2, "Header receipt": "Any client frame other than CONNECT".
        if self.has(Fault::ConnectHasReceipt) {
            self.receipt(me, frame);
        }
        Ok(())
    }

    /// 1.2, "Protocol Negotiation": the highest that both have; 1.0 where the client names none.
    fn negotiate(&self, frame: &Frame) -> Result<Version, Refusal> {
        let list = frame.get("accept-version");
        let is_there = |list: &&str| !list.is_empty() || !self.has(Fault::EmptyAcceptVersionIsNone);
        let Some(list) = list.filter(is_there) else {
            return match () {
                () if self.has(Fault::AcceptVersionRequired) => {
                    Err(Refusal::syntax("Version mismatch"))
                }
                () if self.has(Fault::NoAcceptVersionIs12) => Ok(Version::V12),
                () => Ok(Version::V10),
            };
        };
        let named = list.split(',').map(|name| match name.trim() {
            trimmed if trimmed != name && self.has(Fault::SpacesInVersionsKept) => name,
            trimmed => trimmed,
        });
        let is = |version: &Version, name: &str| {
            version.name() == name
                || name.starts_with(version.name()) && self.has(Fault::VersionsByPrefix)
        };
        let known = named.filter_map(|name| Version::ALL.into_iter().find(|v| is(v, name)));
        let known = known.filter(|v| *v > Version::V10 || !self.has(Fault::Version10NotKnown));
        let known: Vec<Version> = known.collect();
        if known.len() < list.split(',').count() && self.has(Fault::UnknownVersionRefused) {
            return Err(Refusal::syntax("Version mismatch"));
        }
        let highest = known.iter().max();
        let chosen = match (known.first(), known.last()) {
            (Some(first), _) if Some(first) != highest && self.has(Fault::FirstVersionChosen) => {
                Some(first)
            }
            (_, Some(last)) if Some(last) != highest && self.has(Fault::LastVersionChosen) => {
                Some(last)
            }
            _ if known.len() > 1 && self.has(Fault::LowestVersionChosen) => known.iter().min(),
            _ => highest,
        };
        match chosen {
            Some(lower) if *lower < Version::V12 && self.has(Fault::Version12Always) => {
                Ok(Version::V12)
            }
            None if self.has(Fault::NoCommonVersionTaken) => Ok(Version::V12),
            None => Err(Refusal::syntax("Version mismatch")),
            Some(version) => Ok(*version),
        }
    }

    /// 1.2, "Heart-beating": `MAX(<sx>,<cy>)`, none where either is 0.
    fn agree(&self, wish: Option<&str>, offer: &str) -> Result<Beats, Refusal> {
        let numbers = |text: &str| {
            let (can, mut wants) = text.split_once(',')?;
            if wants.contains(',') && self.has(Fault::ThirdHeartBeatIgnored) {
                wants = wants.split(',').next()?;
            }
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let is_number = digits(can) && digits(wants);
            is_number.then_some(())?;
            let fits = |n: &u64| u32::try_from(*n).is_ok() || !self.has(Fault::HeartBeatOf32Bits);
            let number = |text: &str| text.parse::<u64>().ok().filter(fits);
            Some((number(can)?, number(wants)?))
        };
        let wish = wish.unwrap_or("0,0");
        let wish = match numbers(wish) {
            Some(wish) => wish,
            None if self.has(Fault::BadHeartBeatTaken) => (0, 0),
            None if wish.starts_with('-') && self.has(Fault::NegativeHeartBeatTaken) => (0, 0),
            None => return Err(Refusal::syntax("Processing error")),
        };
        let (can, wants) = numbers(offer).unwrap_or((0, 0));
        let interval = |can: u64, wants: u64| {
            (can > 0 && wants > 0).then(|| Duration::from_millis(can.max(wants)))
        };
        Ok(Beats { of_server: interval(can, wish.1), of_client: interval(wish.0, wants) })
    }

    pub(super) fn connect_again(&mut self, me: usize, frame: &Frame) -> Result<(), Refusal> {
        if self.has(Fault::SecondConnectTaken)
            || frame.command == "STOMP" && self.has(Fault::SecondStompTaken)
        {
            return self.connect(me, frame);
        }
        Err(Refusal::syntax("Already connected"))
    }
}
