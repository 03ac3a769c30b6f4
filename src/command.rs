//! The commands that only read and print.

use std::io::{self, BufRead, Write};
use std::time::SystemTime;

use crate::auth::{jwt, users};
use crate::cli;
use crate::config::{Config, ConfigMistake};

/// What a command exits with where something is wrong.
const FAILURE: u8 = 1;

/// `check-config`: one line where all is well; else every mistake, and exit code 1.
///
/// # Errors
/// Where the output cannot be written.
pub fn check_config(
    cli: &cli::Serve,
    env: impl Iterator<Item = (String, String)>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let (warnings, mistakes) = match Config::load(cli, env) {
        Ok(config) => (config.warnings, Vec::new()),
        Err(mistakes) => (Vec::new(), mistakes),
    };
    let (redacted, mistakes): (Vec<_>, Vec<_>) =
        mistakes.into_iter().partition(ConfigMistake::is_redaction);
    for warning in warnings.iter().cloned().chain(redacted.iter().map(ToString::to_string)) {
        writeln!(err, "warning: {warning}")?;
    }
    if mistakes.is_empty() {
        writeln!(out, "The configuration is valid.")?;
        return Ok(0);
    }
    print_mistakes(&mistakes, err)?;
    Ok(FAILURE)
}

/// `print-config`: all keys with their values, as a config file that says the same.
///
/// # Errors
/// Where the output cannot be written.
pub fn print_config(
    cli: &cli::Serve,
    env: impl Iterator<Item = (String, String)>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    match Config::print(cli, env, out)? {
        Ok(()) => Ok(0),
        Err(mistakes) => {
            print_mistakes(&mistakes, err)?;
            Ok(FAILURE)
        }
    }
}

/// `hash-password`: one line in, its argon2id hash out.
///
/// # Errors
/// Where the input cannot be read or the output cannot be written.
pub fn hash_password(
    input: &mut impl BufRead,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        writeln!(err, "no password on standard input")?;
        return Ok(FAILURE);
    }
    print(users::hash(password), out, err)
}

/// `token`: a JWT for that user.
///
/// # Errors
/// Where the output cannot be written.
pub fn token(
    cli: &cli::Token,
    env: impl Iterator<Item = (String, String)>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let serve = cli::Serve { config: cli.config.clone(), ..cli::Serve::default() };
    let config = match Config::load(&serve, env) {
        Ok(config) => config,
        Err(mistakes) => {
            print_mistakes(&mistakes, err)?;
            return Ok(FAILURE);
        }
    };
    let Some(jwt) = config.auth.jwt else {
        writeln!(err, "there is no key to sign with: write [[auth.jwt.keys]]")?;
        return Ok(FAILURE);
    };
    let signed = jwt::Verifier::new(jwt)
        .and_then(|jwt| jwt.sign(&cli.user, &cli.roles, cli.ttl, SystemTime::now()));
    print(signed, out, err)
}

/// Every mistake, one per line.
///
/// # Errors
/// Where it cannot be written.
pub fn print_mistakes(mistakes: &[ConfigMistake], err: &mut impl Write) -> io::Result<()> {
    mistakes.iter().try_for_each(|mistake| writeln!(err, "{mistake}"))
}

fn print(
    result: Result<String, String>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    match result {
        Ok(text) => writeln!(out, "{text}").map(|()| 0),
        Err(text) => writeln!(err, "{text}").map(|()| FAILURE),
    }
}
