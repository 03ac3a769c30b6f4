//! A session of the machine, connected and subscribed, for cases to work with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stomp_relay::auth::Principal;
use stomp_relay::auth::policy::{Defaults, Policy};
use stomp_relay::cli::Serve;
use stomp_relay::config::Config;
use stomp_relay::relay::mailbox::Level;
use stomp_relay::session::{Action, BrokerKind, Limits, Session, Settings, Wire};
use stomp_relay::stomp::{Command, Frame};
use stomp_relay::user::Rules;

/// A session of `guest` with one subscription, of a topic, and that subscription's number.
pub(crate) fn session(now: Instant) -> (Session, u32) {
    let config = Config::load(&Serve { dev: true, ..Serve::default() }, std::iter::empty())
        .expect("the defaults are sound");
    let settings = Settings {
        limits: limits(&config.limits),
        errors: config.errors,
        policy: Policy::new(Vec::new(), Defaults::Everything),
        unread: Rules::new(Vec::new()),
        level: Level::Stored,
        broker: BrokerKind::Embedded,
        names: config.relay.allow_names.iter().map(String::as_str).collect(),
    };
    let guest = Principal { name: "guest".into(), roles: Vec::new(), expires_at: None };
    let guest = Some((guest, None));
    let mut session = Session::new(Arc::new(settings), "bench", Wire::WebSocket, None, guest, now);
    let connect = Frame::new(Command::Connect).with("accept-version", "1.2");
    session.frame(connect, now, &mut Vec::new());
    let subscribe = Frame::new(Command::Subscribe)
        .with("id", "3f2504e0-4f89-41d3-9a0c-0305e82c3301")
        .with("destination", "/topic/a.b.c");
    let mut actions = Vec::new();
    session.frame(subscribe, now, &mut actions);
    let subscribed = actions.into_iter().find_map(|action| match action {
        Action::Subscribe { token, request } => Some((token, request.subscription)),
        _ => None,
    });
    let (token, subscription) = subscribed.expect("the SUBSCRIBE is sound");
    session.done(token, Ok(Level::Memory), &mut Vec::new());
    (session, subscription)
}

fn limits(limits: &stomp_relay::config::Limits) -> Limits {
    Limits {
        subscriptions: limits.subscriptions,
        unacked: limits.unacked,
        prefetch: limits.prefetch,
        ack_time: limits.ack_time,
        transactions: limits.transactions,
        transaction_actions: limits.transaction_actions,
        transaction_bytes: limits.transaction_bytes,
        destination_bytes: limits.destination_bytes,
        connect_time: limits.connect_time,
        frame_time: limits.frame_time,
        outage_time: Duration::from_secs(30),
    }
}
