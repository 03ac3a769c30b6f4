//! What the login is configured with, validated.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::secret::Secret;

/// One link of the login chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    Jwt,
    Users,
}

impl LinkKind {
    /// The name in `auth.chain`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Users => "users",
        }
    }
}

/// The login chain, in order; every link in it has its configuration.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    pub chain: Vec<LinkKind>,
    pub jwt: Option<JwtConfig>,
    pub users: Option<UsersConfig>,
    /// Wrong passwords a minute from one address for one user; none: unlimited.
    pub failures_per_minute: Option<NonZeroU32>,
}

/// Where the accounts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsersConfig {
    /// Lines of `name:argon2id-hash[:role,role]`.
    File(PathBuf),
    /// The accounts of `--dev`; their passwords are their names.
    Dev,
}

/// How tokens are judged.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    pub keys: Vec<JwtKeyConfig>,
    /// Required where set.
    pub issuer: Option<String>,
    /// Where not empty, a token names at least one of them.
    pub audience: Vec<String>,
    /// The claim that is the user's name.
    pub user_claim: String,
    /// The claim that holds the roles; dots lead into objects.
    pub roles_claim: String,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// The cookie that may hold a token.
    pub cookie: Option<String>,
    /// The query parameter that may hold a token.
    pub query: Option<String>,
}

/// A key and the one algorithm it is for.
#[derive(Clone, Debug)]
pub struct JwtKeyConfig {
    pub algorithm: JwtAlgorithm,
    /// The `kid` of tokens signed by it; none: tokens of any.
    pub id: Option<String>,
    /// HS256: the secret's bytes. RS256, ES256: PEM, public or private.
    pub material: Secret,
}

/// Signature algorithms that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    Hs256,
    Rs256,
    Es256,
}

impl JwtAlgorithm {
    /// The name in `alg`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }

    /// The algorithm of that very name; case matters.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Hs256, Self::Rs256, Self::Es256].into_iter().find(|alg| alg.name() == name)
    }
}
