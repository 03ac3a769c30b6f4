//! The command line.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use conformance_tests::{Level, Profile, Version};

/// Plays STOMP conversations to a server and says, byte for byte, where it answers otherwise.
///
/// Exit code 0: no MUST fails beyond what is expected; 1: one does, or a listed difference is
/// gone; 2: nothing could be played; 130: interrupted.
#[derive(Parser)]
#[command(
    name = "stomp-conformance",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "The account must be allowed to use queues and topics named conf-*. \
                  Queues are left behind."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) suite: Suite,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make one Markdown page of runs that were written by --format json
    Table(Table),
}

#[derive(Args)]
pub(crate) struct Table {
    /// Write the page there, and not to standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Files written by --format json; those of one label make one column
    #[arg(required = true, value_name = "RUN.json")]
    pub(crate) runs: Vec<PathBuf>,
}

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Suite {
    /// tcp://HOST[:61613], tls://HOST[:61614], ws://HOST[:80]/PATH, wss://HOST[:443]/PATH, or of
    /// SockJS http://HOST[:80]/PATH, https://HOST[:443]/PATH
    #[arg(required_unless_present = "list")]
    pub(crate) url: Option<String>,

    /// Whom to log in as; '' sends neither login nor passcode
    #[arg(long, default_value = "guest", help_heading = "Account")]
    pub(crate) login: String,
    #[arg(
        long,
        default_value = "guest",
        env = "STOMP_PASSCODE",
        hide_env_values = true,
        help_heading = "Account"
    )]
    pub(crate) passcode: String,
    /// CONNECT's host: a virtual host where the server has some
    #[arg(long, default_value = "/", help_heading = "Account")]
    pub(crate) host: String,
    /// A header of CONNECT
    #[arg(long, value_name = "NAME:VALUE", help_heading = "Account")]
    pub(crate) connect_header: Vec<String>,
    /// A header of the HTTP request for a WebSocket or SockJS, such as 'Cookie: a=b'
    #[arg(long, value_name = "NAME:VALUE", help_heading = "Account")]
    pub(crate) header: Vec<String>,

    /// Trust the root certificates of this PEM file, and no others
    #[arg(long, value_name = "FILE", conflicts_with = "insecure", help_heading = "Connection")]
    pub(crate) ca: Option<PathBuf>,
    /// Take any certificate: whoever sits on the way can read and change everything
    #[arg(long, help_heading = "Connection")]
    pub(crate) insecure: bool,
    /// Seconds an answer may take
    #[arg(
        long,
        default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(1..=600),
        help_heading = "Connection"
    )]
    pub(crate) timeout: u64,
    /// Cases played at a time
    #[arg(
        long,
        default_value_t = 8,
        value_parser = clap::value_parser!(u8).range(1..=64),
        help_heading = "Connection"
    )]
    pub(crate) jobs: u8,

    /// Versions to play, such as 1.1,1.2
    #[arg(
        long,
        default_value = "all",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(["1.0", "1.1", "1.2", "all"]),
        help_heading = "Cases"
    )]
    pub(crate) stomp: Vec<String>,
    /// The least binding level to play [default: may; field with a profile other than spec]
    #[arg(long, value_parser = level(), help_heading = "Cases")]
    pub(crate) level: Option<Level>,
    /// Cases to play: a pattern of id/version/transport, such as 'ack-*/1.2'
    #[arg(long, value_name = "PATTERN", help_heading = "Cases")]
    pub(crate) only: Vec<String>,
    /// Leave out cases with this tag, such as slow
    #[arg(long, value_name = "TAG", help_heading = "Cases")]
    pub(crate) skip_tag: Vec<String>,
    /// Print the cases and play none
    #[arg(long, help_heading = "Cases")]
    pub(crate) list: bool,

    /// Which server it is
    #[arg(
        long,
        default_value = "spec",
        value_parser = PossibleValuesParser::new(Profile::NAMES),
        help_heading = "What is expected"
    )]
    pub(crate) profile: String,
    /// What the names of queues and topics begin with
    #[arg(
        long,
        value_name = "PREFIXES",
        default_value = "queue=/queue/,topic=/topic/",
        help_heading = "What is expected"
    )]
    pub(crate) destination_prefixes: String,
    /// Known differences beside those of the profile
    #[arg(long, value_name = "FILE", help_heading = "What is expected")]
    pub(crate) expected: Option<PathBuf>,
    /// Write such a list, so that the next run is as expected
    #[arg(long, value_name = "FILE", help_heading = "What is expected")]
    pub(crate) write_expected: Option<PathBuf>,
    /// Failures of this level, or of a more binding one, make exit code 1
    #[arg(long, default_value = "must", value_parser = level(), help_heading = "What is expected")]
    pub(crate) fail_on: Level,

    #[arg(long, value_enum, default_value_t = Format::Text, help_heading = "Report")]
    pub(crate) format: Format,
    /// What to call the server in a report [default: what it calls itself, else the profile]
    #[arg(long, help_heading = "Report")]
    pub(crate) label: Option<String>,
    /// Print passed cases and known differences too
    #[arg(long, help_heading = "Report")]
    pub(crate) verbose: bool,
    /// Say on standard error how far it is, also where that is no terminal
    #[arg(long, help_heading = "Report")]
    pub(crate) progress: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// Everything, for `stomp-conformance table` and for other programs
    Json,
    /// For GitLab, Jenkins and others
    Junit,
}

impl Suite {
    /// Empty: all.
    pub(crate) fn versions(&self) -> Vec<Version> {
        if self.stomp.iter().any(|name| name == "all") {
            return Vec::new();
        }
        self.stomp.iter().filter_map(|name| Version::from_name(name)).collect()
    }
}

fn level() -> impl TypedValueParser<Value = Level> {
    PossibleValuesParser::new(Level::ALL.map(Level::name))
        .map(|name| Level::from_name(&name).unwrap_or(Level::Field))
}

/// `NAME:VALUE`. What is wrong with it is said without the text, which may be a secret.
pub(crate) fn header(text: &str, flag: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("{flag} takes NAME:VALUE, and there is no colon"))?;
    Ok((name.trim().to_owned(), value.trim_start_matches(' ').to_owned()))
}

/// `queue=/queue/,topic=/topic/`: either may be left out.
pub(crate) fn prefixes(text: &str) -> Result<(String, String), String> {
    let (mut queues, mut topics) = ("/queue/", "/topic/");
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("queue", prefix)) => queues = prefix,
            Some(("topic", prefix)) => topics = prefix,
            _ => {
                return Err(format!(
                    "--destination-prefixes takes queue=PREFIX,topic=PREFIX, not `{part}`"
                ));
            }
        }
    }
    Ok((queues.to_owned(), topics.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines() {
        let cases: [(&[&str], bool); 14] = [
            (&["tcp://a"], true),
            (&[], false),
            (&["--list"], true),
            (&["tcp://a", "--stomp", "1.1,1.2"], true),
            (&["tcp://a", "--stomp", "1.3"], false),
            (&["tcp://a", "--level", "should", "--fail-on", "field"], true),
            (&["tcp://a", "--level", "shall"], false),
            (&["tcp://a", "--profile", "other"], false),
            (&["tcp://a", "--jobs", "0"], false),
            (&["tcp://a", "--ca", "x", "--insecure"], false),
            (&["tcp://a", "--format", "xml"], false),
            (&["table", "a.json"], true),
            (&["table"], false),
            (&["table", "a.json", "--out", "b.md"], true),
        ];
        for (words, expected) in cases {
            let words = std::iter::once("stomp-conformance").chain(words.iter().copied());
            let words: Vec<&str> = words.collect();
            assert_eq!(Cli::try_parse_from(&words).is_ok(), expected, "{words:?}");
        }
    }

    #[test]
    fn versions() {
        let of = |list: &str| {
            let cli = Cli::try_parse_from(["x", "tcp://a", "--stomp", list]).unwrap();
            cli.suite.versions()
        };
        assert_eq!(of("1.0,1.2"), [Version::V10, Version::V12]);
        assert_eq!(of("all"), []);
    }

    #[test]
    fn headers_and_prefixes() {
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(header("Cookie: a=b:c", "--header"), pair("Cookie", "a=b:c"));
        assert_eq!(header("x:", "--header"), pair("x", ""));
        assert!(!header("s3cret", "--header").unwrap_err().contains("s3cret"));
        assert_eq!(prefixes("queue=a.,topic=queue://"), pair("a.", "queue://"));
        assert_eq!(prefixes("topic="), pair("/queue/", ""));
        assert!(prefixes("queues=/q/").is_err());
    }
}
