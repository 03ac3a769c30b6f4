// stompjs 2.3.3, the one before the stomp-js project took over: node story.mjs ws|tcp

import Stomp from 'stompjs'

import { Bell, origin, play, relay } from '../story.mjs'

const [wire] = process.argv.slice(2)
const bell = new Bell()
let receipts = 0

class Old {
  constructor() {
    this.inner =
      wire === 'ws' ? Stomp.overWS(relay.url) : Stomp.overTCP(relay.host, relay.port)
    this.inner.debug = (line) => bell.ring(line)
    this.inner.onreceipt = (frame) => bell.ring(frame.headers['receipt-id'])
  }

  async connect() {
    const connected = bell.wait('connected')
    const { login, passcode } = relay.account
    this.inner.connect(login, passcode, () => bell.ring('connected'), (problem) => {
      console.error(`${problem}`)
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
      this.inner.send(destination, { ...headers, ...receipt }, body),
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

  /** Takes no headers, so there is no receipt to wait for. */
  unsubscribe(subscription) {
    subscription.unsubscribe()
  }

  disconnect() {
    return new Promise((resolve) => this.inner.disconnect(resolve))
  }
}

origin(new URL('#stompjs', import.meta.url), wire === 'ws' ? ['websocket'] : [])
// Bodies are strings. Headers are neither escaped nor unescaped.
await play(new Old(), { text: 'a:b', shown: 'a\\cb', binary: false })
