// A TCP proxy that looks on: what passes is not touched, and is kept with its time.
// Of WebSocket the messages are kept, unmasked; of TCP the pieces in which the bytes came.

import net from 'node:net'

/** One connection as it passed: entries { from, at, kind, bytes } in order. */
class Connection {
  entries = []
  #began = performance.now()

  add(from, kind, bytes) {
    this.entries.push({ from, at: (performance.now() - this.#began) / 1000, kind, bytes })
  }
}

/** Both sides of a TCP connection. */
class TcpReader {
  constructor(from, connection) {
    this.from = from
    this.connection = connection
  }

  push(bytes) {
    this.connection.add(this.from, 'bytes', bytes)
  }
}

const OPCODES = { 0: 'continuation', 1: 'text', 2: 'binary', 8: 'close', 9: 'ping', 10: 'pong' }

/** One side of a WebSocket connection: the head of HTTP, then frames (RFC 6455 section 5.2). */
class WebSocketReader {
  #bytes = Buffer.alloc(0)
  #isOpen = false

  constructor(from, connection) {
    this.from = from
    this.connection = connection
  }

  push(bytes) {
    this.#bytes = Buffer.concat([this.#bytes, bytes])
    if (!this.#isOpen) {
      const end = this.#bytes.indexOf('\r\n\r\n')
      if (end < 0) return
      this.connection.add(this.from, 'http', this.#take(end + 4))
      this.#isOpen = true
    }
    while (this.#frame()) {
      // One more.
    }
  }

  #frame() {
    const bytes = this.#bytes
    if (bytes.length < 2) return false
    let length = bytes[1] & 0x7f
    let at = 2
    if (length === 126) {
      if (bytes.length < 4) return false
      length = bytes.readUInt16BE(2)
      at = 4
    } else if (length === 127) {
      if (bytes.length < 10) return false
      length = Number(bytes.readBigUInt64BE(2))
      at = 10
    }
    const isMasked = (bytes[1] & 0x80) !== 0
    const start = at + (isMasked ? 4 : 0)
    if (bytes.length < start + length) return false
    const isLast = (bytes[0] & 0x80) !== 0
    const kind = OPCODES[bytes[0] & 0x0f] ?? `opcode-${bytes[0] & 0x0f}`
    if ((bytes[0] & 0x70) !== 0) throw new Error('a frame with an extension')
    const mask = bytes.subarray(at, at + 4)
    const payload = Buffer.from(this.#take(start + length).subarray(start))
    if (isMasked) payload.forEach((byte, i) => (payload[i] = byte ^ mask[i % 4]))
    this.connection.add(this.from, isLast ? kind : `${kind} unfinished`, payload)
    return true
  }

  #take(length) {
    const taken = this.#bytes.subarray(0, length)
    this.#bytes = this.#bytes.subarray(length)
    return taken
  }
}

/** Listens on a free port; `done` resolves with the connection once it is over. */
export async function listen(wire, target) {
  const Reader = wire === 'websocket' ? WebSocketReader : TcpReader
  let finish
  const done = new Promise((resolve) => (finish = resolve))
  const server = net.createServer({ noDelay: true }, (client) => {
    // One recording is one connection.
    server.close()
    const connection = new Connection()
    const relay = net.connect({ ...target, noDelay: true })
    const pass = (from, source, other) => {
      const reader = new Reader(from, connection)
      source.on('data', (bytes) => {
        reader.push(bytes)
        other.write(bytes)
      })
      source.on('end', () => {
        connection.add(from, 'end', Buffer.alloc(0))
        other.end()
      })
      source.on('error', () => {
        connection.add(from, 'reset', Buffer.alloc(0))
        other.destroy()
      })
    }
    pass('>', client, relay)
    pass('<', relay, client)
    let open = 2
    const closed = () => --open === 0 && finish(connection)
    client.on('close', closed)
    relay.on('close', closed)
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return { port: server.address().port, done, close: () => server.close() }
}

/** Shorter runs of x are written as they are. */
const FILL = 64

/** The text of a recording: conformance-tests/recordings/README.md has the format. */
export function render(head, { entries }) {
  const lines = head.map(([name, value]) => `@${name} ${value}`)
  for (const { from, at, kind, bytes } of entries) {
    lines.push('', `${from}${kind} ${at.toFixed(3)}`)
    // A close's code is two bytes (RFC 6455 section 5.5.1).
    const code = kind === 'close' && bytes.length >= 2 ? bytes.readUInt16BE(0) : undefined
    if (code !== undefined) lines[lines.length - 1] += ` ${code}`
    const payload = code === undefined ? bytes : bytes.subarray(2)
    for (const piece of pieces(payload)) lines.push(`${from}${line(piece)}`)
  }
  return `${lines.join('\n')}\n`
}

/** Cuts after every LF and every NUL. */
function* pieces(bytes) {
  let start = 0
  for (let at = 0; at < bytes.length; at += 1) {
    if (bytes[at] === 10 || bytes[at] === 0) {
      yield bytes.subarray(start, at + 1)
      start = at + 1
    }
  }
  if (start < bytes.length) yield bytes.subarray(start)
}

function line(piece) {
  const last = piece[piece.length - 1]
  const text = last === 10 || last === 0 ? plain(piece.subarray(0, -1)) : undefined
  if (text === undefined) return `|${raw(piece)}`
  const shown = last === 0 ? `${text}^@` : text
  return shown === '' ? '' : ` ${shown}`
}

const fatal = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/** Text that stands for itself, or undefined: then the bytes are written with escapes. */
function plain(bytes) {
  let text
  try {
    text = fatal.decode(bytes)
  } catch {
    return undefined
  }
  let end = ''
  if (text.endsWith('\r')) {
    end = '^M'
    text = text.slice(0, -1)
  }
  if (/[\p{C}\u2028\u2029]|\^@|\^M|\$\{/u.test(text) || / $/.test(text + end)) return undefined
  return fill(text) + end
}

const fill = (text) =>
  text.replace(new RegExp(`x{${FILL},}`, 'g'), (run) => `\${fill:${run.length}}`)

/** Escapes as in a transcript: \0 \r \n \t \\ \xNN. */
function raw(bytes) {
  let letters
  try {
    letters = Array.from(fatal.decode(bytes))
  } catch {
    // No UTF-8: what is not ASCII is written byte by byte.
    letters = Array.from(bytes, (byte) => (byte > 126 ? byte : String.fromCharCode(byte)))
  }
  const text = fill(letters.map(escape).join(''))
  // Editors take spaces away at the end of a line.
  return text.replace(/ $/, hex(32))
}

const NAMED = { '\0': '\\0', '\t': '\\t', '\n': '\\n', '\r': '\\r', '\\': '\\\\' }

/** A letter, or a byte that is none. */
function escape(letter) {
  if (typeof letter === 'number') return hex(letter)
  if (!/[\p{C}\u2028\u2029$\\]/u.test(letter)) return letter
  return NAMED[letter] ?? Array.from(Buffer.from(letter), hex).join('')
}

const hex = (byte) => `\\x${byte.toString(16).padStart(2, '0')}`
