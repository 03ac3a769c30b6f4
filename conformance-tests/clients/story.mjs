// The story that every client tells, and what the scripts of the npm clients share.
//
// A client is put behind these methods, which resolve once the effect is known, by a receipt where
// the client can ask for one: connect, subscribe, send, ack, nack, unsubscribe, begin, beats,
// disconnect. The same story is written in Python, Java and Go beside this file.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'

const { RELAY_HOST, RELAY_PORT, RELAY_URL, STORY } = process.env

export const relay = {
  host: RELAY_HOST,
  port: Number(RELAY_PORT),
  url: RELAY_URL,
  account: { login: 'guest', passcode: 'guest' },
}
export const topic = `/topic/rec.${STORY}`
export const queue = `/queue/rec-${STORY}`

const LARGE = 40_000
const PATIENCE = 25_000

/** Lines for the head of the recording: name and version of a package in node_modules. */
export function origin(folder, modules = []) {
  const read = (name) =>
    JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, folder), 'utf8'))
  const { name, version } = read(folder.hash.slice(1))
  const others = modules.map((other) => `, ${other} ${read(other).version}`).join('')
  console.log(`@client ${name}`)
  console.log(`@version ${version}`)
  console.log('@registry npm')
  console.log(`@runtime node ${process.versions.node}${others}`)
}

/** A promise that fails where nothing happens. */
export function within(promise, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came: ${what}`)), PATIENCE)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Calls back the one who waits for a key. */
export class Bell {
  #waiting = new Map()

  wait(key) {
    return within(new Promise((resolve) => this.#waiting.set(key, resolve)), key)
  }

  ring(key, value) {
    this.#waiting.get(key)?.(value)
    this.#waiting.delete(key)
  }
}

/** Messages in the order in which they came. */
export class Inbox {
  #messages = []
  #waiting = []

  put = (message) => {
    const waiting = this.#waiting.shift()
    if (waiting) waiting(message)
    else this.#messages.push(message)
  }

  next(what) {
    if (this.#messages.length) return Promise.resolve(this.#messages.shift())
    return within(new Promise((resolve) => this.#waiting.push(resolve)), what)
  }
}

/**
 * A header's value with all that 1.2 escapes but CR. The space: @stomp/stompjs 5 to 7 decode `\\`
 * last, and so take an escaped backslash before a letter for another escape.
 */
const TEXT = 'a:b\\ c\nd'

/**
 * Plays the story. `text` is the value of a header, `shown` what the client makes of it when it
 * comes back; `binary`: the client can send bytes. A message is { text, bytes, headers } as the
 * client understood it.
 */
export async function play(client, { text = TEXT, shown = text, binary = true } = {}) {
  await client.connect()
  const news = new Inbox()
  const jobs = new Inbox()
  const onTopic = await client.subscribe(topic, {}, news.put)
  const onQueue = await client.subscribe(queue, { ack: 'client-individual' }, jobs.put)

  await client.send(topic, { 'content-type': 'text/plain', 'x-text': text }, 'Grüße, 世界')
  const greeting = await news.next('text')
  assert.equal(greeting.text, 'Grüße, 世界')
  assert.equal(greeting.headers['x-text'], shown)
  if (binary) {
    const bytes = Uint8Array.of(0, 1, 10, 0, 253, 254, 255)
    await client.send(topic, {}, bytes)
    assert.deepEqual(new Uint8Array((await news.next('binary')).bytes), bytes)
  }

  await client.send(queue, {}, 'one')
  await client.ack(await jobs.next('one'))
  await client.send(queue, {}, 'two')
  await client.nack(await jobs.next('two'))
  const again = await jobs.next('two again')
  assert.equal(again.text, 'two')
  await client.ack(again)

  const kept = await client.begin()
  await client.send(queue, { transaction: kept.id }, 'three')
  await kept.commit()
  const third = await jobs.next('three')
  const taken = await client.begin()
  await client.ack(third, { transaction: taken.id })
  await taken.commit()
  const dropped = await client.begin()
  await client.send(queue, { transaction: dropped.id }, 'never')
  await dropped.abort()

  await client.send(topic, {}, 'x'.repeat(LARGE))
  assert.equal((await news.next('large')).text.length, LARGE)

  await client.beats()
  await client.unsubscribe(onQueue)
  await client.unsubscribe(onTopic)
  await client.disconnect()
}
