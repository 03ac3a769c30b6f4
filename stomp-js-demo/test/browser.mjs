// Chromium, and the page as a person uses it.

import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { chromium } from "playwright-core";

const shots = new URL("screenshots/", import.meta.url).pathname;

export async function launch() {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  if (!existsSync(executablePath)) throw new Error(`no Chromium at ${executablePath} (set CHROMIUM)`);
  await mkdir(shots, { recursive: true });
  return chromium.launch({
    executablePath,
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** One tab. Every error in the page's console or script is collected in `problems`. */
export class Tab {
  constructor(page) {
    this.page = page;
    this.problems = [];
    page.setDefaultTimeout(30_000);
    page.on("pageerror", (error) => this.problems.push(String(error)));
    page.on("console", (line) => line.type() === "error" && this.problems.push(line.text()));
  }

  static async open(context, url) {
    const tab = new Tab(await context.newPage());
    await tab.page.goto(url);
    return tab;
  }

  at(testId) {
    return this.page.getByTestId(testId);
  }

  async login(user, passcode = user) {
    await this.at("login-name").fill(user);
    await this.at("login-passcode").fill(passcode);
    await this.at("login-submit").click();
  }

  connected() {
    return this.at("status").getByText("Connected", { exact: true }).waitFor();
  }

  async say(text) {
    await this.at("chat-input").fill(text);
    await this.at("chat-send").click();
  }

  message(text) {
    return this.at("message").filter({ hasText: text });
  }

  async shot(name) {
    await this.page.screenshot({ path: `${shots}${name}.png` });
  }

  close() {
    return this.page.close();
  }
}
