// Starts and ends what the tests talk to: the built relay, a private RabbitMQ and Redis, nginx.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const root = new URL("../..", import.meta.url).pathname;

/** A port that is free now, below the range the kernel hands out for outgoing connections. */
export async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const server = net.createServer();
    try {
      server.listen(port, "127.0.0.1");
      await once(server, "listening");
      return port;
    } catch {
      // Taken: another one.
    } finally {
      server.close();
    }
  }
}

export async function until(what, condition, ms = 15_000) {
  const deadline = Date.now() + ms;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`not within ${ms} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const listens = (port) =>
  new Promise((resolve) => {
    const socket = net.connect(port, "127.0.0.1");
    socket.on("error", () => resolve(false));
    socket.on("connect", () => {
      socket.destroy();
      resolve(true);
    });
  });

/** A program until it listens; its output is shown where it does not. */
export async function start(program, args, port) {
  const child = spawn(program, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (data) => (output = (output + data).slice(-8000)));
  }
  child.on("error", (error) => (output += error.message));
  const ended = () => child.exitCode !== null || child.signalCode !== null;
  const stop = async () => {
    if (!ended() && child.pid !== undefined) {
      const gone = once(child, "exit");
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), 30_000);
      await gone;
      clearTimeout(timer);
    }
    return child.exitCode;
  };
  try {
    await until(
      `${program} on port ${port}`,
      async () => {
        if (ended() || child.pid === undefined) throw new Error(`${program} ended early`);
        return listens(port);
      },
      30_000,
    );
  } catch (error) {
    await stop();
    throw new Error(`${error.message}\n${output}`);
  }
  return { stop };
}

/**
 * `kind`: "embedded" (and SQLite) or "rabbitmq" (and Redis). `end()` ends the relay and gives its
 * exit code; `stop()` ends everything. `config` is what stands in its config file.
 */
export async function startRelay(kind = "embedded", config = "") {
  const folder = await mkdtemp(path.join(tmpdir(), "stomp-relay-page-"));
  const stops = [() => rm(folder, { recursive: true, force: true })];
  const stop = async () => {
    for (const one of stops.splice(0).reverse()) await one();
  };
  try {
    const [port, admin] = [await freePort(), await freePort()];
    const args = ["--dev", "--listen", `127.0.0.1:${port}`, "--admin-listen", `127.0.0.1:${admin}`];
    if (config) {
      const file = path.join(folder, "stomp-relay.toml");
      await writeFile(file, config);
      args.push("--config", file);
    }
    if (kind === "rabbitmq") {
      const rabbitmq = await privateServer("rabbitmq", folder, stops);
      const redis = await privateServer("redis", folder, stops);
      args.push("--broker", rabbitmq.AMQP_URL, "--store", redis.REDIS_URL);
    } else {
      args.push("--store", `sqlite:${folder}/stomp-relay.db`);
    }
    const binary = process.env.RELAY ?? path.join(root, "target/debug/stomp-relay");
    const relay = await start(binary, args, port);
    stops.push(relay.stop);
    return {
      port,
      url: `http://127.0.0.1:${port}/`,
      ws: `ws://127.0.0.1:${port}/ws`,
      end: relay.stop,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function privateServer(name, folder, stops) {
  const script = path.join(root, `scripts/${name}.sh`);
  const data = path.join(folder, name);
  stops.push(() => run(script, ["stop", data]));
  // To files, since the server would hold our pipes open as long as it lives.
  const child = spawn(script, ["start", data], { stdio: ["ignore", "ignore", "inherit"] });
  const [code] = await once(child, "exit");
  if (code !== 0) throw new Error(`${script} start: exit code ${code}`);
  const lines = (await readFile(path.join(data, "env"), "utf8")).trim().split("\n");
  return Object.fromEntries(lines.map((line) => /^([A-Z_]+)=(.*)$/.exec(line).slice(1)));
}
