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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    const LOGIN: &str = "[[auth.jwt.keys]]\nalg = \"HS256\"\n\
        secret = \"0123456789abcdef0123456789abcdef\"\n[auth.jwt]\naudience = \"us\"\n";

    fn serve(dir: &TempDir, text: &str) -> cli::Serve {
        let path = dir.path().join("relay.toml");
        std::fs::write(&path, text).unwrap();
        cli::Serve { config: Some(path), ..cli::Serve::default() }
    }

    /// Exit code, output, errors.
    type Ran = (u8, String, String);

    fn run(command: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>) -> io::Result<u8>) -> Ran {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = command(&mut out, &mut err).unwrap();
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn check(cli: &cli::Serve) -> Ran {
        run(|out, err| check_config(cli, std::iter::empty(), out, err))
    }

    #[test]
    fn check_and_print() {
        let dir = TempDir::new().unwrap();
        let good = serve(&dir, LOGIN);
        assert_eq!(check(&good), (0, "The configuration is valid.\n".into(), String::new()));
        let (code, text, err) = run(|out, err| print_config(&good, std::iter::empty(), out, err));
        assert_eq!((code, err.as_str()), (0, ""));
        let (code, out, err) = check(&serve(&dir, &text));
        assert_eq!((code, out.as_str()), (0, "The configuration is valid.\n"), "{err}");
        assert!(err.contains("secret") && err.contains("left out"), "{err}");
        let bad = serve(&dir, &format!("a = 1\nb = 2\n{LOGIN}"));
        let (code, out, err) = check(&bad);
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 2));
        let (code, out, err) = run(|out, err| print_config(&bad, std::iter::empty(), out, err));
        assert_eq!((code, out.as_str(), err.lines().count()), (1, "", 2));
    }

    #[test]
    fn a_hashed_password_logs_in() {
        let hash = |text: &str| run(|out, err| hash_password(&mut text.as_bytes(), out, err));
        let (code, out, _) = hash("s3cret\r\nmore\n");
        assert_eq!(code, 0);
        assert!(users::parse(&format!("alice:{out}")).is_ok());
        assert_eq!(hash("\n").0, 1);
        assert_eq!(hash("").0, 1);
    }

    #[test]
    fn a_signed_token_is_taken() {
        let dir = TempDir::new().unwrap();
        let mut cli = cli::Token {
            config: serve(&dir, LOGIN).config,
            user: "alice".into(),
            ttl: Duration::from_secs(60),
            roles: vec!["ops".into()],
        };
        let sign = |cli: &cli::Token| run(|out, err| token(cli, std::iter::empty(), out, err));
        let (code, out, _) = sign(&cli);
        assert_eq!(code, 0);
        let config = Config::load(&serve(&dir, LOGIN), std::iter::empty()).unwrap();
        let verifier = jwt::Verifier::new(config.auth.jwt.unwrap()).unwrap();
        let principal = verifier.verify(out.trim_end(), SystemTime::now()).unwrap();
        assert_eq!((&*principal.name, principal.roles), ("alice", vec!["ops".to_owned()]));
        cli.user = "a\nb".into();
        assert_eq!(sign(&cli).0, 1);
    }
}
