import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { jsonObject } from '../../src/base/json.js'
import type { ServiceEvent } from '../../src/events/events.js'
import { until } from './until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** `fd-broker events --follow` as a process of its own. */
export class Follower {
  readonly events: ServiceEvent[] = []
  readonly child: ChildProcess
  stderr = ''
  #rest = ''

  constructor(control: string, args: readonly string[] = []) {
    const command = [CLI, 'events', '--control', control, '--follow', '--json', '--from', '1', ...args]
    this.child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] })
    onTestFinished(() => void this.child.kill('SIGKILL'))
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      const lines = (this.#rest + text).split('\n')
      this.#rest = lines.pop()!
      for (const line of lines) {
        const event = jsonObject(line)
        if (event === undefined) this.stderr += line
        else this.events.push(event as unknown as ServiceEvent)
      }
    })
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
  }

  get types(): string[] {
    return this.events.map(({ type }) => type)
  }

  async has(what: string, holds: (events: readonly ServiceEvent[]) => boolean): Promise<void> {
    await until(
      what,
      async () => holds(this.events),
      20_000,
      () => `${this.stderr} ${this.types}`,
    )
  }
}
