// webstomp-client: node story.mjs text|binary

import webstomp from 'webstomp-client'
import { WebSocket } from 'ws'

import { Bell, origin, play, relay } from '../story.mjs'

const [kind] = process.argv.slice(2)
const bell = new Bell()
let receipts = 0

class Webstomp {
  constructor() {
    globalThis.WebSocket ??= WebSocket
    this.inner = webstomp.client(relay.url, { binary: kind === 'binary', debug: true })
    this.inner.debug = (line) => bell.ring(line)
    this.inner.onreceipt = (frame) => bell.ring(frame.headers['receipt-id'])
  }

  async connect() {
    const connected = bell.wait('connected')
    const { login, passcode } = relay.account
    this.inner.connect(login, passcode, () => bell.ring('connected'), (problem) => {
      console.error(problem)
      process.exit(1)
    })
    await connected
  }

  async #receipt(call) {
    const receipt = `receipt-${++receipts}`
    const came = bell.wait(receipt)
    const result = call({ receipt })
    await came
    return result
  }

  subscribe(destination, headers, put) {
    const take = (frame) => put({ text: frame.body, headers: frame.headers, frame })
    return this.#receipt((receipt) =>
      this.inner.subscribe(destination, take, { ...headers, ...receipt }),
    )
  }

  send(destination, headers, body) {
    return this.#receipt((receipt) =>
      this.inner.send(destination, body, { ...headers, ...receipt }),
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
    await Promise.all([bell.wait('>>> PING'), bell.wait('<<< PONG')])
  }

  unsubscribe(subscription) {
    return this.#receipt((receipt) => subscription.unsubscribe(receipt))
  }

  disconnect() {
    return new Promise((resolve) => this.inner.disconnect(resolve))
  }
}

origin(new URL('#webstomp-client', import.meta.url), ['ws'])
// Bodies are strings. Headers are neither escaped nor unescaped.
await play(new Webstomp(), { text: 'a:b', shown: 'a\\cb', binary: false })
