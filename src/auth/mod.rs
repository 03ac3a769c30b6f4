//! Who is at the door, and what they may do.

mod config;
mod error;
mod failures;
pub mod http;
pub mod jwt;
pub mod policy;
pub mod secret;
pub mod users;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

pub use config::{AuthConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, LinkKind, UsersConfig};
pub use error::AuthError;

use self::http::Credential;
use crate::stomp::Headers;

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub name: Arc<str>,
    pub roles: Vec<String>,
    /// When the login ends by itself.
    pub expires_at: Option<SystemTime>,
}

/// The configured logins, in order; the first that recognises credentials decides.
#[derive(Debug)]
pub struct Authenticator {
    chain: Vec<Link>,
}

enum Link {
    Jwt(Box<jwt::Verifier>),
    Users(Box<users::Users>),
}

impl Authenticator {
    /// Reads keys and accounts.
    ///
    /// # Errors
    /// With what is wrong, one line each.
    pub fn new(config: &AuthConfig) -> Result<Self, Vec<String>> {
        let mut chain = Vec::new();
        for kind in &config.chain {
            match kind {
                LinkKind::Jwt => {
                    let jwt = config.jwt.clone().ok_or_else(|| missing(*kind))?;
                    let jwt = jwt::Verifier::new(jwt).map_err(|text| vec![text])?;
                    chain.push(Link::Jwt(Box::new(jwt)));
                }
                LinkKind::Users => {
                    let users = config.users.clone().ok_or_else(|| missing(*kind))?;
                    let texts = |mistakes: Vec<users::UsersMistake>| {
                        mistakes.iter().map(ToString::to_string).collect::<Vec<_>>()
                    };
                    let users =
                        users::Users::new(users, config.failures_per_minute).map_err(texts)?;
                    chain.push(Link::Users(Box::new(users)));
                }
            }
        }
        Ok(Self { chain })
    }

    /// Judges the credentials of an HTTP request: `Authorization`, a `bearer.` subprotocol, and
    /// the cookie and query parameter that are configured. `None`: there are none.
    ///
    /// # Errors
    /// Where one is wrong, or two are of different users.
    pub async fn handshake(
        &self,
        head: &::http::request::Parts,
        peer: IpAddr,
    ) -> Result<Option<Principal>, AuthError> {
        let jwt = self.chain.iter().find_map(|link| match link {
            Link::Jwt(verifier) => Some(verifier.config()),
            Link::Users(_) => None,
        });
        let credentials = http::credentials(head, jwt)?;
        let mut who: Option<Principal> = None;
        for link in &self.chain {
            for credential in &credentials {
                let principal = match (link, credential) {
                    (Link::Jwt(verifier), Credential::Token(token)) => {
                        token_holder(verifier, token.expose())?
                    }
                    (Link::Users(users), Credential::Password { user, password }) => {
                        users.verify(user, password.expose(), peer).await?
                    }
                    (Link::Users(_), Credential::Broken) => return Err(AuthError::refused("")),
                    (Link::Jwt(_) | Link::Users(_), _) => continue,
                };
                match &who {
                    Some(first) if first.name != principal.name => return Err(AuthError::Conflict),
                    Some(_) => {}
                    None => who = Some(principal),
                }
            }
        }
        Ok(who)
    }

    /// Judges the credentials of a CONNECT: a token in the header `Authorization` or `token`, or
    /// as passcode; else `login` and `passcode`.
    ///
    /// # Errors
    /// `Missing` where there are none, else why they are not taken.
    pub async fn connect(&self, headers: &Headers, peer: IpAddr) -> Result<Principal, AuthError> {
        let (login, passcode) = (headers.get("login"), headers.get("passcode"));
        for link in &self.chain {
            match link {
                Link::Jwt(verifier) => {
                    if let Some(token) = connect_token(headers) {
                        return token_holder(verifier, token);
                    }
                }
                Link::Users(users) => {
                    if let (Some(login), Some(passcode)) = (login, passcode) {
                        return users.verify(login, passcode, peer).await;
                    }
                }
            }
        }
        match (login, passcode) {
            // Something was there, but nothing that a configured login could judge.
            (Some(login), Some(_)) => Err(AuthError::refused(login)),
            _ => Err(AuthError::Missing),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jwt(_) => "jwt",
            Self::Users(_) => "users",
        })
    }
}

fn missing(kind: LinkKind) -> Vec<String> {
    vec![format!("auth.chain names {} without its configuration", kind.name())]
}

fn token_holder(verifier: &jwt::Verifier, token: &str) -> Result<Principal, AuthError> {
    verifier.verify(token, SystemTime::now()).map_err(|reason| {
        tracing::info!(?reason, "a token was refused");
        AuthError::refused("")
    })
}

fn connect_token(headers: &Headers) -> Option<&str> {
    let authorization = headers.get("Authorization").or_else(|| headers.get("authorization"));
    let bearer = authorization.and_then(http::bearer);
    let passcode = || headers.get("passcode").filter(|passcode| looks_like_token(passcode));
    bearer.or_else(|| headers.get("token")).or_else(passcode)
}

/// Three parts, the first of which begins as a JSON object does in base64.
fn looks_like_token(text: &str) -> bool {
    text.starts_with("eyJ") && text.bytes().filter(|byte| *byte == b'.').count() == 2
}

#[cfg(test)]
mod tests;
