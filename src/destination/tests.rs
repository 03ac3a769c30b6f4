//! Destinations as text and as rules see them.

use super::*;

fn shown(result: Result<Destination, DestinationError>) -> String {
    match result {
        Ok(Destination::User(user)) => format!("user {} {}", user.user, user.target),
        Ok(destination) => destination.words().join(" "),
        Err(error) => format!("{}: {}", error.text().0, error.text().1.trim_end()),
    }
}

#[test]
fn canonical_form_of_send() {
    let cases = [
        ("/queue/a", "queue a"),
        ("a", "queue a"),
        ("/queue/a.b", "queue a b"),
        ("/queue/a%2Fb", "queue a/b"),
        ("/queue/a%252Fb", "queue a%2Fb"),
        ("/queue/%2e%00", "queue %2e%00"),
        ("/topic/a/b", "topic a b"),
        ("/topic/a.b", "topic a b"),
        ("/topic/a%2Fb", "topic a/b"),
        ("/user/bob/queue/x", "user bob queue/x"),
        ("/user/b%2Fo%25b/queue/x/y", "user b/o%b queue/x.y"),
        ("/app/unread/read", "app unread read"),
        ("/topic/a.*", "Invalid destination: '/a.*' is not a valid topic destination"),
        ("/topic/**", "Invalid destination: '/**' is not a valid topic destination"),
        ("/topic/", "Invalid destination: '/' is not a valid topic destination"),
        ("/topic/a..b", "Invalid destination: '/a..b' is not a valid topic destination"),
        ("/queue/a/b", "Invalid destination: '/a/b' is not a valid queue destination"),
        ("/queue/", "Invalid destination: '/' is not a valid queue destination"),
        ("/user/queue/x", "Invalid destination: '/queue/x' is not a valid user destination"),
        ("/user//queue/x", "Invalid destination: '//queue/x' is not a valid user destination"),
        ("/user/bob", "Invalid destination: '/bob' is not a valid user destination"),
        ("/user/bob/", "Invalid destination: '/bob/' is not a valid user destination"),
        (
            "/user/bob/queue/*",
            "Invalid destination: '/bob/queue/*' is not a valid user destination",
        ),
        ("", "Invalid destination: Destination cannot be blank"),
        ("/queue/a\tb", "Invalid destination: A destination has no control characters."),
        (
            "/queue/stomp-relay.x",
            "access_refused: access to '/queue/stomp-relay.x' refused: the name is reserved",
        ),
        ("/queue/amq%2F", "queue amq/"),
    ];
    for (text, expected) in cases {
        assert_eq!(shown(Destination::for_send(text)), expected, "{text}");
    }
    for unknown in ["/QUEUE/x", "/foo/x", "/queue", "//queue/x", "x/y", "/"] {
        assert!(
            matches!(Destination::for_send(unknown), Err(DestinationError::Unknown { .. })),
            "{unknown}"
        );
    }
    let long = format!("/queue/{}", "x".repeat(300));
    assert!(matches!(
        Destination::for_send(&long),
        Err(DestinationError::TooLong { bytes: 307, limit: MAX_BYTES })
    ));
}

#[test]
fn canonical_form_of_subscribe() {
    let cases = [
        ("/topic/a/*/b", "topic a * b"),
        ("/topic/a/**", "topic a #"),
        ("/topic/#", "topic #"),
        ("/user/queue/x", "user alice queue/x"),
        (
            "/user/bob/queue/x",
            "access_refused: access to '/user/bob/queue/x' refused: \
             one's own messages are at /user/queue/NAME",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(shown(Destination::for_subscribe(text, "alice")), expected, "{text}");
    }
}

#[test]
fn shown_to_its_receiver() {
    for (text, shown) in [
        ("/queue/a%2Fb", "/queue/a%2Fb"),
        ("/topic/a/b", "/topic/a.b"),
        ("/user/bob/queue/x/y", "/user/queue/x.y"),
    ] {
        let destination = Destination::for_send(text).unwrap();
        assert_eq!(destination.to_string(), shown);
    }
}
