//! The configuration: file, environment and flags, judged once, every mistake named.
//!
//! Each part of the program gets a plain struct of its own; nobody else reads keys.

mod build;
mod keys;
mod login;
mod print;
mod sockjs;
mod source;
mod types;
pub mod values;

use std::fmt;
use std::io::{self, Write};

pub use types::*;

pub use crate::auth::policy::RuleConfig;
pub use crate::auth::{AuthConfig, JwtAlgorithm, JwtConfig, JwtKeyConfig, LinkKind, UsersConfig};
use crate::cli::Serve;
use source::Settings;

/// One mistake, with its key and, where it is in a file, its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigMistake {
    pub file: Option<String>,
    pub line: Option<usize>,
    pub key: String,
    pub text: String,
}

impl ConfigMistake {
    /// Whether a printed config is read again, whose secrets are no more there.
    #[must_use]
    pub fn is_redaction(&self) -> bool {
        self.text == build::REDACTION
    }
}

impl fmt::Display for ConfigMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: ")?,
            (Some(file), None) => write!(f, "{file}: ")?,
            (None, _) => {}
        }
        write!(f, "{}: {}", self.key, self.text)
    }
}

impl Config {
    /// Reads the config file, the environment and the flags, and judges all of it.
    ///
    /// # Errors
    /// With every mistake, those of the file in the order of its lines.
    pub fn load(
        cli: &Serve,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Vec<ConfigMistake>> {
        let mut settings = Settings::read(cli, env);
        let config = build(&mut settings);
        finish(&mut settings, config)
    }

    /// The same, and writes all keys with their values as TOML. Secrets are not written. That
    /// nobody could log in is no obstacle here.
    ///
    /// # Errors
    /// With every mistake, or where `out` cannot be written.
    pub fn print(
        cli: &Serve,
        env: impl Iterator<Item = (String, String)>,
        out: &mut impl Write,
    ) -> io::Result<Result<(), Vec<ConfigMistake>>> {
        let mut settings = Settings::read(cli, env);
        let config = build(&mut settings);
        settings.mistakes.retain(|mistake| mistake.text != login::NO_LOGIN);
        settings.mistakes.retain(|mistake| !mistake.is_redaction());
        match finish(&mut settings, config) {
            Ok(_) => print::print(&settings, out).map(Ok),
            Err(mistakes) => Ok(Err(mistakes)),
        }
    }
}

fn build(settings: &mut Settings) -> Config {
    let before = settings.broken.then(|| settings.mistakes.clone());
    let config = build::build(settings);
    if let Some(before) = before {
        // What else is wrong may be so only because the file is not there.
        settings.mistakes = before;
    }
    config
}

fn finish(settings: &mut Settings, config: Config) -> Result<Config, Vec<ConfigMistake>> {
    let mut mistakes = std::mem::take(&mut settings.mistakes);
    if mistakes.is_empty() {
        return Ok(config);
    }
    mistakes.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Err(mistakes)
}

#[cfg(test)]
mod tests;
