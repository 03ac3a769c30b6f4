// Builds dist/: one script, one style sheet, one page. Nothing is loaded from elsewhere at run time.
import { copyFile, mkdir, rm } from "node:fs/promises";
import { build } from "esbuild";

const out = new URL("dist/", import.meta.url).pathname;
const src = new URL("src/", import.meta.url).pathname;

await rm(out, { recursive: true, force: true });
await mkdir(out);
await build({
  entryPoints: [`${src}main.mjs`, `${src}style.css`],
  bundle: true,
  minify: true,
  sourcemap: true,
  format: "esm",
  target: ["chrome109", "firefox115", "safari16"],
  legalComments: "linked",
  // What sockjs-client expects of its own build.
  define: { global: "globalThis", "process.env.NODE_ENV": '"production"' },
  outdir: out,
});
await copyFile(`${src}index.html`, `${out}index.html`);
// For `client_library_url`: the iframe of SockJS loads the version that the page has.
const sockjs = new URL("node_modules/sockjs-client/dist/sockjs.min.js", import.meta.url).pathname;
await copyFile(sockjs, `${out}sockjs.min.js`);
