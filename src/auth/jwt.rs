//! Tokens (RFC 7519) that some other application signed.
//!
//! Stricter than the RFC where laxness was an attack somewhere: a key is for one algorithm only,
//! `exp` and the user's name are required, times are whole numbers, no name may stand twice in an
//! object, and nothing in the header but `alg` and `kid` chooses a key.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, crypto};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};

use super::{JwtAlgorithm, JwtConfig, JwtKeyConfig, Principal};
use crate::destination;

/// Longer tokens are refused unread.
const MAX_BYTES: usize = 8 * 1024;
/// The least an HS256 secret may have (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;
/// The end of the year 9999: later times are nonsense, and overflow elsewhere.
const MAX_TIME: u64 = 253_402_300_799;
const MAX_ROLES: usize = 256;

/// Why a token is refused. For the log; the client learns only that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not three parts of base64url with a JSON object each.
    Shape,
    /// A header that asks for something unknown.
    Header,
    /// No key for that algorithm and `kid`.
    NoKey,
    Signature,
    /// `exp` or `nbf` missing where required, or no whole number.
    Time,
    Expired,
    NotYet,
    Issuer,
    Audience,
    /// The user's name is missing or impossible.
    User,
    Roles,
}

/// A key, ready for use.
pub struct Key {
    algorithm: JwtAlgorithm,
    id: Option<String>,
    decoding: DecodingKey,
    /// Where it is private, or a shared secret.
    encoding: Option<EncodingKey>,
}

impl Key {
    /// Reads the key.
    ///
    /// # Errors
    /// With what is wrong with it, without repeating it.
    pub fn new(config: &JwtKeyConfig) -> Result<Self, String> {
        let material = config.material.expose();
        let (decoding, encoding) = match config.algorithm {
            JwtAlgorithm::Hs256 => shared(material)?,
            JwtAlgorithm::Rs256 => rsa(material)?,
            JwtAlgorithm::Es256 => ec(material)?,
        };
        Ok(Self { algorithm: config.algorithm, id: config.id.clone(), decoding, encoding })
    }

    fn is_for(&self, algorithm: JwtAlgorithm, id: Option<&str>) -> bool {
        // A key without an id may be anybody's; a token without one may be any key's.
        let same = |own: &String| id.is_none_or(|id| id == own);
        self.algorithm == algorithm && self.id.as_ref().is_none_or(same)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("algorithm", &self.algorithm)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

type Pair = (DecodingKey, Option<EncodingKey>);

fn shared(secret: &str) -> Result<Pair, String> {
    if secret.len() < MIN_SECRET_BYTES {
        return Err(format!("a secret for HS256 has at least {MIN_SECRET_BYTES} bytes"));
    }
    // A public key used as a secret is a secret everybody has.
    if secret.contains("-----BEGIN") {
        return Err("a PEM key is no secret for HS256; say alg = \"RS256\" or \"ES256\"".into());
    }
    let bytes = secret.as_bytes();
    Ok((DecodingKey::from_secret(bytes), Some(EncodingKey::from_secret(bytes))))
}

fn rsa(pem: &str) -> Result<Pair, String> {
    if is_private(pem) {
        let private = EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| no_key("RSA"))?;
        let pair = RsaKeyPair::from_der(private.as_bytes()).map_err(|_| no_key("RSA"))?;
        let public = DecodingKey::from_rsa_der(pair.public_key().as_ref());
        return Ok((public, Some(private)));
    }
    let public = DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|_| no_key("RSA"))?;
    check(&public, &RSA_PKCS1_2048_8192_SHA256, "RSA")?;
    Ok((public, None))
}

fn ec(pem: &str) -> Result<Pair, String> {
    const KIND: &str = "P-256";
    if is_private(pem) {
        let private = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| no_key(KIND))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, private.as_bytes())
            .map_err(|_| no_key(KIND))?;
        let public = DecodingKey::from_ec_der(pair.public_key().as_ref());
        return Ok((public, Some(private)));
    }
    let public = DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| no_key(KIND))?;
    check(&public, &ECDSA_P256_SHA256_FIXED, KIND)?;
    Ok((public, None))
}

/// Whether the library will really verify with it: it looks at a key's size and curve only then.
fn check(
    key: &DecodingKey,
    algorithm: &'static dyn VerificationAlgorithm,
    kind: &str,
) -> Result<(), String> {
    let bytes = key.try_get_as_bytes().map_err(|_| no_key(kind))?;
    ParsedPublicKey::new(algorithm, bytes).map_err(|_| no_key(kind))?;
    Ok(())
}

fn is_private(pem: &str) -> bool {
    pem.contains("PRIVATE KEY-----")
}

fn no_key(kind: &str) -> String {
    let size = if kind == "RSA" { " of 2048 to 8192 bits" } else { "" };
    format!("holds no {kind} key{size} in PEM (public, or private as PKCS#8)")
}

/// Judges tokens.
#[derive(Debug)]
pub struct Verifier {
    config: JwtConfig,
    keys: Vec<Key>,
}

impl Verifier {
    /// Reads the keys.
    ///
    /// # Errors
    /// With the first key that is none.
    pub fn new(config: JwtConfig) -> Result<Self, String> {
        let keys = config.keys.iter().map(Key::new).collect::<Result<_, _>>()?;
        Ok(Self { config, keys })
    }

    /// The configuration it was made from.
    #[must_use]
    pub const fn config(&self) -> &JwtConfig {
        &self.config
    }

    /// Who the token says it is, if it says so rightly at that time.
    ///
    /// # Errors
    /// With the reason, for the log.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Principal, Refused> {
        if token.len() > MAX_BYTES {
            return Err(Refused::Shape);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(Refused::Shape)?;
        let (header, claims) = message.split_once('.').ok_or(Refused::Shape)?;
        let (header, claims) = (object(header)?, object(claims)?);
        let (algorithm, id) = judge_header(&header)?;
        // The signature first: nothing unsigned is looked at any further.
        let mut refused = Refused::NoKey;
        let mut keys = self.keys.iter().filter(|key| key.is_for(algorithm, id));
        let signed = keys.any(|key| {
            refused = Refused::Signature;
            let algorithm = library(algorithm);
            crypto::verify(signature, message.as_bytes(), &key.decoding, algorithm).unwrap_or(false)
        });
        if signed { self.judge_claims(&claims, now) } else { Err(refused) }
    }

    fn judge_claims(
        &self,
        claims: &Map<String, Value>,
        now: SystemTime,
    ) -> Result<Principal, Refused> {
        let leeway = self.config.leeway;
        let expires_at = time(claims, "exp")?.ok_or(Refused::Time)? + leeway;
        if now >= expires_at {
            return Err(Refused::Expired);
        }
        if time(claims, "nbf")?.is_some_and(|begins| begins > now + leeway) {
            return Err(Refused::NotYet);
        }
        if let Some(issuer) = &self.config.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(Refused::Issuer);
        }
        if !self.config.audience.is_empty() && !self.is_for_us(claims.get("aud")) {
            return Err(Refused::Audience);
        }
        let name = claim(claims, &self.config.user_claim).and_then(Value::as_str);
        let name = name.filter(|name| destination::is_user_name(name)).ok_or(Refused::User)?;
        let roles = roles(claim(claims, &self.config.roles_claim))?;
        Ok(Principal { name: Arc::from(name), roles, expires_at: Some(expires_at) })
    }

    /// One name, or a list of names and nothing else.
    fn is_for_us(&self, audience: Option<&Value>) -> bool {
        let ours = |name: &str| self.config.audience.iter().any(|own| own == name);
        match audience {
            Some(Value::String(name)) => ours(name),
            Some(Value::Array(names)) => {
                names.iter().all(Value::is_string)
                    && names.iter().filter_map(Value::as_str).any(ours)
            }
            _ => false,
        }
    }

    /// Signs a token with the first key that can.
    ///
    /// # Errors
    /// Where no key can, or the name is no user's.
    pub fn sign(
        &self,
        user: &str,
        roles: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, String> {
        if !destination::is_user_name(user) {
            return Err("a user name has 1 to 128 bytes and no control characters".into());
        }
        let signer = self.keys.iter().find_map(|key| Some((key, key.encoding.as_ref()?)));
        let (key, encoding) =
            signer.ok_or("no key in auth.jwt.keys can sign: it takes a secret or a private key")?;
        let now = now.duration_since(UNIX_EPOCH).map_err(|_| "the clock is before 1970")?.as_secs();
        let mut claims = Map::new();
        claims.insert("iat".into(), json!(now));
        claims.insert("exp".into(), json!(now.saturating_add(ttl.as_secs()).min(MAX_TIME)));
        if let Some(issuer) = &self.config.issuer {
            claims.insert("iss".into(), json!(issuer));
        }
        if let Some(audience) = self.config.audience.first() {
            claims.insert("aud".into(), json!(audience));
        }
        if !roles.is_empty() {
            insert(&mut claims, &self.config.roles_claim, json!(roles));
        }
        insert(&mut claims, &self.config.user_claim, json!(user));
        let header = Header { kid: key.id.clone(), ..Header::new(library(key.algorithm)) };
        jsonwebtoken::encode(&header, &claims, encoding)
            .map_err(|error| format!("cannot sign: {error}"))
    }
}

const fn library(algorithm: JwtAlgorithm) -> Algorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => Algorithm::HS256,
        JwtAlgorithm::Rs256 => Algorithm::RS256,
        JwtAlgorithm::Es256 => Algorithm::ES256,
    }
}

/// A part of a token: base64url without padding, then one JSON object.
fn object(part: &str) -> Result<Map<String, Value>, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refused::Shape)?;
    match serde_json::from_slice(&bytes) {
        Ok(Strict(Value::Object(object))) => Ok(object),
        _ => Err(Refused::Shape),
    }
}

fn judge_header(header: &Map<String, Value>) -> Result<(JwtAlgorithm, Option<&str>), Refused> {
    // Extensions that change what the token means (RFC 7515 4.1.11, RFC 7797, RFC 7516).
    if ["crit", "b64", "zip", "enc"].iter().any(|name| header.contains_key(*name)) {
        return Err(Refused::Header);
    }
    let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Refused::Header)?;
    let id = match header.get("kid") {
        None => None,
        Some(id) => Some(id.as_str().ok_or(Refused::Header)?),
    };
    Ok((JwtAlgorithm::from_name(algorithm).ok_or(Refused::NoKey)?, id))
}

/// A time in whole seconds since 1970.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<SystemTime>, Refused> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_u64().filter(|seconds| *seconds <= MAX_TIME).ok_or(Refused::Time)?;
    Ok(Some(UNIX_EPOCH + Duration::from_secs(seconds)))
}

/// The claim of that very name, or the one its dots lead to.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        claim(claims.get(first)?.as_object()?, rest)
    })
}

fn insert(claims: &mut Map<String, Value>, name: &str, value: Value) {
    match name.split_once('.') {
        // The name of a claim that is an address has dots of its own.
        Some((first, rest)) if !name.contains("://") => {
            let inner = claims.entry(first).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
        _ => {
            claims.insert(name.into(), value);
        }
    }
}

/// A list of texts, or one text with spaces between.
fn roles(value: Option<&Value>) -> Result<Vec<String>, Refused> {
    let roles: Vec<String> = match value {
        None => Vec::new(),
        Some(Value::String(text)) => text.split_ascii_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or(Refused::Roles))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(Refused::Roles),
    };
    if roles.len() > MAX_ROLES { Err(Refused::Roles) } else { Ok(roles) }
}

/// JSON in which no object has a name twice: two readers could each see another one. How deep it
/// goes is limited by `serde_json`.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if out.contains_key(&name) {
                return Err(A::Error::custom("a name stands twice"));
            }
            let Strict(value) = entries.next_value()?;
            out.insert(name, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests;
