//! Tokens, good and bad, and keys.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use base64::prelude::BASE64_STANDARD;

use super::*;
use crate::auth::secret::Secret;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 2_000_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn key(algorithm: JwtAlgorithm, id: Option<&str>, material: &str) -> JwtKeyConfig {
    JwtKeyConfig { algorithm, id: id.map(str::to_owned), material: Secret::new(material) }
}

fn config(keys: Vec<JwtKeyConfig>) -> JwtConfig {
    JwtConfig {
        keys,
        issuer: Some("us".into()),
        audience: vec!["relay".into(), "other".into()],
        user_claim: "sub".into(),
        roles_claim: "realm_access.roles".into(),
        leeway: Duration::from_secs(5),
        cookie: None,
        query: None,
    }
}

fn verifier() -> Verifier {
    Verifier::new(config(vec![key(JwtAlgorithm::Hs256, None, SECRET)])).unwrap()
}

/// Signed rightly, whatever it says.
fn token_of(header: &str, claims: &str, secret: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn judge(header: &str, claims: &str) -> Result<Principal, Refused> {
    verifier().verify(&token_of(header, claims, SECRET), now())
}

const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// Good claims, in which `from` is replaced by `to`.
fn claims(from: &str, to: &str) -> String {
    let good = r#"{"sub":"alice","exp":2000000100,"iss":"us","aud":"relay"}"#;
    assert!(good.contains(from), "{from}");
    good.replace(from, to)
}

#[test]
fn claims_decide() {
    let exp = r#""exp":2000000100"#;
    let aud = r#""aud":"relay""#;
    let (iss, sub) = (r#""iss":"us""#, r#""sub":"alice""#);
    let cases: &[(&str, &str, Result<(), Refused>)] = &[
        ("", "", Ok(())),
        // exp and nbf, with 5 s of leeway
        (exp, r#""x":1"#, Err(Refused::Time)),
        (exp, r#""exp":1999999996"#, Ok(())),
        (exp, r#""exp":1999999995"#, Err(Refused::Expired)),
        (exp, r#""exp":1999999969"#, Err(Refused::Expired)),
        (exp, r#""exp":"9999999999""#, Err(Refused::Time)),
        (exp, r#""exp":1e308"#, Err(Refused::Time)),
        (exp, r#""exp":-1"#, Err(Refused::Time)),
        (exp, r#""exp":2000000100.5"#, Err(Refused::Time)),
        (exp, r#""exp":null"#, Err(Refused::Time)),
        (exp, r#""exp":[2000000100]"#, Err(Refused::Time)),
        (exp, r#""exp":18446744073709551615"#, Err(Refused::Time)),
        (exp, r#""exp":18446744073709551616"#, Err(Refused::Time)),
        (exp, r#""exp":2000000100,"nbf":2000000005"#, Ok(())),
        (exp, r#""exp":2000000100,"nbf":2000000006"#, Err(Refused::NotYet)),
        (exp, r#""exp":2000000100,"nbf":"0""#, Err(Refused::Time)),
        (exp, r#""exp":2000000100,"nbf":null"#, Err(Refused::Time)),
        // iss and aud
        (iss, r#""x":1"#, Err(Refused::Issuer)),
        (iss, r#""iss":"them""#, Err(Refused::Issuer)),
        (iss, r#""iss":["us"]"#, Err(Refused::Issuer)),
        (aud, r#""x":1"#, Err(Refused::Audience)),
        (aud, r#""aud":"else""#, Err(Refused::Audience)),
        (aud, r#""aud":["else"]"#, Err(Refused::Audience)),
        (aud, r#""aud":[]"#, Err(Refused::Audience)),
        (aud, r#""aud":["relay",1]"#, Err(Refused::Audience)),
        (aud, r#""aud":["else","relay"]"#, Ok(())),
        (aud, r#""aud":"other""#, Ok(())),
        // the user's name
        (sub, r#""x":1"#, Err(Refused::User)),
        (sub, r#""sub":"""#, Err(Refused::User)),
        (sub, r#""sub":7"#, Err(Refused::User)),
        (sub, r#""sub":"a\nb""#, Err(Refused::User)),
        (sub, r#""sub":"a\u0000""#, Err(Refused::User)),
        // nonsense
        (sub, r#""sub":"alice","sub":"alice""#, Err(Refused::Shape)),
        (sub, r#""sub":"alice","x":{"a":1,"a":2}"#, Err(Refused::Shape)),
        (sub, r#""sub":"alice","s\u0075b":"bob""#, Err(Refused::Shape)),
        ("}", "} ,", Err(Refused::Shape)),
        ("{", "[", Err(Refused::Shape)),
        // roles
        (sub, r#""sub":"alice","realm_access":{"roles":7}"#, Err(Refused::Roles)),
        (sub, r#""sub":"alice","realm_access":{"roles":["a",1]}"#, Err(Refused::Roles)),
        (sub, r#""sub":"alice","realm_access":7"#, Ok(())),
    ];
    for (from, to, expected) in cases {
        let claims = claims(from, to);
        assert_eq!(judge(HEADER, &claims).map(|_| ()), *expected, "{claims}");
    }
    let long = claims("alice", &"x".repeat(129));
    assert_eq!(judge(HEADER, &long), Err(Refused::User));
    let deep = claims("\"alice\"", &format!("{}{}", "[".repeat(2000), "]".repeat(2000)));
    assert_eq!(judge(HEADER, &deep), Err(Refused::Shape));
}

#[test]
fn the_principal() {
    let roles = |text: &str| {
        let claims = claims("{", &format!("{{{text},"));
        judge(HEADER, &claims).unwrap().roles
    };
    assert_eq!(roles(r#""realm_access":{"roles":["a","b c"]}"#), ["a", "b c"]);
    assert_eq!(roles(r#""realm_access":{"roles":"a b"}"#), ["a", "b"]);
    assert_eq!(roles(r#""realm_access.roles":["a"]"#), ["a"]);
    assert_eq!(roles(r#""roles":["a"]"#), [""; 0]);
    let principal = judge(HEADER, &claims("", "")).unwrap();
    assert_eq!(&*principal.name, "alice");
    assert_eq!(principal.expires_at, Some(UNIX_EPOCH + Duration::from_secs(2_000_000_105)));
}

#[test]
fn headers_decide() {
    let good = claims("", "");
    let cases = [
        (r#"{"alg":"none"}"#, Refused::NoKey),
        (r#"{"alg":"None"}"#, Refused::NoKey),
        (r#"{"alg":"nOnE"}"#, Refused::NoKey),
        (r#"{"alg":"hs256"}"#, Refused::NoKey),
        (r#"{"alg":"HS384"}"#, Refused::NoKey),
        (r#"{"alg":"RS256"}"#, Refused::NoKey),
        (r#"{"typ":"JWT"}"#, Refused::Header),
        (r#"{"alg":["HS256"]}"#, Refused::Header),
        (r#"{"alg":"HS256","alg":"HS256"}"#, Refused::Shape),
        (r#"{"alg":"HS256","crit":["exp"]}"#, Refused::Header),
        (r#"{"alg":"HS256","b64":false}"#, Refused::Header),
        (r#"{"alg":"HS256","zip":"DEF"}"#, Refused::Header),
        (r#"{"alg":"dir","enc":"A128GCM"}"#, Refused::Header),
        (r#"{"alg":"HS256","kid":7}"#, Refused::Header),
        (r#""HS256""#, Refused::Shape),
    ];
    for (header, expected) in cases {
        assert_eq!(judge(header, &good), Err(expected), "{header}");
    }
    // A key of the token's own, and addresses of keys, are as if they were not there.
    let own = "fedcba9876543210fedcba9876543210";
    let jwk = format!(
        r#"{{"alg":"HS256","jwk":{{"kty":"oct","k":"{}"}},"jku":"http://127.0.0.1:1/","x5u":"http://127.0.0.1:1/","x5c":[]}}"#,
        URL_SAFE_NO_PAD.encode(own)
    );
    assert_eq!(verifier().verify(&token_of(&jwk, &good, own), now()), Err(Refused::Signature));
    assert!(judge(&jwk, &good).is_ok());
}

#[test]
fn shapes() {
    let good = token_of(HEADER, &claims("", ""), SECRET);
    assert!(verifier().verify(&good, now()).is_ok());
    let parts: Vec<_> = good.split('.').collect();
    let (header, body, signature) = (parts[0], parts[1], parts[2]);
    let tampered = URL_SAFE_NO_PAD.encode(claims("alice", "admin"));
    let cases = [
        String::new(),
        ".".into(),
        "..".into(),
        format!("{header}.{body}"),
        format!("{header}.{body}."),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!("{header}=.{body}.{signature}"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{header}.{tampered}.{signature}"),
        format!("{header}.{body}.{}", signature.to_uppercase()),
        format!("{header}.{}.{signature}", BASE64_STANDARD.encode("{\"sub\":\"???>>>\"}")),
        format!("{good}{}", "A".repeat(1 << 20)),
        "é.é.é".into(),
    ];
    for token in cases {
        let shown: String = token.chars().take(80).collect();
        assert!(verifier().verify(&token, now()).is_err(), "{shown}");
    }
    // 8 KiB are read, more are not, though signed.
    let padded = |bytes: usize| {
        let claims = claims("{", &format!("{{\"x\":\"{}\",", "x".repeat(bytes)));
        verifier().verify(&token_of(HEADER, &claims, SECRET), now())
    };
    assert!(padded(5800).is_ok());
    assert_eq!(padded(6200), Err(Refused::Shape));
}

#[test]
fn kid_picks_the_key() {
    let (first, second) = (SECRET, "fedcba9876543210fedcba9876543210");
    let keys = vec![
        key(JwtAlgorithm::Hs256, Some("1"), first),
        key(JwtAlgorithm::Hs256, Some("2"), second),
    ];
    let verifier = Verifier::new(config(keys)).unwrap();
    let cases = [
        ("1", first, Ok(())),
        ("2", second, Ok(())),
        ("1", second, Err(Refused::Signature)),
        ("3", first, Err(Refused::NoKey)),
        ("", first, Err(Refused::NoKey)),
    ];
    for (id, secret, expected) in cases {
        let header = format!(r#"{{"alg":"HS256","kid":"{id}"}}"#);
        let token = token_of(&header, &claims("", ""), secret);
        assert_eq!(verifier.verify(&token, now()).map(|_| ()), expected, "{id} {secret}");
    }
    // Without one every key of the algorithm is tried.
    assert!(verifier.verify(&token_of(HEADER, &claims("", ""), second), now()).is_ok());
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = BASE64_STANDARD.encode(der);
    let lines: Vec<_> =
        body.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Private and public PEM of a fresh key.
fn rsa_pems() -> (String, String) {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    (pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", public.as_ref()))
}

fn ec_pems() -> (String, String) {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let private = pair.to_pkcs8v1().unwrap();
    let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    (pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", public.as_ref()))
}

#[test]
fn signing_and_verifying_with_every_algorithm() {
    let (rsa, rsa_public) = rsa_pems();
    let (ec, ec_public) = ec_pems();
    let cases = [
        (JwtAlgorithm::Hs256, SECRET, SECRET),
        (JwtAlgorithm::Rs256, rsa.as_str(), rsa_public.as_str()),
        (JwtAlgorithm::Es256, ec.as_str(), ec_public.as_str()),
    ];
    let roles = ["a".to_owned(), "b".to_owned()];
    for (algorithm, private, public) in cases {
        let signer = Verifier::new(config(vec![key(algorithm, Some("k"), private)])).unwrap();
        let token = signer.sign("alice", &roles, Duration::from_secs(60), now()).unwrap();
        let verifier = Verifier::new(config(vec![key(algorithm, Some("k"), public)])).unwrap();
        for judge in [&signer, &verifier] {
            let principal = judge.verify(&token, now()).unwrap();
            assert_eq!((&*principal.name, principal.roles.as_slice()), ("alice", &roles[..]));
            let later = now() + Duration::from_secs(65);
            assert_eq!(judge.verify(&token, later), Err(Refused::Expired));
        }
        let can_sign = verifier.sign("alice", &[], Duration::from_secs(60), now());
        assert_eq!(can_sign.is_ok(), algorithm == JwtAlgorithm::Hs256);
        assert!(signer.sign("a\nb", &[], Duration::from_secs(60), now()).is_err());
        for (other, _, public) in cases.iter().filter(|case| case.0 != algorithm) {
            // Another algorithm's key does not serve, neither by its own name nor by this one's.
            let wrong = Verifier::new(config(vec![key(*other, Some("k"), public)])).unwrap();
            assert_eq!(wrong.verify(&token, now()), Err(Refused::NoKey));
            assert!(
                Key::new(&key(algorithm, None, public)).is_err() || *other == JwtAlgorithm::Hs256
            );
        }
    }
    // RS256 is configured; the token is HS256, signed with the public key as the secret.
    let verifier =
        Verifier::new(config(vec![key(JwtAlgorithm::Rs256, None, &rsa_public)])).unwrap();
    for secret in [rsa_public.as_str(), rsa_public.trim_end()] {
        let token = token_of(HEADER, &claims("", ""), secret);
        assert_eq!(verifier.verify(&token, now()), Err(Refused::NoKey));
        let renamed = token_of(r#"{"alg":"RS256"}"#, &claims("", ""), secret);
        assert_eq!(verifier.verify(&renamed, now()), Err(Refused::Signature));
    }
}

#[test]
fn keys_that_are_none() {
    let (rsa, _) = rsa_pems();
    let pair = EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P384_SHA384_FIXED_SIGNING);
    let pair = pair.unwrap();
    let p384 = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    let p384 = pem("PUBLIC KEY", p384.as_ref());
    let cases = [
        (JwtAlgorithm::Hs256, "short"),
        (JwtAlgorithm::Hs256, rsa.as_str()),
        (JwtAlgorithm::Rs256, SECRET),
        (JwtAlgorithm::Rs256, p384.as_str()),
        (JwtAlgorithm::Rs256, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
        (JwtAlgorithm::Es256, rsa.as_str()),
        (JwtAlgorithm::Es256, p384.as_str()),
    ];
    for (algorithm, material) in cases {
        let error = Key::new(&key(algorithm, None, material)).unwrap_err();
        assert!(!error.contains(material), "{error}");
    }
    let good = key(JwtAlgorithm::Hs256, None, SECRET);
    let shown = format!("{:?} {:?}", good, Key::new(&good).unwrap());
    assert!(!shown.contains(SECRET), "{shown}");
}
