// @stomp/rx-stomp: node story.mjs

import { RxStomp } from '@stomp/rx-stomp'
import { WebSocket } from 'ws'

import { Bell, origin, play, relay } from '../story.mjs'

const bell = new Bell()
let receipts = 0

/** RxStomp behind the methods of the story; what it has no call for is its stompClient's. */
class Rx {
  constructor() {
    globalThis.WebSocket ??= WebSocket
    this.inner = new RxStomp()
    this.inner.configure({
      brokerURL: relay.url,
      connectHeaders: { ...relay.account },
      reconnectDelay: 0,
      debug: (line) => bell.ring(line),
    })
  }

  async connect() {
    const connected = bell.wait('connected')
    this.inner.connected$.subscribe(() => bell.ring('connected'))
    this.inner.stompErrors$.subscribe((frame) => {
      console.error(`${frame}`)
      process.exit(1)
    })
    this.inner.activate()
    await connected
  }

  async #receipt(call) {
    const receipt = `receipt-${++receipts}`
    const came = this.inner.asyncReceipt(receipt)
    const result = call({ receipt })
    await came
    return result
  }

  subscribe(destination, headers, put) {
    // UNSUBSCRIBE is sent when the observable is left.
    const gone = `gone-${++receipts}`
    return this.#receipt((receipt) => {
      const watched = this.inner.watch({
        destination,
        subHeaders: { ...headers, ...receipt },
        unsubHeaders: { receipt: gone },
      })
      const take = (frame) =>
        put({ text: frame.body, bytes: frame.binaryBody, headers: frame.headers, frame })
      return { gone, subscription: watched.subscribe(take) }
    })
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
    return this.inner.stompClient.begin()
  }

  async beats() {
    await Promise.all([bell.wait('>>> PING'), bell.wait('<<< PONG')])
  }

  async unsubscribe({ gone, subscription }) {
    const came = this.inner.asyncReceipt(gone)
    subscription.unsubscribe()
    await came
  }

  disconnect() {
    return this.inner.deactivate()
  }
}

origin(new URL('#@stomp/rx-stomp', import.meta.url), ['@stomp/stompjs', 'ws'])
await play(new Rx())
