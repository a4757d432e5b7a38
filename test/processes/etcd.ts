import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { freePort, type Scene } from './scene.js'
import { until } from './until.js'

const base64 = (text: string) => Buffer.from(text).toString('base64')

/** A real etcd of one member, which ends with the scene. */
export class Etcd {
  readonly url: string
  readonly #peer: string
  readonly #scene: Scene
  #process: ChildProcess | null = null

  private constructor(scene: Scene, port: number, peer: number) {
    this.#scene = scene
    this.url = `http://127.0.0.1:${port}`
    this.#peer = `http://127.0.0.1:${peer}`
  }

  static async start(scene: Scene): Promise<Etcd> {
    const etcd = new Etcd(scene, await freePort(), await freePort())
    await etcd.start()
    return etcd
  }

  async start(): Promise<void> {
    const flags = {
      'data-dir': this.#scene.file('etcd'),
      'listen-client-urls': this.url,
      'advertise-client-urls': this.url,
      'listen-peer-urls': this.#peer,
      'initial-advertise-peer-urls': this.#peer,
      'initial-cluster': `default=${this.#peer}`,
    }
    const args = Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value])
    this.#process = spawn('etcd', args, {
      stdio: 'ignore',
      env: { ...process.env, ...this.#scene.marked },
    })
    await until('etcd answers', () => this.call('kv/range', { key: base64('a') }).catch(() => null), 60_000)
  }

  async stop(): Promise<void> {
    const ended = once(this.#process!, 'exit')
    this.#process!.kill('SIGKILL')
    await ended
  }

  /** The revision after the change. */
  async put(key: string, value: string): Promise<string> {
    return await this.call('kv/put', { key: base64(key), value: base64(value) })
  }

  async delete(key: string): Promise<string> {
    return await this.call('kv/deleterange', { key: base64(key) })
  }

  /** One revision with at most 128 entries. */
  async putAll(entries: readonly (readonly [string, string])[]): Promise<string> {
    const success = entries.map(([key, value]) => ({
      requestPut: { key: base64(key), value: base64(value) },
    }))
    return await this.call('kv/txn', { success })
  }

  /** The store forgets the changes before a revision. */
  async compact(revision: string): Promise<void> {
    await this.call('kv/compaction', { revision, physical: true })
  }

  async call(path: string, body: object): Promise<string> {
    const answer = await fetch(`${this.url}/v3/${path}`, {
      method: 'POST',
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    })
    if (!answer.ok) throw new Error(`etcd answered ${answer.status}: ${await answer.text()}`)
    const { header } = (await answer.json()) as { header: { revision: string } }
    return header.revision
  }
}
