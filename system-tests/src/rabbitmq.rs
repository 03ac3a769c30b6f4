//! A private RabbitMQ with its STOMP plugins, on free loopback ports and in a directory of its
//! own; nothing of the machine's RabbitMQ is touched.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::ports;

const SCRIPTS: &str = "/usr/lib/rabbitmq/bin";
const START_TIME: Duration = Duration::from_secs(90);
const STOP_TIME: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A running RabbitMQ; it is stopped when this is dropped.
#[derive(Debug)]
pub struct RabbitMqServer {
    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`
    pub amqp_url: String,
    pub amqp_port: u16,
    /// STOMP over TCP.
    pub stomp_port: u16,
    /// STOMP over WebSocket, path `/ws`.
    pub web_stomp_port: u16,
    dist_port: u16,
    epmd_port: u16,
    /// The node of the cluster that it joins when it has no data.
    joins: Option<String>,
    directory: TempDir,
    processes: Mutex<Processes>,
}

#[derive(Debug)]
struct Processes {
    /// `None`: the cluster has it.
    epmd: Option<Child>,
    /// Leads a process group of its own.
    server: Option<Child>,
}

impl RabbitMqServer {
    /// Starts one.
    ///
    /// # Errors
    /// What went wrong, with the end of RabbitMQ's output.
    pub fn new() -> Result<Self, String> {
        let [epmd_port] = ports::free();
        let server = Self::prepared(epmd_port, Some(start_epmd(epmd_port)?), None)?;
        server.start()?;
        Ok(server)
    }

    /// One that does not run yet.
    fn prepared(
        epmd_port: u16,
        epmd: Option<Child>,
        joins: Option<String>,
    ) -> Result<Self, String> {
        let directory = TempDir::with_prefix("rabbitmq-").map_err(|error| error.to_string())?;
        let [amqp_port, stomp_port, web_stomp_port, dist_port] = ports::free();
        let server = Self {
            amqp_url: format!("amqp://guest:guest@127.0.0.1:{amqp_port}/%2f"),
            amqp_port,
            stomp_port,
            web_stomp_port,
            dist_port,
            epmd_port,
            joins,
            directory,
            processes: Mutex::new(Processes { epmd, server: None }),
        };
        server.configure().map_err(|error| format!("the configuration: {error}"))?;
        Ok(server)
    }

    /// One for all tests of a process that run at a time and need none of their own.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn shared() -> Result<Arc<Self>, String> {
        static SHARED: Mutex<Weak<RabbitMqServer>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::new()?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// Starts it again, with the data it had. Waits until all its ports answer.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn start(&self) -> Result<(), String> {
        let output = self.path("output");
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&output)
            .map_err(|error| format!("{}: {error}", output.display()))?;
        let errors = file.try_clone().map_err(|error| error.to_string())?;
        let mut server = self
            .command("rabbitmq-server")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("rabbitmq-server: {error}"))?;
        let deadline = Instant::now() + START_TIME;
        let mut result = Ok(());
        while !self.answers() {
            let exited = server.try_wait().ok().flatten();
            if exited.is_some() || Instant::now() > deadline {
                let text = fs::read_to_string(&output).unwrap_or_default();
                let lines: Vec<&str> = text.lines().rev().take(20).collect();
                let lines: Vec<&str> = lines.into_iter().rev().collect();
                result = Err(format!("RabbitMQ did not start:\n{}", lines.join("\n")));
                break;
            }
            std::thread::sleep(POLL);
        }
        self.processes().server = Some(server);
        result
    }

    /// Stops it as an operator does: connections are closed, data is kept.
    pub fn stop(&self) {
        self.end("-TERM");
    }

    /// Ends it at once.
    pub fn kill(&self) {
        self.end("-KILL");
    }

    /// Stops it from running without ending it: connections stay, and nothing answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it run again.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// The name that other nodes of its cluster know it by.
    #[must_use]
    pub fn node_name(&self) -> String {
        format!("test{}@localhost", self.amqp_port)
    }

    /// Forgets all data of a server that does not run. A node of a cluster joins it again.
    ///
    /// # Errors
    /// Where its files cannot be deleted.
    pub fn wipe(&self) -> std::io::Result<()> {
        fs::remove_dir_all(self.path("mnesia"))?;
        fs::create_dir(self.path("mnesia"))
    }

    /// Runs `rabbitmqctl`, quiet, and gives its output.
    ///
    /// # Errors
    /// What it printed, where it failed.
    pub fn ctl(&self, args: &[&str]) -> Result<String, String> {
        self.tool("rabbitmqctl", args)
    }

    /// The same with another of RabbitMQ's tools, as `rabbitmq-queues`.
    ///
    /// # Errors
    /// As [`Self::ctl`].
    pub fn tool(&self, name: &str, args: &[&str]) -> Result<String, String> {
        let output = self
            .command(name)
            .arg("-q")
            .args(args)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{name}: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(format!("{name} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// A STOMP 1.2 session with RabbitMQ's own plugin.
    ///
    /// # Errors
    /// Where it does not say CONNECTED.
    pub fn plugin(&self) -> Result<PluginSession, String> {
        let stream =
            TcpStream::connect(loopback(self.stomp_port)).map_err(|error| error.to_string())?;
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .map_err(|error| error.to_string())?;
        let mut session = PluginSession { stream, read: Vec::new() };
        session.send(
            "CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:0,0\n\n",
        )?;
        let answer = session.receive()?;
        if answer.starts_with("CONNECTED\n") { Ok(session) } else { Err(answer) }
    }

    fn configure(&self) -> std::io::Result<()> {
        for directory in ["home", "mnesia", "log"] {
            fs::create_dir(self.path(directory))?;
        }
        fs::write(self.path("enabled_plugins"), "[rabbitmq_stomp,rabbitmq_web_stomp].\n")?;
        let cookie = self.path("home").join(".erlang.cookie");
        // Whoever has it may join; nobody but this machine reaches the ports.
        fs::write(&cookie, "stomp-relay-tests")?;
        fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400))?;
        let mut config = format!(
            "listeners.tcp.default = 127.0.0.1:{}\n\
             stomp.listeners.tcp.1 = 127.0.0.1:{}\n\
             web_stomp.tcp.ip = 127.0.0.1\n\
             web_stomp.tcp.port = {}\n\
             vm_memory_high_watermark.absolute = 1GB\n\
             disk_free_limit.absolute = 50MB\n{}\n",
            self.amqp_port,
            self.stomp_port,
            self.web_stomp_port,
            std::env::var("RABBITMQ_MORE_CONFIG").unwrap_or_default()
        );
        if let Some(node) = &self.joins {
            config += "cluster_formation.peer_discovery_backend = classic_config\n";
            config += &format!("cluster_formation.classic_config.nodes.1 = {node}\n");
        }
        fs::write(self.path("rabbitmq.conf"), config)
    }

    fn command(&self, script: &str) -> Command {
        // The scripts behind the wrappers in the PATH: those change users and directories.
        let mut command = program(&format!("{SCRIPTS}/{script}"));
        command
            .env("HOME", self.path("home"))
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", self.node_name())
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", self.path("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.path("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.path("enabled_plugins"))
            .env("RABBITMQ_CONFIG_FILE", self.path("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", self.path("none"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_PID_FILE", self.path("pid"))
            // Its own epmd is a child of the test; idle schedulers need not spin.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-start_epmd false +sbwt none")
            .current_dir(self.directory.path());
        command
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn answers(&self) -> bool {
        [self.amqp_port, self.stomp_port, self.web_stomp_port]
            .into_iter()
            .all(|port| TcpStream::connect_timeout(&loopback(port), Duration::from_secs(1)).is_ok())
    }

    fn signal(&self, signal: &str) {
        if let Some(server) = &self.processes().server {
            kill(&[signal, "--", &format!("-{}", server.id())]);
        }
    }

    fn end(&self, signal: &str) {
        let Some(mut server) = self.processes().server.take() else { return };
        let group = format!("-{}", server.id());
        kill(&[signal, "--", &group]);
        let deadline = Instant::now() + STOP_TIME;
        // The script ends before the virtual machine does, which has the ports.
        while self.any_open() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        kill(&["-KILL", "--", &group]);
        // It is gone whatever its exit status.
        drop(server.wait());
    }

    fn any_open(&self) -> bool {
        [self.amqp_port, self.dist_port]
            .into_iter()
            .any(|port| TcpStream::connect_timeout(&loopback(port), Duration::from_secs(1)).is_ok())
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RabbitMqServer {
    fn drop(&mut self) {
        self.kill();
        let mut processes = self.processes();
        if let Some(epmd) = &mut processes.epmd {
            end_epmd(epmd);
        }
    }
}

/// Three nodes, one cluster.
#[derive(Debug)]
pub struct RabbitMqCluster {
    pub nodes: Vec<RabbitMqServer>,
    epmd: Child,
}

impl RabbitMqCluster {
    /// Starts it.
    ///
    /// # Errors
    /// As [`RabbitMqServer::new`].
    pub fn new() -> Result<Self, String> {
        const NODES: usize = 3;
        let [epmd_port] = ports::free();
        let mut cluster = Self { nodes: Vec::new(), epmd: start_epmd(epmd_port)? };
        let mut first = None;
        for _ in 0..NODES {
            let node = RabbitMqServer::prepared(epmd_port, None, first.clone())?;
            first.get_or_insert_with(|| node.node_name());
            cluster.nodes.push(node);
        }
        if let Some((first, others)) = cluster.nodes.split_first() {
            first.start()?;
            std::thread::scope(|scope| {
                let starts: Vec<_> =
                    others.iter().map(|node| scope.spawn(|| node.start())).collect();
                starts.into_iter().try_for_each(|start| {
                    start.join().unwrap_or_else(|_| Err("a start panicked".into()))
                })
            })?;
        }
        let members = cluster.members()?;
        if members == NODES { Ok(cluster) } else { Err(format!("{members} nodes, not {NODES}")) }
    }

    /// All nodes, for `--broker`.
    #[must_use]
    pub fn urls(&self) -> String {
        let urls: Vec<&str> = self.nodes.iter().map(|node| node.amqp_url.as_str()).collect();
        urls.join(",")
    }

    /// How many nodes the first one knows to be running.
    ///
    /// # Errors
    /// What rabbitmqctl printed, where it failed.
    pub fn members(&self) -> Result<usize, String> {
        let Some(first) = self.nodes.first() else { return Ok(0) };
        let list = first.ctl(&["eval", "length(rabbit_nodes:all_running())."])?;
        list.trim().parse().map_err(|_| list)
    }

    /// The node on which a quorum queue has its leader.
    ///
    /// # Errors
    /// What rabbitmqctl printed, where it failed.
    pub fn leader(&self, queue: &str) -> Result<&RabbitMqServer, String> {
        let from = self.nodes.first().ok_or("no nodes")?;
        let list = from.ctl(&["list_queues", "--no-table-headers", "name", "leader"])?;
        let line = list.lines().find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
        let leader = line.ok_or_else(|| format!("no queue {queue} in {list}"))?.trim();
        let node = self.nodes.iter().find(|node| node.node_name() == leader);
        node.ok_or_else(|| format!("{leader} is none of the nodes"))
    }
}

impl Drop for RabbitMqCluster {
    fn drop(&mut self) {
        self.nodes.clear();
        end_epmd(&mut self.epmd);
    }
}

fn start_epmd(port: u16) -> Result<Child, String> {
    program("epmd")
        .args(["-port", &port.to_string(), "-address", "127.0.0.1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("epmd: {error}"))
}

/// It is ours, and ends by it.
fn end_epmd(epmd: &mut Child) {
    drop(epmd.kill());
    drop(epmd.wait());
}

/// A program of RabbitMQ's: the machine's, or with `RABBITMQ_ROOT` that of the Debian in that
/// folder. `scripts/rabbitmq4.sh` makes the folder, and mounts there what both see alike.
fn program(path: &str) -> Command {
    match std::env::var_os("RABBITMQ_ROOT") {
        None => Command::new(path),
        Some(root) => {
            let mut command = Command::new("chroot");
            command.arg(root).arg(path);
            command
        }
    }
}

/// A session with RabbitMQ's STOMP plugin. Frames are text, without their NUL.
#[derive(Debug)]
pub struct PluginSession {
    stream: TcpStream,
    read: Vec<u8>,
}

impl PluginSession {
    /// Sends a frame.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn send(&mut self, frame: &str) -> Result<(), String> {
        self.stream.write_all(format!("{frame}\0").as_bytes()).map_err(|error| error.to_string())
    }

    /// The next frame, within 20 s.
    ///
    /// # Errors
    /// Where none comes.
    pub fn receive(&mut self) -> Result<String, String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == 0) {
                let frame: Vec<u8> = self.read.drain(..=end).collect();
                let text = String::from_utf8_lossy(&frame);
                return Ok(text.trim_start_matches('\n').trim_end_matches('\0').to_owned());
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).map_err(|error| error.to_string())? {
                0 => return Err("the connection was closed".into()),
                read => self.read.extend_from_slice(buffer.get(..read).unwrap_or_default()),
            }
        }
    }

    /// Sends a frame with a receipt and waits for it.
    ///
    /// # Errors
    /// The frame that came instead.
    pub fn send_and_wait(&mut self, command: &str, rest: &str) -> Result<(), String> {
        self.send(&format!("{command}\nreceipt:r\n{rest}"))?;
        let answer = self.receive()?;
        if answer.starts_with("RECEIPT\n") { Ok(()) } else { Err(answer) }
    }
}

fn kill(args: &[&str]) {
    // A group that is gone already is as good.
    drop(Command::new("kill").args(args).stderr(Stdio::null()).status());
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
