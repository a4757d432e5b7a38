import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { openFds } from '../processes/descriptors.js'
import { signalPid } from '../processes/launch.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

/** Fails while the file $0 exists. */
const FAILS_BY_FILE = '[ -e "$0" ] && exit 3; exec sleep 600'
const BACK_OFF = 'no version runs any more; the next one starts after a delay'
/** Waits for the file $0. */
const WAITS = 'until [ -e "$0" ]; do sleep 0.02; done;'

const SERVED = [
  [0, 'exit 0', 'never'],
  [137, 'kill -9 $$', 'never'],
  [0, 'exit 0', 'on-failure'],
  [5, 'exit 5', 'never'],
] as const
const UNSERVED = [
  ['exit 0', 1],
  ['exit 5', 5],
  ['kill -9 $$', 137],
] as const
/** Beyond what a busy machine needs for a start. */
const LONG_MS = 60_000

async function proved(run: Supervised, generation = 1): Promise<number> {
  const status = await until(
    'a version has passed its probation',
    async () => {
      const now = await run.status().catch(() => null)
      const serves = now?.role === 'serving' && now.generation >= generation && now.phase === 'idle'
      return serves && now.probationSeconds === null ? now : null
    },
    LONG_MS,
  )
  return status.pid
}

describe('fd-broker run, when a version ends by itself,', () => {
  it.each(perLane(SERVED.slice(1, 3), [...SERVED]))(
    'ends with code %d after "%s" with --restart %s, and starts no other',
    async (code, way, restart) => {
      const run = await Supervised.prepare()
      const go = join(run.sandbox.folder, 'go')
      const options = ['--ready', 'delay:10ms', '--probation', '0s', '--restart', restart]
      const [file, ...args] = run.commandLine(options, ['sh', '-c', `${WAITS} ${way}`, go])
      const child = spawn(file!, args, { env: run.sandbox.env, stdio: ['ignore', 'ignore', 'pipe'] })
      let log = ''
      child.stderr.setEncoding('utf8').on('data', text => (log += text))
      await proved(run)
      writeFileSync(go, '')
      expect(await once(child, 'close')).toEqual([code, null])
      expect(log.split('"a version was started"')).toHaveLength(2)
      expect(readdirSync(dirname(run.control)).toSorted()).toEqual(['run.sock.events', 'run.sock.lock'])
    },
  )

  it.each(perLane(UNSERVED.slice(0, 1), [...UNSERVED]))(
    'ends after "%s" before the version has served with %d',
    async (way, code) => {
      const run = await Supervised.prepare()
      const ready = ['--ready', 'delay:10m', '--ready-timeout', '20m']
      const [, , command, ...args] = run.commandLine(ready, ['sh', '-c', way])
      expect(await run.sandbox.run(command!, ...args)).toMatchObject({
        code,
        stderr: expect.stringContaining('ERR_FDB_SUCCESSOR_EXITED: version 1'),
      })
    },
  )

  it('waits twice as long before each restart, and begins anew after a version that has passed its probation', async () => {
    const run = await Supervised.prepare()
    const failing = join(run.sandbox.folder, 'failing')
    writeFileSync(failing, '')
    const options = ['--ready', 'delay:10ms', '--probation', '50ms']
    await run.launch(
      [...options, '--restart', 'always', '--restart-delay', '1ms'],
      ['sh', '-c', FAILS_BY_FILE, failing],
    )
    const waits = () =>
      run.lines.filter(({ msg }) => msg === BACK_OFF).map(({ failures, ms }) => [failures, ms])
    await until(
      'it has failed six times',
      () => waits().length >= 6,
      LONG_MS,
      () => run.output,
    )
    expect(await run.sandbox.run('status', '--control', run.control)).toMatchObject({
      code: expect.toBeOneOf([1, 3]),
    })
    rmSync(failing)
    const pid = await proved(run)
    const before = waits()
    expect(before).toEqual(before.map((_, i) => [i + 1, 2 ** i]))
    expect(await run.status()).toMatchObject({ supervisor: { failures: 0, loops: false } })
    signalPid(pid, 'SIGKILL')
    await until('it is started again', () => waits().length > before.length)
    expect(waits().at(-1)).toEqual([1, 1])
  })
})

/** Writes the timers, sockets and processes that keep this process alive to a file, when a file asks for them. */
const CENSUS = (folder: string) => `import { existsSync, renameSync, rmSync, writeFileSync } from 'node:fs'
const [asked, told] = ['asked', 'told'].map(name => '${folder}/' + name + '.' + process.pid)
setInterval(() => {
  if (!existsSync(asked)) return
  rmSync(asked)
  writeFileSync(told + '.new', JSON.stringify(process.getActiveResourcesInfo().sort()))
  renameSync(told + '.new', told)
}, 20).unref()
`

it.runIf(NIGHTLY)(
  'fd-broker run has no more descriptors, timers, processes and files after many upgrades and crashes than before',
  async () => {
    const run = await Supervised.prepare()
    const { folder } = run.sandbox
    const preload = join(folder, 'census.mjs')
    writeFileSync(preload, CENSUS(folder))
    const options = ['--ready', 'fd', '--probation', '0s', '--restart', 'always', '--restart-delay', '1ms']
    await run.launch(options, [SERVER], { NODE_OPTIONS: `--import=${preload}` })
    await proved(run)
    const census = async () => {
      const told = join(folder, `told.${run.pid}`)
      writeFileSync(join(folder, `asked.${run.pid}`), '')
      await until('it tells what is active', () => existsSync(told), LONG_MS)
      const text = readFileSync(told, 'utf8')
      rmSync(told)
      const [active, fds] = [JSON.parse(text) as string[], openFds(run.pid)]
      return [...active, ...fds, ...run.sandbox.processes(), ...readdirSync(dirname(run.control))]
    }
    // The first upgrade and the first crash open descriptors that stay.
    let generation = 1
    const upgraded = async () => {
      await run.upgraded()
      await until(
        'the old version has ended',
        async () => (await run.status()).draining.length === 0,
        LONG_MS,
      )
      await proved(run, ++generation)
    }
    const crashed = async () => {
      signalPid((await run.status()).pid, 'SIGKILL')
      await proved(run, ++generation)
    }
    await upgraded()
    await crashed()
    await until(
      'it watches its control socket',
      () => openFds(run.pid).includes('anon_inode:inotify'),
      LONG_MS,
    )
    const before = await census()
    for (let i = 0; i < perLane(4, 10); i++) await upgraded()
    for (let i = 0; i < perLane(2, 5); i++) await crashed()
    let more: unknown
    await until(
      'nothing is more than before',
      async () => {
        const left = [...before]
        const added = (await census()).filter(each => {
          const at = left.indexOf(each)
          if (at >= 0) left.splice(at, 1)
          return at < 0
        })
        more = added
        return added.length === 0
      },
      LONG_MS,
      () => ({ more, before }),
    )
  },
)
