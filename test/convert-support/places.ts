import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, createServer, type IncomingMessage, request } from 'node:http'
import { Agent as SecureAgent, request as secureRequest } from 'node:https'
import type { AddressInfo } from 'node:net'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { type Conversion, convert, includedBelow, type Language } from '../../src/convert/convert.js'
import { configFrom, type ProxyDocument, type ReverseProxy, startProxy } from '../../src/proxy/index.js'
import { issue } from '../processes/certificate.js'
import { freePort } from '../processes/scene.js'
import { pause } from '../processes/until.js'
import { withoutNamedRefusals } from './named-refusals.js'

/** The names of the listeners in files: `@port`, `@second`, and `@tls`, which speaks TLS. A file has the first. */
export const LISTENERS = ['port', 'second', 'tls'] as const
export type Listener = (typeof LISTENERS)[number]
type Ports = Readonly<Record<Listener, number>>

/** A request, as both servers get it. */
export interface Asked {
  readonly at: Listener
  readonly host: string
  readonly path: string
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  /** The client's address, in 127.0.0.0/8. */
  readonly from: string
}

/** The answer to a request, and what a server has seen of it; `server` is null if none has. */
export interface Got {
  readonly status: number
  readonly location: string | null
  readonly set: Readonly<Record<string, string>>
  readonly body: string
  readonly server: string | null
  readonly seen: {
    readonly url: string
    readonly method: string
    readonly headers: Record<string, string>
  } | null
}

const NAMES = ['one', 'two', 'three'] as const
/** Headers that the files change, in both directions. */
const OF_FILES = /^(?:host|x[-_][abc]|x-real-ip)$/
/** Files that the files of both servers name. */
const FILES = [
  ['htpasswd', 'a:{PLAIN}a\n'],
  ['deny.conf', 'allow 127.0.0.1;\ndeny all;\n'],
  ['headers.conf', 'proxy_set_header X-B of-file;\nproxy_hide_header X-B;\n'],
  ['paths.lst', '/a\n/d/b\n# none\n'],
  ['nets.lst', '127.0.0.1\n10.0.0.0/8\n'],
  ['hosts.lst', 'a.test\nb.test\n'],
  ['paths.map', '/a yes\n/d/b no\n'],
  ['hosts.map', 'a.test three\nb.test one\n'],
  ['backends.map', '/a three\n/d two\n'],
] as const
/** The status of a connection that was closed without an answer. */
const CLOSED = 444

/** Servers that say what has reached them: three that answer, and one that decides by the header `X-Pass`. */
async function echoes(): Promise<Record<string, number>> {
  const ports: Record<string, number> = {}
  for (const name of [...NAMES, 'judge']) {
    const server = createServer({ keepAlive: true }, (asked, response) => {
      const { method, url, headers } = asked
      response.setHeader('X-A', `of ${name}`)
      response.setHeader('X-B', `of ${name}`)
      if (name === 'judge') {
        response.writeHead(headers['x-pass'] === '1' ? 200 : 401)
        response.end()
        return
      }
      const known = Object.entries(headers).filter(([key]) => OF_FILES.test(key))
      const seen = { name, method, url, headers: Object.fromEntries(known) }
      // Answers to HEAD have no body.
      response.setHeader('X-Seen', JSON.stringify(seen))
      response.end(name)
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => {
      server.close()
      server.closeAllConnections()
    })
    ports[name] = (server.address() as AddressInfo).port
  }
  return ports
}

interface Agents {
  readonly plain: Agent
  readonly secure: SecureAgent
}

async function freePorts(): Promise<Ports> {
  const all: [Listener, number][] = []
  for (const name of LISTENERS) all.push([name, await freePort()])
  return Object.fromEntries(all) as unknown as Ports
}

function ask(port: number, { plain, secure }: Agents, asked: Asked): Promise<Got> {
  const { host, path, method, headers, from, at } = asked
  const to = { port, host: '127.0.0.1', localAddress: from, path, method, headers: { host, ...headers } }
  return new Promise(resolve => {
    const closed = { status: CLOSED, location: null, set: {}, body: '', server: null, seen: null }
    const send = (then: (response: IncomingMessage) => void) =>
      at === 'tls'
        ? secureRequest({ ...to, agent: secure, servername: host, rejectUnauthorized: false }, then)
        : request({ ...to, agent: plain }, then)
    const sent = send(response => {
      let body = ''
      response.setEncoding('latin1').on('data', chunk => {
        body += chunk
      })
      response.on('error', () => resolve(closed))
      response.on('end', () => {
        const status = response.statusCode ?? 0
        const told = response.headers['x-seen']
        const own = told === undefined ? null : JSON.parse(String(told))
        const set = Object.entries(response.headers).filter(([key]) => OF_FILES.test(key))
        const { location } = response.headers
        const whole = location?.startsWith('/')
          ? `http${at === 'tls' ? 's' : ''}://${host}:${port}${location}`
          : location
        resolve({
          status,
          location: whole?.replace(`:${port}`, ':PORT') ?? null,
          set: Object.fromEntries(set.map(([key, value]) => [key, String(value)])),
          // Servers have bodies of their own for errors, redirects and monitors.
          body: own === null && status < 300 && !/Service ready/.test(body) ? body : '',
          server: own?.name ?? null,
          seen: own === null ? null : { url: own.url, method: own.method, headers: own.headers },
        })
      })
    })
    sent.on('error', () => resolve(closed))
    sent.end()
  })
}

/** Both servers, in turn with one file after the other: the other server is started for each, the proxy reads it by a reload. */
export class Places {
  readonly #language: Language
  readonly #folder = mkdtempSync(join(tmpdir(), 'convert-'))
  readonly #ports: Readonly<Record<string, number>>
  readonly #theirs: Ports
  readonly #ours: Ports
  #proxy: ReverseProxy | null = null

  private constructor(language: Language, ports: Record<string, number>, theirs: Ports, ours: Ports) {
    this.#language = language
    this.#ports = ports
    this.#theirs = theirs
    this.#ours = ours
    const { cert, key } = issue(this.#folder, 'edge', ['*.test'])
    writeFileSync(join(this.#folder, 'edge.pem'), readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'))
  }

  static async open(language: Language): Promise<Places> {
    const places = new Places(language, await echoes(), await freePorts(), await freePorts())
    onTestFinished(async () => {
      await places.#proxy?.close({ timeout: 0 })
      rmSync(places.#folder, { recursive: true, force: true })
    })
    return places
  }

  get #file(): string {
    return join(this.#folder, this.#language === 'nginx' ? 'nginx.conf' : 'haproxy.cfg')
  }

  /** Null if the other server refuses the file. */
  async #theirAnswers(filled: string, asked: readonly Asked[]): Promise<Got[] | null> {
    writeFileSync(this.#file, filled)
    for (const [name, lines] of FILES) writeFileSync(join(this.#folder, name), lines)
    return await this.#other(this.#file, () => this.#all(this.#theirs, asked))
  }

  /** The text with the ports of this run for the names of servers. */
  filled(text: string): string {
    let filled = text.replaceAll('@home', this.#folder)
    for (const name of LISTENERS) filled = filled.replaceAll(`@${name}`, String(this.#theirs[name]))
    for (const [name, port] of Object.entries(this.#ports))
      filled = filled.replaceAll(`@${name}`, `127.0.0.1:${port}`)
    return filled
  }

  /** The answers of both to the requests; null if the other server refuses the file. */
  async compare(
    text: string,
    asked: readonly Asked[],
  ): Promise<{ conversion: Conversion | null; theirs: Got[]; ours: Got[] } | null> {
    const filled = this.filled(text)
    const theirs = await this.#theirAnswers(filled, asked)
    if (theirs === null) return null
    const conversion = this.#converted(filled, this.#file)
    // No listener is left.
    if (conversion === null) return { conversion, theirs, ours: [] }
    const control = join(this.#folder, 'upgrade.sock')
    let own = JSON.stringify(conversion.document)
    for (const name of LISTENERS) own = own.replaceAll(`:${this.#theirs[name]}`, `:${this.#ours[name]}`)
    // There are no such files.
    const config = configFrom({
      ...JSON.parse(own),
      errorPages: {},
      control,
      upgrade: { probation: '0s' },
    } as ProxyDocument)
    if (this.#proxy === null) this.#proxy = await startProxy(config)
    else await this.#proxy.reload(config)
    return { conversion, theirs, ours: await this.#all(this.#ours, asked) }
  }

  /** The answers of the other server without the refusals that the conversion names; null if it names none. */
  async withoutNamedRefusals(
    text: string,
    conversion: Conversion,
    asked: readonly Asked[],
  ): Promise<Got[] | null> {
    const without = withoutNamedRefusals(text, conversion, this.#language)
    return without === text ? null : await this.answersTo(without, asked)
  }

  /** The answers of the other server to a file that it must not refuse. */
  async answersTo(text: string, asked: readonly Asked[]): Promise<Got[]> {
    const answers = await this.#theirAnswers(this.filled(text), asked)
    if (answers === null) throw new Error(`${this.refusals.at(-1)}\n${text}`)
    return answers
  }

  #converted(text: string, file: string): Conversion | null {
    try {
      return convert(text, { file, language: this.#language, service: 'edge', included: includedBelow(file) })
    } catch (error) {
      if (/no listener is left/.test(String(error))) return null
      throw error
    }
  }

  async #all(ports: Ports, asked: readonly Asked[]): Promise<Got[]> {
    const options = { keepAlive: true, maxSockets: 4 }
    const agents = { plain: new Agent(options), secure: new SecureAgent(options) }
    try {
      return await Promise.all(asked.map(each => ask(ports[each.at], agents, each)))
    } finally {
      agents.plain.destroy()
      agents.secure.destroy()
    }
  }

  async #other<T>(file: string, use: () => Promise<T>): Promise<T | null> {
    const [command, ...args] =
      this.#language === 'nginx'
        ? ['nginx', '-p', this.#folder, '-c', file, '-e', join(this.#folder, 'start.log')]
        : ['haproxy', '-db', '-f', file]
    const child = spawn(command!, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    let said = ''
    child.stderr.setEncoding('utf8').on('data', chunk => {
      said += chunk
    })
    const ended = once(child, 'exit')
    try {
      for (;;) {
        if (await this.#accepts(readFileSync(file, 'utf8'))) break
        await pause(3)
        if (child.exitCode !== null) {
          this.refusals.push(said === '' ? readFileSync(join(this.#folder, 'start.log'), 'utf8') : said)
          return null
        }
      }
      return await use()
    } finally {
      child.kill('SIGKILL')
      await ended
    }
  }

  /** Why the other server has refused files. */
  readonly refusals: string[] = []

  /** Whether the other server accepts connections on each listener of its file: it opens them one after the other. */
  async #accepts(text: string): Promise<boolean> {
    const ports = Object.values(this.#theirs).filter(port => text.includes(`:${port}`))
    return (await Promise.all(ports.map(accepts))).every(each => each)
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    socket.on('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}
