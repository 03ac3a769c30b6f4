//! The connection to Redis: dialled again by itself, and every command under a deadline.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, RedisError, Script, ServerError, Value};
use tokio::time::{Instant, timeout};

use crate::persistence::StoreError;

/// A connect, and a pipeline from first to last reply, take at most this long.
const DEADLINE: Duration = Duration::from_secs(2);
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The Lua scripts, by what they are for.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) unread: Script,
    pub(super) lease: Script,
    pub(super) account: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            unread: Script::new(include_str!("unread.lua")),
            lease: Script::new(include_str!("lease.lua")),
            account: Script::new(include_str!("account.lua")),
        }
    }

    fn load(&self) -> Pipeline {
        let mut pipeline = Pipeline::new();
        for code in
            [include_str!("unread.lua"), include_str!("lease.lua"), include_str!("account.lua")]
        {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(code);
        }
        pipeline
    }
}

/// One connection, or the wait for the next try.
pub(super) struct Link {
    client: Client,
    /// Without credentials.
    address: String,
    connection: Option<MultiplexedConnection>,
    retry_at: Instant,
    back_off: Duration,
    /// A pipeline got no answer: what became of it is unknown, and it may still be carried out.
    pub(super) unknown_outcome: bool,
}

impl Link {
    /// # Errors
    /// `Broken` where the URL is none.
    pub(super) fn new(url: &str) -> Result<Self, StoreError> {
        let client = Client::open(url).map_err(|error| {
            StoreError::Broken(format!("store.url is no Redis URL: {}", error.category()))
        })?;
        let address = client.get_connection_info().addr().to_string();
        Ok(Self {
            client,
            address,
            connection: None,
            retry_at: Instant::now(),
            back_off: BACK_OFF.0,
            unknown_outcome: false,
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends the pipeline; one reply each, without errors among them. Scripts that Redis has
    /// forgotten are loaded again.
    ///
    /// # Errors
    /// Of the first command that failed, or of the connection.
    pub(super) async fn send(
        &mut self,
        pipeline: &Pipeline,
        scripts: &Scripts,
    ) -> Result<Vec<Value>, StoreError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        self.connect(scripts).await?;
        let mut replies = self.exchange(pipeline).await?;
        if replies.iter().any(is_no_script) {
            let loaded = self.exchange(&scripts.load()).await?;
            refuse_errors(&loaded)?;
            // Where the first did not run none did; else whoever asked asks again.
            if replies.first().is_some_and(is_no_script) {
                replies = self.exchange(pipeline).await?;
            }
        }
        refuse_errors(&replies)?;
        Ok(replies)
    }

    async fn connect(&mut self, scripts: &Scripts) -> Result<(), StoreError> {
        if self.connection.is_some() {
            return Ok(());
        }
        if Instant::now() < self.retry_at {
            return Err(self.away("waiting before the next try"));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(None);
        let dialled = self.client.get_multiplexed_async_connection_with_config(&config);
        match timeout(DEADLINE, dialled).await {
            Ok(Ok(connection)) => self.connection = Some(connection),
            Ok(Err(error)) => {
                self.lose();
                return Err(self.away(&describe(&error)));
            }
            Err(_) => {
                self.lose();
                return Err(self.away("no connection within 2 s"));
            }
        }
        let loaded = self.exchange(&scripts.load()).await?;
        if let Err(error) = refuse_errors(&loaded) {
            self.lose();
            return Err(error);
        }
        self.back_off = BACK_OFF.0;
        Ok(())
    }

    async fn exchange(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(self.away("not connected"));
        };
        let sent = connection.send_packed_commands(pipeline, 0, pipeline.len());
        let problem = match timeout(DEADLINE, sent).await {
            Ok(Ok(replies)) => return Ok(replies),
            Ok(Err(error)) => describe(&error),
            Err(_) => "no answer within 2 s".into(),
        };
        self.unknown_outcome = true;
        self.lose();
        Err(self.away(&problem))
    }

    /// Drops the connection; the next is tried after a while.
    fn lose(&mut self) {
        self.connection = None;
        self.retry_at = Instant::now() + self.back_off;
        self.back_off = (2 * self.back_off).min(BACK_OFF.1);
    }

    fn away(&self, problem: &str) -> StoreError {
        StoreError::Unavailable(format!("store: Redis at {}: {problem}", self.address))
    }
}

fn is_no_script(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

fn refuse_errors(replies: &[Value]) -> Result<(), StoreError> {
    let first = replies.iter().find_map(|reply| match reply {
        Value::ServerError(error) => Some(classify(error)),
        _ => None,
    });
    first.map_or(Ok(()), Err)
}

/// Most errors pass: the memory is given back, the disk has space again, a replica becomes the
/// master, the password is corrected. What stays is a Redis that cannot do this.
fn classify(error: &ServerError) -> StoreError {
    let text = format!("store: Redis: {} {}", error.code(), error.details().unwrap_or_default());
    match error.code() {
        "WRONGTYPE" | "MOVED" | "ASK" | "CROSSSLOT" => StoreError::Broken(text),
        // A script's own error. Some versions give the cause only in the text.
        "ERR" if !["OOM", "MISCONF", "READONLY"].iter().any(|cause| text.contains(cause)) => {
            StoreError::Broken(text)
        }
        _ => StoreError::Unavailable(text),
    }
}

/// The redis crate never puts credentials into these.
fn describe(error: &RedisError) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.category()),
        None => error.to_string(),
    }
}
