//! The command line: its words only, no meaning.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// A STOMP-over-WebSocket broker relay.
#[derive(Debug, Parser)]
#[command(name = "stomp-relay", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// None: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
}

impl Cli {
    /// The command, with `serve` where none was written.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay (the default).
    Serve(Serve),
    /// Print every mistake in the configuration with its key and line; exit 1 if there is one.
    CheckConfig(Serve),
    /// Print all keys with their values and defaults.
    PrintConfig(Serve),
    /// Read a password from standard input and print its hash for the users file.
    HashPassword,
    /// Sign a JWT with the first configured key that can sign.
    Token(Token),
}

/// What `serve` takes. Each flag is a key of the config, and an environment variable.
#[derive(Args, Clone, Debug, Default)]
pub struct Serve {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where HTTP and WebSocket are served.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where health, metrics and the dashboard are served.
    #[arg(long, value_name = "ADDR")]
    pub admin_listen: Option<String>,
    /// Where plain STOMP is served; "off" for nowhere.
    #[arg(long, value_name = "ADDR")]
    pub tcp_listen: Option<String>,
    /// embedded:[PATH], or amqp:// and amqps:// addresses separated by commas.
    #[arg(long, value_name = "URL")]
    pub broker: Option<String>,
    /// sqlite:PATH, redis://, rediss:// or memory:.
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// For trying things out: loopback only, accounts like alice/alice, everything allowed.
    #[arg(long)]
    pub dev: bool,
}

#[derive(Args, Clone, Debug)]
pub struct Token {
    /// The config file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Whose token it is.
    #[arg(long, value_name = "NAME")]
    pub user: String,
    /// How long it is good for: 90s, 15m, 1h, 7d.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
    pub ttl: Duration,
    /// A role; may be repeated.
    #[arg(long = "role", value_name = "ROLE")]
    pub roles: Vec<String>,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let time = crate::config::values::parse_time(text)?;
    if time.as_secs() == 0 {
        return Err("a token is good for at least 1s".into());
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn words() {
        Cli::command().debug_assert();
        let serve = Cli::try_parse_from(["stomp-relay", "--dev", "--broker", "embedded:"]).unwrap();
        assert!(matches!(serve.into_command(), Command::Serve(serve) if serve.dev));
        let serve = Cli::try_parse_from(["stomp-relay", "serve", "--config", "x"]).unwrap();
        assert!(matches!(serve.into_command(), Command::Serve(serve) if serve.config.is_some()));
        let token = ["stomp-relay", "token", "--user", "a", "--role", "x", "--role", "y"];
        let token = Cli::try_parse_from(token).unwrap().into_command();
        assert!(matches!(token, Command::Token(token)
            if token.roles == ["x", "y"] && token.ttl == Duration::from_secs(3600)));
        for wrong in [vec!["token"], vec!["token", "--user", "a", "--ttl", "0s"], vec!["--what"]] {
            assert!(Cli::try_parse_from([vec!["stomp-relay"], wrong].concat()).is_err());
        }
    }
}
