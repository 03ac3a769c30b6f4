//! The services that public SockJS protocol tests expect, made of the relay's own transports:
//! `/echo`, `/close`, `/disabled_websocket_echo` and `/cookie_needed_echo`.
//!
//! ```sh
//! cargo run --example sockjs-echo -- 8081
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "that is how it speaks")]

mod services;

use std::process::ExitCode;

use stomp_relay::cli::Serve;
use stomp_relay::config::Config;
use stomp_relay::server::Server;

#[tokio::main]
async fn main() -> ExitCode {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok());
    let Some(port) = port else {
        eprintln!("usage: sockjs-echo PORT");
        return ExitCode::from(2);
    };
    match start(port).await {
        Ok(server) => {
            println!("SockJS test services at http://{}/echo", server.addresses().http);
            // Without a signal it runs until it is killed, which is as good.
            let _ = tokio::signal::ctrl_c().await;
            server.stop().await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn start(port: u16) -> Result<Server, String> {
    let serve = Serve {
        dev: true,
        listen: Some(format!("127.0.0.1:{port}")),
        admin_listen: Some("127.0.0.1:0".into()),
        broker: Some("embedded::memory:".into()),
        store: Some("memory:".into()),
        ..Serve::default()
    };
    let mut config = Config::load(&serve, std::iter::empty()).map_err(|mistakes| {
        mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    })?;
    config.node_id = Some("sockjs-echo".into());
    config.endpoints = services::endpoints(&config);
    Server::start_with(config, services::service).await.map_err(|error| error.to_string())
}
