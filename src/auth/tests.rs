//! Who is let in by which credentials.

use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::secret::Secret;
use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn jwt_config() -> JwtConfig {
    let secret = Secret::new(SECRET);
    JwtConfig {
        keys: vec![JwtKeyConfig { algorithm: JwtAlgorithm::Hs256, id: None, material: secret }],
        issuer: None,
        audience: Vec::new(),
        user_claim: "sub".into(),
        roles_claim: "roles".into(),
        leeway: Duration::from_secs(5),
        cookie: Some("sid".into()),
        query: Some("access_token".into()),
    }
}

fn authenticator(chain: &[LinkKind], jwt: JwtConfig) -> Authenticator {
    Authenticator::new(&AuthConfig {
        chain: chain.to_vec(),
        jwt: Some(jwt),
        users: Some(UsersConfig::Dev),
        failures_per_minute: NonZeroU32::new(1000),
    })
    .unwrap()
}

fn token(user: &str) -> String {
    let verifier = jwt::Verifier::new(jwt_config()).unwrap();
    verifier.sign(user, &[], Duration::from_secs(60), SystemTime::now()).unwrap()
}

fn basic(text: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(text))
}

fn head(uri: &str, headers: &[(&str, &str)]) -> ::http::request::Parts {
    let mut request = ::http::Request::get(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn refused(user: &str) -> AuthError {
    AuthError::refused(user)
}

/// Names and values of headers.
type Pairs<'a> = Vec<(&'a str, &'a str)>;
/// Address, headers, who it is.
type Case<'a> = (&'a str, Pairs<'a>, Result<Option<&'a str>, AuthError>);

const BOTH: &[LinkKind] = &[LinkKind::Jwt, LinkKind::Users];

#[tokio::test]
async fn handshake() {
    let (alice, bob) = (token("alice"), token("bob"));
    let bearer = format!("Bearer {alice}");
    let mixed = bearer.replace("Bearer", "bEARER");
    let protocol = format!("v12.stomp, bearer.{alice}");
    let cookie = |token: &str| format!("a=b; sid={token}; c=d");
    let (own, other) = (cookie(&alice), cookie(&bob));
    let query = format!("/ws?x=1&access_token={alice}");
    let (right, wrong) = (basic("alice:alice"), basic("alice:bob"));
    let long = basic(&format!("alice:{}", "x".repeat(64 * 1024)));
    let tampered = format!("{bearer}x");
    let cases: Vec<Case<'_>> = vec![
        ("/ws", vec![], Ok(None)),
        ("/ws", vec![("authorization", &bearer)], Ok(Some("alice"))),
        ("/ws", vec![("authorization", &mixed)], Ok(Some("alice"))),
        ("/ws", vec![("authorization", "Bearer x")], Err(refused(""))),
        ("/ws", vec![("authorization", "Bearer ")], Ok(None)),
        ("/ws", vec![("authorization", &tampered)], Err(refused(""))),
        ("/ws", vec![("authorization", "Negotiate abc")], Ok(None)),
        ("/ws", vec![("authorization", &right)], Ok(Some("alice"))),
        ("/ws", vec![("authorization", &wrong)], Err(refused("alice"))),
        ("/ws", vec![("authorization", "Basic")], Err(refused(""))),
        ("/ws", vec![("authorization", "Basic !!!")], Err(refused(""))),
        ("/ws", vec![("authorization", "Basic YWxpY2U=")], Err(refused(""))),
        ("/ws", vec![("authorization", "Basic //8=")], Err(refused(""))),
        ("/ws", vec![("authorization", "caf\u{e9}")], Err(refused(""))),
        ("/ws", vec![("authorization", &long)], Err(refused("alice"))),
        ("/ws", vec![("sec-websocket-protocol", &protocol)], Ok(Some("alice"))),
        ("/ws", vec![("sec-websocket-protocol", "v12.stomp")], Ok(None)),
        ("/ws", vec![("sec-websocket-protocol", "bearer.x")], Err(refused(""))),
        ("/ws", vec![("cookie", &own)], Ok(Some("alice"))),
        ("/ws", vec![("cookie", "sid=; xsid=1")], Ok(None)),
        (&query, vec![], Ok(Some("alice"))),
        ("/ws?access_token=x", vec![], Err(refused(""))),
        // Two of one user are fine, two of different users are not, in any order.
        ("/ws", vec![("authorization", &bearer), ("cookie", &own)], Ok(Some("alice"))),
        ("/ws", vec![("authorization", &right), ("cookie", &own)], Ok(Some("alice"))),
        ("/ws", vec![("authorization", &bearer), ("cookie", &other)], Err(AuthError::Conflict)),
        ("/ws", vec![("authorization", &right), ("cookie", &other)], Err(AuthError::Conflict)),
        (&query, vec![("cookie", &other)], Err(AuthError::Conflict)),
        // One right and one wrong: nobody is picked in silence.
        ("/ws", vec![("authorization", &wrong), ("cookie", &own)], Err(refused("alice"))),
        ("/ws", vec![("authorization", &bearer), ("cookie", "sid=x")], Err(refused(""))),
        ("/ws", vec![("cookie", "sid=1; sid=2; sid=3; sid=4; sid=5")], Err(AuthError::Conflict)),
    ];
    let both = authenticator(BOTH, jwt_config());
    for (uri, headers, expected) in cases {
        let result = both.handshake(&head(uri, &headers), PEER).await;
        let name = result.as_ref().map(|who| who.as_ref().map(|who| &*who.name));
        assert_eq!(name, expected.as_ref().map(|name| *name), "{uri} {headers:?}");
    }
}

#[tokio::test]
async fn what_is_not_configured_is_no_credential() {
    let jwt = JwtConfig { cookie: None, query: None, ..jwt_config() };
    let token = token("alice");
    let bearer = format!("Bearer {token}");
    let tokens = authenticator(&[LinkKind::Jwt], jwt.clone());
    let accounts = authenticator(&[LinkKind::Users], jwt);
    let cookie = format!("sid={token}");
    let query = format!("/ws?access_token={token}");
    for head in [
        head("/ws", &[("cookie", &cookie)]),
        head(&query, &[]),
        head("/ws", &[("authorization", &basic("alice:alice"))]),
    ] {
        assert_eq!(tokens.handshake(&head, PEER).await, Ok(None));
    }
    let head = head("/ws", &[("authorization", &bearer)]);
    assert_eq!(accounts.handshake(&head, PEER).await, Ok(None));
}

#[tokio::test]
async fn connect() {
    let token = token("alice");
    let bearer = format!("Bearer {token}");
    let cases: Vec<(Pairs<'_>, Result<&str, AuthError>)> = vec![
        (vec![], Err(AuthError::Missing)),
        (vec![("login", "alice")], Err(AuthError::Missing)),
        (vec![("passcode", "alice")], Err(AuthError::Missing)),
        (vec![("login", "alice"), ("passcode", "alice")], Ok("alice")),
        (vec![("login", "alice"), ("passcode", "bob")], Err(refused("alice"))),
        (vec![("login", "dave"), ("passcode", "dave")], Err(refused("dave"))),
        (vec![("login", "Alice"), ("passcode", "Alice")], Err(refused("Alice"))),
        (vec![("login", "alice "), ("passcode", "alice ")], Err(refused("alice "))),
        (vec![("login", "\u{430}lice"), ("passcode", "alice")], Err(refused("\u{430}lice"))),
        (vec![("login", ""), ("passcode", "")], Err(refused(""))),
        (vec![("Authorization", &bearer)], Ok("alice")),
        (vec![("authorization", &bearer)], Ok("alice")),
        (vec![("token", &token)], Ok("alice")),
        (vec![("token", "x")], Err(refused(""))),
        (vec![("passcode", &token)], Ok("alice")),
        (vec![("login", "anything"), ("passcode", &token)], Ok("alice")),
        // Pages that send guest beside their token.
        (vec![("login", "bob"), ("passcode", "x"), ("Authorization", &bearer)], Ok("alice")),
        (
            vec![("Authorization", "Bearer x"), ("login", "bob"), ("passcode", "bob")],
            Err(refused("")),
        ),
        (vec![("login", "bob"), ("passcode", "bob"), ("login", "alice")], Ok("bob")),
    ];
    let both = authenticator(BOTH, jwt_config());
    for (headers, expected) in cases {
        let result = both.connect(&headers.iter().copied().collect(), PEER).await;
        assert_eq!(
            result.as_ref().map(|who| &*who.name),
            expected.as_ref().copied(),
            "{headers:?}"
        );
    }
    let tokens = authenticator(&[LinkKind::Jwt], jwt_config());
    let login: Headers = [("login", "alice"), ("passcode", "alice")].into_iter().collect();
    assert_eq!(tokens.connect(&login, PEER).await, Err(refused("alice")));
    // The order of the chain counts.
    let reversed = authenticator(&[LinkKind::Users, LinkKind::Jwt], jwt_config());
    let headers = [("login", "bob"), ("passcode", "bob"), ("token", &token)].into_iter().collect();
    assert_eq!(&*reversed.connect(&headers, PEER).await.unwrap().name, "bob");
}

#[tokio::test]
async fn only_the_dev_admin_has_a_role() {
    let both = authenticator(BOTH, jwt_config());
    for user in users::DEV_USERS {
        let headers = [("login", user), ("passcode", user)].into_iter().collect();
        let principal = both.connect(&headers, PEER).await.unwrap();
        let expected: &[&str] = if user == "admin" { &["admin"] } else { &[] };
        assert_eq!(principal.roles, expected);
    }
}

#[test]
fn texts_and_statuses() {
    let many = |millis| AuthError::TooMany { retry_after: Duration::from_millis(millis) };
    let cases = [
        (AuthError::Missing, 401, "Bad CONNECT", "Missing login or passcode header(s)\n"),
        (refused("bob"), 401, "Bad CONNECT", "Access refused for user 'bob'\n"),
        (refused("b\r\nob\0"), 401, "Bad CONNECT", "Access refused for user 'bob'\n"),
        (refused(""), 401, "Bad CONNECT", "Access refused\n"),
        (many(1500), 429, "Too many logins", "Try again in 2 s\n"),
        (many(0), 429, "Too many logins", "Try again in 1 s\n"),
        (AuthError::Conflict, 400, "Bad CONNECT", "Credentials of different users\n"),
        (AuthError::Unavailable, 503, "Login unavailable", "Try again later\n"),
    ];
    for (error, status, message, body) in cases {
        assert_eq!(error.http_status().as_u16(), status);
        assert_eq!(error.stomp_text(), (message, body.to_owned()));
    }
    let long = refused(&"x".repeat(10_000)).stomp_text().1;
    assert!(long.len() < 200);
}

#[test]
fn nothing_secret_is_shown() {
    let token = token("alice");
    let (bearer, password) = (format!("Bearer {token}"), basic("alice:hunter22"));
    let headers = [("authorization", bearer.as_str()), ("authorization", &password)];
    let found = http::credentials(&head("/ws", &headers), None).unwrap();
    let shown = format!("{found:?} {:?} {:?}", jwt_config(), authenticator(BOTH, jwt_config()));
    for secret in [token.as_str(), "hunter22", SECRET] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
