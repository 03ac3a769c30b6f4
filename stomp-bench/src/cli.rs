//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::churn::{Churn, Kind};
use crate::connect::Connect;
use crate::connection::{Target, Url};
use crate::idle::Idle;
use crate::load::{Ack, Counted, Load, Pace, Shape, Until};
use crate::stamp;

/// Puts a STOMP server under load over ws:// or tcp://, and says what that costs the server and
/// how long messages take.
#[derive(Debug, Parser)]
#[command(name = "stomp-bench", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Few publishers, many subscribers of their topics
    Fanout(FanoutArgs),
    /// Publishers and subscribers in pairs, each with a topic of their own
    Pairs(PairsArgs),
    /// Consumers that compete for the messages of a queue
    Queue(QueueArgs),
    /// Publishers to queues that nobody reads, which wait for their RECEIPTs
    Publish(PublishArgs),
    /// Sessions that do nothing: memory of each, also after a burst and a large SEND
    Idle(IdleArgs),
    /// Connect, log in, subscribe
    Connect(ConnectArgs),
    /// Sessions or subscriptions that come and go
    Churn(ChurnArgs),
    /// A server that does the least a server can: a floor to compare with
    Floor(FloorArgs),
    /// A Markdown table of medians and ratios from files of --json lines
    Table(TableArgs),
}

/// Where, who, and what is watched.
#[derive(Debug, Args)]
pub struct Common {
    /// ws://HOST:PORT/PATH or tcp://HOST:PORT
    pub url: Url,
    /// A process of the server (repeat it, or separate with commas): CPU and memory are read from /proc
    #[arg(long, value_delimiter = ',')]
    pub pid: Vec<u32>,
    #[arg(long)]
    pub login: Option<String>,
    #[arg(long, env = "STOMP_BENCH_PASSCODE", hide_env_values = true, default_value = "")]
    pub passcode: String,
    /// The host header of CONNECT
    #[arg(long, default_value = "/")]
    pub host: String,
    /// A line of the HTTP request, as in 'Authorization: Bearer TOKEN'
    #[arg(long = "http-header", env = "STOMP_BENCH_HTTP_HEADER", hide_env_values = true)]
    pub http_headers: Vec<String>,
    /// For servers that send no RECEIPT to SUBSCRIBE
    #[arg(long)]
    pub no_receipts: bool,
    /// All subscriptions have the same id, instead of one of their own as clients' UUIDs are
    #[arg(long)]
    pub same_ids: bool,
    /// Threads of the load generator
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// One line of JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// The server's name, for tables
    #[arg(long, default_value = "")]
    pub label: String,
    /// The name of this work, for tables
    #[arg(long, default_value = "")]
    pub row: String,
}

impl Common {
    #[must_use]
    pub fn target(&self) -> Target {
        Target {
            url: self.url.clone(),
            login: self.login.clone().map(|login| (login, self.passcode.clone())),
            host: self.host.clone(),
            http_headers: self.http_headers.clone(),
            receipts: !self.no_receipts,
            same_ids: self.same_ids,
        }
    }
}

/// How fast, and how long.
#[derive(Debug, Args)]
pub struct Flow {
    /// Messages of a publisher that may be under way
    #[arg(long, default_value_t = 200, value_parser = at_least_one)]
    pub window: usize,
    /// Messages a second of all publishers together, whether or not the server keeps up
    #[arg(long, conflicts_with = "window", value_parser = positive)]
    pub rate: Option<f64>,
    /// Bytes of a body
    #[arg(long, default_value_t = 100, value_parser = body_size)]
    pub size: usize,
    /// Deliveries before anything is measured
    #[arg(long, default_value_t = 20_000)]
    pub warm_up: u64,
    /// Deliveries to measure, at least
    #[arg(long, default_value_t = 300_000)]
    pub deliveries: u64,
    /// Seconds to measure, at least
    #[arg(long, default_value_t = 3.0, value_parser = not_negative)]
    pub time: f64,
    /// Seconds after which it ends, whatever was reached
    #[arg(long, default_value_t = 300.0, value_parser = not_negative)]
    pub limit: f64,
    /// A header of each SEND, as in 'persistent:true'
    #[arg(long = "send-header")]
    pub send_headers: Vec<String>,
    /// A header of each SUBSCRIBE
    #[arg(long = "subscribe-header")]
    pub subscribe_headers: Vec<String>,
    /// The beginning of destinations' names; .0, .1 and so on follow
    #[arg(long)]
    pub destination: Option<String>,
    /// A command for the shell, run when all are connected and before anything is sent: each line
    /// that it prints is a figure's name and a number
    #[arg(long, value_name = "COMMAND")]
    pub look: Option<String>,
}

impl Flow {
    fn load(&self, mode: &'static str, shape: Shape) -> Load {
        let kind = match shape {
            Shape::Topic => "topic",
            Shape::Queue => "queue",
        };
        // Two runs at a time do not meet.
        let name = || format!("/{kind}/bench-{mode}-{}", std::process::id());
        Load {
            mode,
            shape,
            counted: Counted::Deliveries,
            publishers: 1,
            subscribers: 1,
            destinations: 1,
            destination: self.destination.clone().unwrap_or_else(name),
            size: self.size,
            pace: self.rate.map_or(Pace::Window(self.window), Pace::Rate),
            ack: Ack::Auto,
            subscribe_headers: lines(&self.subscribe_headers),
            send_headers: lines(&self.send_headers),
            elsewhere: 0,
            slow: 0,
            slow_rate: 0,
            look: self.look.clone(),
            until: Until {
                warm_up: self.warm_up,
                deliveries: self.deliveries,
                time: Duration::from_secs_f64(self.time),
                limit: Duration::from_secs_f64(self.limit),
            },
        }
    }
}

#[derive(Debug, Args)]
pub struct FanoutArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub flow: Flow,
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub publishers: usize,
    #[arg(long, default_value_t = 100, value_parser = at_least_one)]
    pub subscribers: usize,
    /// Subscribers and publishers are spread over so many
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub topics: usize,
    /// Subscriptions of other topics, which get nothing
    #[arg(long, default_value_t = 0)]
    pub elsewhere: usize,
    /// Further subscribers that read slowly
    #[arg(long, default_value_t = 0)]
    pub slow: usize,
    /// Bytes a second that each of those reads
    #[arg(long, default_value_t = 1_000)]
    pub slow_rate: usize,
}

impl FanoutArgs {
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            publishers: self.publishers,
            subscribers: self.subscribers,
            destinations: self.topics,
            elsewhere: self.elsewhere,
            slow: self.slow,
            slow_rate: self.slow_rate,
            ..self.flow.load("fanout", Shape::Topic)
        }
    }
}

#[derive(Debug, Args)]
pub struct PairsArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub flow: Flow,
    #[arg(long, default_value_t = 50, value_parser = at_least_one)]
    pub pairs: usize,
}

impl PairsArgs {
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            publishers: self.pairs,
            subscribers: self.pairs,
            destinations: self.pairs,
            ..self.flow.load("pairs", Shape::Topic)
        }
    }
}

#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub flow: Flow,
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub publishers: usize,
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub consumers: usize,
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub queues: usize,
    #[arg(long, value_enum, default_value_t = AckArg::ClientIndividual)]
    pub ack: AckArg,
    /// The prefetch-count header of SUBSCRIBE
    #[arg(long)]
    pub prefetch: Option<u32>,
}

#[derive(Debug, Args)]
pub struct PublishArgs {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub flow: Flow,
    #[arg(long, default_value_t = 4, value_parser = at_least_one)]
    pub publishers: usize,
    /// Publishers are spread over so many
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub queues: usize,
}

impl PublishArgs {
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            counted: Counted::Receipts,
            publishers: self.publishers,
            subscribers: 0,
            destinations: self.queues,
            ..self.flow.load("publish", Shape::Queue)
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum AckArg {
    Auto,
    Client,
    ClientIndividual,
}

impl QueueArgs {
    #[must_use]
    pub fn load(&self) -> Load {
        let mut load = self.flow.load("queue", Shape::Queue);
        if let Some(prefetch) = self.prefetch {
            load.subscribe_headers.push_str(&format!("prefetch-count:{prefetch}\n"));
        }
        let ack = match self.ack {
            AckArg::Auto => Ack::Auto,
            AckArg::Client => Ack::Client,
            AckArg::ClientIndividual => Ack::ClientIndividual,
        };
        Load {
            publishers: self.publishers,
            // A queue without a consumer would keep its messages.
            subscribers: self.consumers.max(self.queues),
            destinations: self.queues,
            ack,
            ..load
        }
    }
}

#[derive(Debug, Args)]
pub struct IdleArgs {
    #[command(flatten)]
    pub common: Common,
    #[arg(long, default_value_t = 1_000, value_parser = at_least_one)]
    pub connections: usize,
    /// Seconds that the server may take to give back what connecting took
    #[arg(long, default_value_t = 2.0, value_parser = not_negative)]
    pub settle: f64,
    /// Messages to every session, after which memory is looked at again
    #[arg(long, default_value_t = 0)]
    pub burst: usize,
    /// Bytes of one SEND of every session, after which memory is looked at again
    #[arg(long, default_value_t = 0)]
    pub large: usize,
    /// Bytes of a body in the burst
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Seconds for which the CPU of heart-beats is measured
    #[arg(long, default_value_t = 0.0, value_parser = not_negative)]
    pub hold: f64,
}

impl IdleArgs {
    #[must_use]
    pub fn idle(&self) -> Idle {
        Idle {
            connections: self.connections,
            settle: Duration::from_secs_f64(self.settle),
            burst: self.burst,
            large: self.large,
            size: self.size,
            hold: Duration::from_secs_f64(self.hold),
        }
    }
}

#[derive(Debug, Args)]
pub struct ConnectArgs {
    #[command(flatten)]
    pub common: Common,
    #[arg(long, default_value_t = 2_000, value_parser = at_least_one)]
    pub connections: usize,
    /// How many are being made at a time
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub at_once: usize,
    /// So many a second, instead of as fast as it goes
    #[arg(long, value_parser = positive)]
    pub rate: Option<f64>,
}

impl ConnectArgs {
    #[must_use]
    pub fn connect(&self) -> Connect {
        Connect { connections: self.connections, at_once: self.at_once, rate: self.rate }
    }
}

#[derive(Debug, Args)]
pub struct ChurnArgs {
    #[command(flatten)]
    pub common: Common,
    #[arg(long, value_enum, default_value_t = KindArg::Session)]
    pub kind: KindArg,
    /// Sessions that stay meanwhile, with a subscription each
    #[arg(long, default_value_t = 0)]
    pub staying: usize,
    /// How many come and go at a time
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub at_once: usize,
    /// So many a second, instead of as fast as it goes
    #[arg(long, value_parser = positive)]
    pub rate: Option<f64>,
    /// Seconds
    #[arg(long, default_value_t = 5.0, value_parser = not_negative)]
    pub time: f64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum KindArg {
    /// Connect, subscribe, DISCONNECT
    Session,
    /// Connect, subscribe, close the socket without a word
    Drop,
    /// Subscribe and unsubscribe in a session that stays
    Subscription,
}

impl ChurnArgs {
    #[must_use]
    pub fn churn(&self) -> Churn {
        let kind = match self.kind {
            KindArg::Session => Kind::Session,
            KindArg::Drop => Kind::Drop,
            KindArg::Subscription => Kind::Subscription,
        };
        Churn {
            kind,
            staying: self.staying,
            at_once: self.at_once,
            rate: self.rate,
            time: Duration::from_secs_f64(self.time),
        }
    }
}

#[derive(Debug, Args)]
pub struct FloorArgs {
    #[arg(long, default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Write all that one read brought to each subscriber at once, instead of message by message
    #[arg(long)]
    pub coalesce: bool,
}

#[derive(Debug, Args)]
pub struct TableArgs {
    /// The columns, the one that the others are compared with first; default: as they come
    #[arg(long, value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Files of lines that --json has written
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

fn lines(headers: &[String]) -> String {
    headers.iter().map(|header| format!("{header}\n")).collect()
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = not_negative(text)?;
    if number > 0.0 { Ok(number) } else { Err("must be above 0".into()) }
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    // A week is longer than anybody measures, and no time that is too long for a clock.
    if (0.0..1e6).contains(&number) { Ok(number) } else { Err("must be from 0 to 1000000".into()) }
}

fn body_size(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        size if size < stamp::BYTES => {
            Err(format!("a body has {} bytes that say when it was sent", stamp::BYTES))
        }
        size => Ok(size),
    }
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
    fn refuses_what_cannot_be() {
        for line in [
            "fanout http://x/",
            "fanout ws://x/ --size 3",
            "fanout ws://x/ --rate 5 --window 6",
            "fanout ws://x/ --rate 0",
            "pairs ws://x/ --pairs 0",
            "idle ws://x/ --hold -1",
            "table",
        ] {
            let words = std::iter::once("stomp-bench").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
