// Relays and nginx for these tests, and the folder of pages that a relay serves.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { freePort, start } from "../../stomp-js-demo/test/servers.mjs";

const root = new URL("../..", import.meta.url).pathname;
const binary = process.env.RELAY ?? path.join(root, "target/debug/stomp-relay");

/** A folder of its own; `stops` collects how to undo things, last first. */
export async function scene() {
  const folder = await mkdtemp(path.join(tmpdir(), "stomp-relay-sockjs-"));
  const stops = [() => rm(folder, { recursive: true, force: true })];
  return {
    folder,
    stops,
    async stop() {
      for (const one of stops.splice(0).reverse()) await one();
    },
  };
}

/**
 * A relay with `--dev` (alice/alice ...), everything in memory. `config` gives the rest of its
 * config, once its own port is known.
 */
export async function startRelay({ folder, stops }, config) {
  const [port, admin] = [await freePort(), await freePort()];
  const file = path.join(folder, `relay-${port}.toml`);
  await writeFile(file, `node.id = "relay-${port}"\n${config(port)}`);
  const args = ["--dev", "--config", file, "--listen", `127.0.0.1:${port}`];
  args.push("--admin-listen", `127.0.0.1:${admin}`, "--broker", "embedded::memory:", "--store", "memory:");
  const relay = await start(binary, args, port);
  stops.push(relay.stop);
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    ws: `ws://127.0.0.1:${port}`,
    end: relay.stop,
    /** The number of sessions there are, as the relay counts them. */
    async sessions() {
      const answer = await fetch(`http://127.0.0.1:${admin}/metrics`);
      const line = (await answer.text()).split("\n").find((text) => /^stomp_relay_sessions[ {]/.test(text));
      return Number(line?.split(" ").pop());
    },
  };
}

/** nginx with that `http` part. */
export async function startNginx({ folder, stops }, http, port) {
  const file = path.join(folder, `nginx-${port}.conf`);
  await writeFile(
    file,
    `${process.getuid() === 0 ? "user root;" : ""}
daemon off;
worker_processes 1;
pid ${folder}/nginx-${port}.pid;
error_log ${folder}/nginx-${port}.log;
events { worker_connections 256; }
http {
  access_log off;
  client_body_temp_path ${folder}/body;
  proxy_temp_path ${folder}/proxy;
  fastcgi_temp_path ${folder}/fastcgi;
  uwsgi_temp_path ${folder}/uwsgi;
  scgi_temp_path ${folder}/scgi;
${http}
}
`,
  );
  const program = existsSync("/usr/sbin/nginx") ? "/usr/sbin/nginx" : "nginx";
  const nginx = await start(program, ["-p", folder, "-e", `${folder}/nginx-${port}.log`, "-c", file], port);
  stops.push(nginx.stop);
}
