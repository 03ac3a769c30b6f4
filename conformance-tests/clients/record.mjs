// Plays the story with each client to a relay, and writes down what both sides said.
//
//     node record.mjs RELAY [STORY...]
//
// RELAY is the built program; without a STORY all of them are recorded. With BROKER=amqp://... in
// the environment the relay stands in front of that RabbitMQ; INTO=FOLDER writes somewhere else.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

import { listen, render } from './recorder.mjs'

const here = path.dirname(fileURLToPath(import.meta.url))
const { BROKER, INTO } = process.env
const recordings = INTO ?? path.join(here, '..', 'recordings')
/** Stories at a time: a story mostly waits for heart-beats. */
const AT_ONCE = 4
const STORY_TIME = 120_000

const java = ['java', '-cp', 'target/classes:target/lib/*', 'Story']
/** Where the script is, what it speaks, and how it is called. */
const STORIES = {
  'stompjs-5': ['stompjs', 'websocket', ['node', 'story.mjs', '5']],
  'stompjs-6': ['stompjs', 'websocket', ['node', 'story.mjs', '6']],
  'stompjs-7': ['stompjs', 'websocket', ['node', 'story.mjs', '7']],
  'stompjs-7-split': ['stompjs', 'websocket', ['node', 'story.mjs', '7', 'split']],
  'stompjs-7-binary': ['stompjs', 'websocket', ['node', 'story.mjs', '7', 'binary']],
  'stompjs-7-stomp-1.1': ['stompjs', 'websocket', ['node', 'story.mjs', '7', '1.1']],
  'stompjs-7-stomp-1.0': ['stompjs', 'websocket', ['node', 'story.mjs', '7', '1.0']],
  'stompjs-2': ['stompjs-2', 'websocket', ['node', 'story.mjs', 'ws']],
  'stompjs-2-tcp': ['stompjs-2', 'tcp', ['node', 'story.mjs', 'tcp']],
  'webstomp-client': ['webstomp', 'websocket', ['node', 'story.mjs', 'text']],
  'webstomp-client-binary': ['webstomp', 'websocket', ['node', 'story.mjs', 'binary']],
  'rx-stomp': ['rx-stomp', 'websocket', ['node', 'story.mjs']],
  stompit: ['stompit', 'tcp', ['node', 'story.mjs']],
  'stomp.py-1.0': ['stomp.py', 'tcp', ['venv/bin/python', 'story.py', '1.0']],
  'stomp.py-1.1': ['stomp.py', 'tcp', ['venv/bin/python', 'story.py', '1.1']],
  'stomp.py-1.2': ['stomp.py', 'tcp', ['venv/bin/python', 'story.py', '1.2']],
  'stomp.py-websocket': ['stomp.py', 'websocket', ['venv/bin/python', 'story.py', 'websocket']],
  'spring-websocket': ['spring', 'websocket', [...java, 'websocket']],
  'spring-websocket-split': ['spring', 'websocket', [...java, 'split']],
  'spring-tcp': ['spring', 'tcp', [...java, 'tcp']],
  vertx: ['vertx', 'tcp', java],
  'go-stomp': ['go-stomp', 'tcp', ['bin/story']],
}

const [program, ...asked] = process.argv.slice(2)
const unknown = asked.filter((name) => !(name in STORIES))
if (!program || unknown.length) {
  console.error(unknown.length ? `no story: ${unknown}` : 'usage: record.mjs RELAY [STORY...]')
  process.exit(2)
}

/** A port that is free now. */
async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

async function answers(port) {
  const socket = net.connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

/** A relay of our own, with its data in a folder of its own. */
async function startRelay() {
  const folder = await mkdtemp(path.join(tmpdir(), 'stomp-relay-recordings-'))
  const [http, admin, tcp] = [await freePort(), await freePort(), await freePort()]
  const at = (port) => `127.0.0.1:${port}`
  const args = ['--dev', '--listen', at(http), '--admin-listen', at(admin)]
  args.push('--tcp-listen', at(tcp), '--store', 'memory:')
  if (BROKER) args.push('--broker', BROKER)
  const child = spawn(path.resolve(program), args, {
    cwd: folder,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill('SIGTERM')
      await once(child, 'exit')
    }
    await rm(folder, { recursive: true })
  }
  for (let tries = 0; !((await answers(http)) && (await answers(tcp))); tries += 1) {
    if (tries > 100 || child.exitCode !== null) {
      await stop()
      throw new Error('the relay does not start')
    }
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  return { websocket: http, tcp, stop }
}

/** Runs a script and returns its lines `@name value`. */
async function run(folder, [command, ...args], env) {
  const cwd = path.join(here, folder)
  const file = command.includes('/') ? path.join(cwd, command) : command
  const child = spawn(file, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: STORY_TIME,
    killSignal: 'SIGKILL',
  })
  let out = ''
  child.stdout.on('data', (chunk) => (out += chunk))
  const [code, signal] = await once(child, 'close')
  if (code !== 0) throw new Error(`${command} ended with ${code ?? signal}\n${out}`)
  return [...out.matchAll(/^@(\S+) (.*)$/gm)].map(([, name, value]) => [name, value])
}

async function record(name, relay) {
  const [folder, wire, command] = STORIES[name]
  const tap = await listen(wire, { host: '127.0.0.1', port: relay[wire] })
  const env = {
    STORY: name,
    RELAY_HOST: '127.0.0.1',
    RELAY_PORT: String(tap.port),
    RELAY_URL: `ws://127.0.0.1:${tap.port}/ws`,
  }
  let head
  try {
    head = await run(folder, command, env)
  } catch (error) {
    tap.close()
    const late = new Promise((resolve) => setTimeout(resolve, 2000))
    const connection = await Promise.race([tap.done, late])
    const shown = connection ? `\n${render([], connection)}` : ''
    throw new Error(`${name}: ${error.message}${shown}`)
  }
  const connection = await tap.done
  const server = connection.entries
    .filter(({ from, kind }) => from === '<' && kind !== 'http')
    .map(({ bytes }) => /^server:(.*)$/m.exec(bytes)?.[1])
    .find((value) => value)
  head.push(['server', server], ['wire', wire])
  head.push(['date', new Date().toISOString().slice(0, 10)])
  const shown = command.map((word) => (word.includes('*') ? `'${word}'` : word)).join(' ')
  head.push(['command', `cd conformance-tests/clients/${folder} && ${shown}`])
  await writeFile(path.join(recordings, `${name}.rec`), render(head, connection))
  console.log(`recorded ${name}`)
}

const relay = await startRelay()
const failures = []
try {
  const waiting = asked.length ? asked : Object.keys(STORIES)
  const worker = async () => {
    for (let name = waiting.shift(); name; name = waiting.shift()) {
      await record(name, relay).catch((error) => failures.push(error.message))
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
} finally {
  await relay.stop()
}
for (const failure of failures) console.error(failure)
process.exitCode = failures.length ? 1 : 0
