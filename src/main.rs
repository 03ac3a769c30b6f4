//! `stomp-relay`: the command line.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use stomp_relay::cli::{Cli, Command, Serve};
use stomp_relay::config::Config;
use stomp_relay::server::{Addresses, Server};
use stomp_relay::{command, telemetry};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let mut out = io::stdout();
    let mut err = io::stderr();
    let env = || std::env::vars();
    let result = match Cli::parse().into_command() {
        Command::Serve(serve) => return run(&serve),
        Command::CheckConfig(serve) => command::check_config(&serve, env(), &mut out, &mut err),
        Command::PrintConfig(serve) => command::print_config(&serve, env(), &mut out, &mut err),
        Command::HashPassword => {
            command::hash_password(&mut io::stdin().lock(), &mut out, &mut err)
        }
        Command::Token(token) => command::token(&token, env(), &mut out, &mut err),
    };
    result.map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(serve: &Serve) -> ExitCode {
    let config = match Config::load(serve, std::env::vars()) {
        Ok(config) => config,
        Err(mistakes) => {
            let mut err = io::stderr();
            // Where standard error is gone, the exit code still says it.
            let _ = command::print_mistakes(&mistakes, &mut err);
            return ExitCode::FAILURE;
        }
    };
    telemetry::init_logging();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve_until_signal(config)),
        Err(error) => fail(&format!("cannot start: {error}")),
    }
}

async fn serve_until_signal(config: Config) -> ExitCode {
    let dev = config.dev;
    let paths: Vec<String> =
        config.endpoints.iter().map(|endpoint| endpoint.path.clone()).collect();
    let has_page = config.static_dir.is_some();
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return fail("cannot listen to signals");
    };
    let server = match Server::start(config).await {
        Ok(server) => server,
        Err(error) => return fail(&error.to_string()),
    };
    greet(server.addresses(), &paths, dev, has_page);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Who asks twice does not want to wait.
    tokio::select! {
        () = server.stop() => ExitCode::SUCCESS,
        _ = terminate.recv() => ExitCode::FAILURE,
        _ = interrupt.recv() => ExitCode::FAILURE,
    }
}

/// Says where everything is. Somebody who has just started it needs nothing else.
fn greet(addresses: Addresses, paths: &[String], dev: bool, has_page: bool) {
    let Addresses { http, admin, tcp } = addresses;
    let mut text = format!("stomp-relay {}\n\n", env!("CARGO_PKG_VERSION"));
    if has_page {
        text += &format!("  page       http://{http}/\n");
    }
    for path in paths {
        text += &format!("  WebSocket  ws://{http}{path}\n");
    }
    if let Some(tcp) = tcp {
        text += &format!("  TCP        {tcp}\n");
    }
    text += &format!("  admin      http://{admin}/healthz  /readyz  /metrics\n");
    if dev {
        text += "\n  accounts   alice/alice  bob/bob  carol/carol  admin/admin  guest/guest\n";
        text += "  (--dev: for trying things out; loopback only, everything is allowed)\n";
    }
    text += "\n  Ctrl-C stops it.\n";
    // A closed standard output is no reason not to serve.
    let _ = io::stdout().write_all(text.as_bytes());
    let _ = io::stdout().flush();
}

fn fail(text: &str) -> ExitCode {
    // Where standard error is gone, the exit code still says it.
    let _ = writeln!(io::stderr(), "stomp-relay: {text}");
    ExitCode::FAILURE
}
