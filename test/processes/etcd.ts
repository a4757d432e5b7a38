import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Certificate } from './certificate.js'
import { freePort } from './scene.js'
import { until } from './until.js'

const base64 = (text: string) => Buffer.from(text).toString('base64')

interface Place {
  file(name: string): string
  readonly marked: Readonly<Record<string, string>>
}

/** A real etcd of one member, which ends with the scene. */
export class Etcd {
  readonly url: string
  readonly #peer: string
  readonly #scene: Place
  /** Null without TLS. */
  readonly #certificate: Certificate | null
  readonly #secure: string
  #token = ''
  #process: ChildProcess | null = null

  private constructor(
    scene: Place,
    [port, peer, secure]: readonly number[],
    certificate: Certificate | null,
  ) {
    this.#scene = scene
    this.#certificate = certificate
    this.#secure = `https://127.0.0.1:${secure}`
    this.url = `http://127.0.0.1:${port}`
    this.#peer = `http://127.0.0.1:${peer}`
  }

  static async start(scene: Place, certificate: Certificate | null = null): Promise<Etcd> {
    const ports = [await freePort(), await freePort(), await freePort()]
    const etcd = new Etcd(scene, ports, certificate)
    await etcd.start()
    return etcd
  }

  /** With TLS if it has a certificate. */
  get port(): string {
    return new URL(this.#certificate === null ? this.url : this.#secure).port
  }

  async start(): Promise<void> {
    const { cert = '', key = '' } = this.#certificate ?? {}
    const flags = {
      'data-dir': this.#scene.file('etcd'),
      'listen-client-urls': cert === '' ? this.url : `${this.url},${this.#secure}`,
      ...(cert !== '' && { 'cert-file': cert, 'key-file': key }),
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

  /** From now on only the user root may read and write. */
  async requirePassword(password: string): Promise<void> {
    await this.call('auth/user/add', { name: 'root', password })
    await this.call('auth/role/add', { name: 'root' })
    await this.call('auth/user/grant', { user: 'root', role: 'root' })
    await this.call('auth/enable', {})
    this.#token = (await this.#ask('auth/authenticate', { name: 'root', password })).token
  }

  async call(path: string, body: object): Promise<string> {
    return (await this.#ask(path, body)).header.revision
  }

  async #ask(path: string, body: object): Promise<{ header: { revision: string }; token: string }> {
    const answer = await fetch(`${this.url}/v3/${path}`, {
      method: 'POST',
      headers: this.#token === '' ? {} : { authorization: this.#token },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    })
    if (!answer.ok) throw new Error(`etcd answered ${answer.status}: ${await answer.text()}`)
    return (await answer.json()) as { header: { revision: string }; token: string }
  }
}
