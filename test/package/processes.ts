import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { pause, until } from '../processes/until.js'
import type { Project } from './project.js'
import { ROOT } from './tarball.js'

/** A process of the installed package that runs on, until it is told to end. */
class Running {
  text = ''
  readonly ended: Promise<number | null>
  readonly pid: number
  readonly #child

  constructor(project: Project, command: readonly string[]) {
    const [file = '', ...args] = command
    const child = spawn(file, args, {
      cwd: project.folder,
      env: project.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#child = child
    this.pid = child.pid ?? 0
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', data => (this.text += data))
    this.ended = once(child, 'exit').then(([code]) => code as number | null)
  }

  async says(what: string): Promise<void> {
    await until(
      `it says ${what}`,
      () => this.text.includes(what),
      15_000,
      () => this.text,
    )
  }

  end(): void {
    this.#child.kill('SIGTERM')
  }
}

export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  probe.close()
  await once(probe, 'close')
  return port
}

/** Asks over kept connections, one question after the other in each of four, until it is told to stop. */
class Load {
  readonly answers: string[] = []
  readonly #agent = new http.Agent({ keepAlive: true })
  readonly #clients: Promise<void>[]
  #going = true

  constructor(url: string) {
    this.#clients = Array.from({ length: 4 }, async () => {
      while (this.#going) {
        this.answers.push(await this.#ask(url))
        await pause(2)
      }
    })
  }

  /** Every answer by how often it came. */
  async end(): Promise<Map<string, number>> {
    this.#going = false
    await Promise.all(this.#clients)
    this.#agent.destroy()
    const counts = new Map<string, number>()
    for (const answer of this.answers) counts.set(answer, (counts.get(answer) ?? 0) + 1)
    return counts
  }

  #ask(url: string): Promise<string> {
    return new Promise(resolve => {
      const request = http.get(url, { agent: this.#agent }, response => {
        let text = ''
        response.setEncoding('utf8').on('data', data => (text += data))
        response.on('end', () => resolve(text))
        response.on('error', error => resolve(`lost: ${error.message}`))
      })
      request.on('error', error => resolve(`lost: ${error.message}`))
    })
  }
}

/** Two processes of the installed package, and every request between them answered. Returns the faults. */
export async function checkHandoff(project: Project): Promise<string[]> {
  const member = project.write('member.mjs', readFileSync(join(ROOT, 'test/package/member.mjs'), 'utf8'))
  const port = await freePort()
  const control = join(project.folder, 'shop', 'upgrade.sock')
  const start = () => new Running(project, ['node', member, control, `tcp://127.0.0.1:${port}`])
  const first = start()
  await first.says('"generation":1')
  const load = new Load(`http://127.0.0.1:${port}/`)
  await until('the load is answered', () => load.answers.length > 20)
  const second = start()
  await second.says('"generation":2')
  const ended = await first.ended
  const before = load.answers.length
  await until('the second one answers', () => load.answers.length > before + 20)
  const counts = await load.end()
  second.end()
  const wrong: string[] = []
  if (ended !== 0 || (await second.ended) !== 0)
    wrong.push(`they did not end well: ${first.text}${second.text}`)
  const expected = [String(first.pid), String(second.pid)].sort()
  if ([...counts.keys()].sort().join() !== expected.join())
    wrong.push(`answers were ${JSON.stringify([...counts])}, not of ${expected.join(' and ')} alone`)
  return wrong
}

/** The proxy, asked and replaced by its commands. Returns the faults. */
export async function checkCommands(project: Project): Promise<string[]> {
  const wrong: string[] = []
  const port = await freePort()
  const control = join(project.folder, 'edge', 'upgrade.sock')
  const config = project.write(
    'edge.yaml',
    `service: edge
control: ${control}
instanceHeader: X-Pid
listeners:
  - { name: http, address: "tcp://127.0.0.1:${port}" }
upgrade: { probation: 500ms }
routes:
  - { host: "*", path: /, respond: { status: 200, body: "ok\\n" } }
`,
  )
  const proxy = new Running(project, [project.bin, 'proxy', '--config', config])
  const asked = () => fetch(`http://127.0.0.1:${port}/`).catch(() => null)
  const answer = await until('the proxy answers', asked, 15_000, () => proxy.text)
  if ((await answer.text()) !== 'ok\n' || answer.headers.get('x-pid') !== String(proxy.pid))
    wrong.push('the proxy answers otherwise than it was told')
  const upgraded = await project.run([project.bin, 'upgrade', '--control', control])
  if (upgraded.code !== 0) wrong.push(`upgrade: ${upgraded.text}${proxy.text}`)
  const status = await project.run([project.bin, 'status', '--control', control, '--json'])
  const { pid, generation } = JSON.parse(status.text || '{}') as { pid?: number; generation?: number }
  if (status.code !== 0 || generation !== 2 || pid === proxy.pid) wrong.push(`status: ${status.text}`)
  const next = (await asked())?.headers.get('x-pid')
  if (next !== String(pid)) wrong.push(`after the upgrade process ${next} answers, not ${pid}`)
  if ((await proxy.ended) !== 0) wrong.push(`the first proxy did not end well: ${proxy.text}`)
  return wrong
}
