// The clients: which there are, and where their files come from.

import { createHash } from "node:crypto";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { build } from "esbuild";
import { unzipSync } from "fflate";

const require = createRequire(import.meta.url);
const here = new URL(".", import.meta.url).pathname;
const root = path.join(here, "../..");

/** The transports, in the order in which sockjs-client 1.6.1 tries them. */
export const TRANSPORTS = [
  "websocket",
  "xhr-streaming",
  "xdr-streaming",
  "eventsource",
  "iframe-eventsource",
  "htmlfile",
  "iframe-htmlfile",
  "xhr-polling",
  "xdr-polling",
  "iframe-xhr-polling",
  "jsonp-polling",
];

/** Each has an endpoint of its own: the iframe must load the very version that the page has. */
export const SOCKJS = [
  { version: "1.6.1", path: "/ws-1.6.1", node: "sockjs-client" },
  { version: "1.0.3", path: "/ws-1.0.3", node: "sockjs-client-1.0" },
  { version: "0.3.4", path: "/ws-0.3.4", node: null },
];

const WEBJAR = {
  url: "https://repo1.maven.org/maven2/org/webjars/sockjs-client/0.3.4/sockjs-client-0.3.4.jar",
  sha256: "92988346e95a227046de4fc6cc18e33d216dd2966eedd485a2e6425e75d65723",
  member: "META-INF/resources/webjars/sockjs-client/0.3.4/sockjs.min.js",
};

/** The library of that version as one script of a page. */
async function sockjsScript(version, target) {
  if (version === "1.6.1") {
    await copyFile(path.join(here, "node_modules/sockjs-client/dist/sockjs.min.js"), target);
  } else if (version === "1.0.3") {
    // npm has only its sources; its own build made one script of them in the same way.
    await build({
      entryPoints: [path.join(here, "node_modules/sockjs-client-1.0/lib/entry.js")],
      bundle: true,
      platform: "browser",
      format: "iife",
      globalName: "SockJS",
      define: { global: "window", "process.env.NODE_ENV": '"production"' },
      outfile: target,
      logLevel: "error",
    });
  } else {
    await writeFile(target, unzipSync(new Uint8Array(await webjar()))[WEBJAR.member]);
  }
}

async function webjar() {
  const kept = path.join(root, "target/sockjs-client-0.3.4.jar");
  const isIt = (data) => createHash("sha256").update(data).digest("hex") === WEBJAR.sha256;
  const old = await readFile(kept).catch(() => Buffer.alloc(0));
  if (isIt(old)) return old;
  const answer = await fetch(WEBJAR.url);
  const jar = Buffer.from(await answer.arrayBuffer());
  if (!isIt(jar)) throw new Error(`${WEBJAR.url}: status ${answer.status}, not the jar of 2013`);
  await mkdir(path.dirname(kept), { recursive: true });
  await writeFile(kept, jar);
  return jar;
}

/** Fills a folder with what pages need; `page-VERSION.html` has that SockJS and all STOMP clients. */
export async function writePages(folder, versions) {
  await mkdir(folder, { recursive: true });
  const scripts = {
    "stomp-7.js": "@stomp/stompjs/bundles/stomp.umd.min.js",
    "stomp-2.js": "stompjs/lib/stomp.min.js",
    "webstomp.js": "webstomp-client/dist/webstomp.min.js",
  };
  for (const [name, source] of Object.entries(scripts)) {
    await copyFile(path.join(here, "node_modules", source), path.join(folder, name));
  }
  await copyFile(path.join(here, "story.mjs"), path.join(folder, "story.mjs"));
  for (const version of versions) {
    await sockjsScript(version, path.join(folder, `sockjs-${version}.js`));
    const tags = [`sockjs-${version}.js`, ...Object.keys(scripts)].map((name) => `<script src="${name}"></script>`);
    await writeFile(
      path.join(folder, `page-${version}.html`),
      `<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>${version}</title>
<body>${tags.join("\n")}
<script type="module">
  import { story } from "./story.mjs";
  globalThis.cell = ({ url, forced, old, ...rest }) =>
    story({
      libraries: globalThis,
      sockjs: () => new SockJS(url, null, forced ? { [old ? "protocols_whitelist" : "transports"]: [forced] } : {}),
      ...rest,
    });
</script>`,
    );
  }
}

/** A cell in Node, with the libraries of this folder. */
export function nodeKit(name) {
  const SockJS = require(name);
  const { Stomp } = require("stompjs/lib/stomp.js");
  // What a page has on its window, and the package's own start only where it is used over TCP.
  Stomp.setInterval = (ms, callback) => setInterval(callback, ms);
  Stomp.clearInterval = (timer) => clearInterval(timer);
  return {
    SockJS,
    libraries: { StompJs: require("@stomp/stompjs"), Stomp, webstomp: require("webstomp-client") },
  };
}

/** The endpoints of all versions, with every transport on, open to pages of any origin. */
export const endpoints = (pages) => `
[static]
dir = ${JSON.stringify(pages)}
${SOCKJS.map(
  ({ version, path: where }) => `
[[endpoint]]
path = "${where}"
allowed_origins = ["*"]
transports = ["websocket", "xhr", "xhr_streaming", "eventsource", "iframe", "jsonp", "htmlfile"]
client_library_url = "/sockjs-${version}.js"
stream_bytes_limit = "16KiB"
`,
).join("")}`;
