// @stomp/stompjs: node story.mjs 5|6|7 [plain|split|binary|1.1|1.0]

import { WebSocket } from 'ws'

import { Bell, origin, play, relay } from '../story.mjs'

const [major, variant = 'plain'] = process.argv.slice(2)
const module = await import(`stompjs-${major}`)
const { Client, Versions } = module.Client ? module : module.default

const bell = new Bell()
let receipts = 0

/** What stomp.js calls a message, as the story wants it. */
const message = (frame) => ({
  get text() {
    return frame.body
  },
  get bytes() {
    return frame.binaryBody
  },
  headers: frame.headers,
  frame,
})

/** @stomp/stompjs behind the methods of the story. rx-stomp passes its own inner client. */
class StompJs {
  constructor() {
    // The package was written for browsers.
    globalThis.WebSocket ??= WebSocket
    this.inner = new Client({
      brokerURL: relay.url,
      connectHeaders: { ...relay.account },
      reconnectDelay: 0,
      debug: (line) => bell.ring(line),
      ...variants[variant],
    })
  }

  async connect() {
    const connected = bell.wait('connected')
    this.inner.onConnect = () => bell.ring('connected')
    this.inner.onStompError = (frame) => {
      console.error(`${frame}`)
      process.exit(1)
    }
    this.inner.activate()
    await connected
  }

  /** Calls with a receipt and waits for it. */
  async #receipt(call) {
    const receipt = `receipt-${++receipts}`
    const came = bell.wait(receipt)
    this.inner.watchForReceipt(receipt, () => bell.ring(receipt))
    const result = call({ receipt })
    await came
    return result
  }

  subscribe(destination, headers, put) {
    const take = (frame) => put(message(frame))
    return this.#receipt((receipt) =>
      this.inner.subscribe(destination, take, { ...headers, ...receipt }),
    )
  }

  send(destination, headers, body) {
    const what = typeof body === 'string' ? { body } : { binaryBody: body }
    return this.#receipt((receipt) =>
      this.inner.publish({ destination, headers: { ...headers, ...receipt }, ...what }),
    )
  }

  ack({ frame }, headers = {}) {
    return this.#receipt((receipt) => frame.ack({ ...headers, ...receipt }))
  }

  nack({ frame }) {
    return this.#receipt((receipt) => frame.nack(receipt))
  }

  begin() {
    return this.inner.begin()
  }

  async beats() {
    if (variant === '1.0') return
    await Promise.all([bell.wait('>>> PING'), bell.wait('<<< PONG')])
  }

  unsubscribe(subscription) {
    return this.#receipt((receipt) => subscription.unsubscribe(receipt))
  }

  disconnect() {
    return this.inner.deactivate()
  }
}

const variants = {
  plain: {},
  split: { splitLargeFrames: true },
  binary: { forceBinaryWSFrames: true },
  1.1: { stompVersions: new Versions(['1.1']) },
  '1.0': { stompVersions: new Versions(['1.0']) },
}

origin(new URL(`#stompjs-${major}`, import.meta.url), ['ws'])
// Escapes are for 1.2 only here: in 1.1 a colon goes out as it is, and comes back as two letters.
const texts = { 1.1: { text: 'a:b', shown: 'a\\cb' }, '1.0': { text: 'a:b' } }
await play(new StompJs(), texts[variant])
