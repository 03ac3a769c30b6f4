//! Heart-beats of STOMP over SockJS. The longest test there is, so it stands where it begins first.

use std::thread;

use crate::client::{Client, Said, Via, header};
use crate::relay::Relay;

/// Ten seconds both ways is the least there is. A server that has nothing to say beats; a client
/// that has promised beats and sends none has gone after three times as long, but where a PING
/// can ask it.
#[test]
fn both_ways() {
    let relay = Relay::stomp("heartbeat_time = \"1m\"", "");
    let connect = |via, beat: &str| {
        let mut client = Client::open(&relay, "/ws", via);
        let login = "login:guest\npasscode:guest";
        client.send(&[format!("CONNECT\naccept-version:1.2\n{login}\nheart-beat:{beat}\n\n\0")]);
        let connected = client.frame();
        assert_eq!(header(&connected, "heart-beat"), Some("10000,10000"), "{connected}");
        client
    };
    thread::scope(|scope| {
        for via in Via::ALL {
            scope.spawn(move || {
                let mut silent = connect(via, "1000,0");
                let mut beats = connect(via, "1000,0");
                // Somebody waits for what they are sent.
                silent.ask();
                beats.ask();
                // Twice within the time in which the other one is silent.
                for _ in 0..2 {
                    let mut clock = connect(via, "0,1000");
                    assert_eq!(clock.next(), Said::Messages(vec!["\n".into()]), "{via:?}");
                    beats.send(&["\n"]);
                }
                if via == Via::WebSocket {
                    silent.publish("/topic/a", "alive");
                } else {
                    assert_eq!(silent.closed(), (1008, "heart-beat".into()), "{via:?}");
                }
                beats.publish("/topic/a", "alive");
            });
        }
    });
    relay.is_well();
}
