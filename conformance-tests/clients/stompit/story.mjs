// stompit, over TCP: node story.mjs

import stompit from 'stompit'

import { origin, play, relay, within } from '../story.mjs'

/** A promise of a receipt, and the option that asks for one. */
function receipt() {
  let options
  const came = new Promise((resolve, reject) => {
    options = { onReceipt: resolve, onError: reject }
  })
  return { came: within(came, 'receipt'), options }
}

class Stompit {
  async connect() {
    this.inner = await new Promise((resolve, reject) => {
      const options = {
        host: relay.host,
        port: relay.port,
        connectHeaders: { ...relay.account, 'heart-beat': '10000,10000' },
      }
      stompit.connect(options, (error, client) => (error ? reject(error) : resolve(client)))
    })
  }

  subscribe(destination, headers, put) {
    return this.inner.subscribe({ destination, ...headers }, (error, message) => {
      if (error) throw error
      const chunks = []
      message.on('data', (chunk) => chunks.push(chunk))
      message.on('end', () => {
        const bytes = Buffer.concat(chunks)
        put({ text: bytes.toString(), bytes, headers: message.headers, message })
      })
    })
  }

  async send(destination, headers, body) {
    const { came, options } = receipt()
    // Without a content-length the body ends at the first NUL.
    const length = typeof body === 'string' ? {} : { 'content-length': body.length }
    const frame = this.inner.send({ destination, ...headers, ...length }, options)
    frame.end(typeof body === 'string' ? body : Buffer.from(body))
    await came
  }

  async ack({ message }, headers) {
    const { came, options } = receipt()
    this.inner.ack(message, headers, options)
    await came
  }

  async nack({ message }) {
    const { came, options } = receipt()
    this.inner.nack(message, {}, options)
    await came
  }

  begin() {
    const transaction = this.inner.begin()
    const end = (how) => async () => {
      const { came, options } = receipt()
      transaction[how](options)
      await came
    }
    return { id: transaction.id, commit: end('commit'), abort: end('abort') }
  }

  /** Says nothing of beats: the recording is looked at for them. */
  beats() {
    return new Promise((resolve) => setTimeout(resolve, 11_000))
  }

  async unsubscribe(subscription) {
    subscription.unsubscribe()
  }

  disconnect() {
    return within(
      new Promise((resolve, reject) => {
        this.inner.disconnect((error) => (error ? reject(error) : resolve()))
      }),
      'end',
    )
  }
}

origin(new URL('#stompit', import.meta.url))
await play(new Stompit())
