import { execFile } from 'node:child_process'
import files, { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import promises from 'node:fs/promises'
import { constants, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import type { Native } from '../../src/kernel/native.js'
import { FRESH, NIGHTLY, perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'
import { type AddressCalls, randomAddressCalls } from './address-conformance.js'
import { bundle, type Edit, ROOT, requireHere } from './bundle.js'
import { randomCalls } from './conformance.js'
import { MOVED_TO_ENDING, SHOWN, SHOWN_AT_NIGHT } from './defects.js'
import { randomFileCalls } from './file-conformance.js'
import { type Code, load } from './globals.js'
import { connectTcpNow } from './kernel/addon.js'
import { NODE } from './kernel/children.js'
import { DISK } from './kernel/disk.js'
import { HARMLESS, OWN } from './own-state.js'
import type { SimulatedProcess } from './process.js'
import { type ProcessCalls, randomProcessCalls, SCRIPTS } from './process-conformance.js'
import { afterMicrotasks } from './run-seed.js'
import { moduleVariables } from './source.js'
import { World } from './world.js'

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url))

interface Answer {
  readonly code: number
  readonly output: string
}

/** In the gate one process runs the few seeds: to begin another one costs as much as four of them, and other test files have the other processors. */
const JOBS = perLane(['--jobs', '1'], [])

beforeAll(async () => {
  const made = join(process.env.FDB_TEST_SHARED!, 'simulated.json')
  writeFileSync(made, JSON.stringify(await bundle()))
  process.env.SIMULATE_BUNDLE = made
})

/** Runs `npm run simulate` with these options. */
function simulate(...options: string[]): Promise<Answer> {
  const args = ['--import', 'tsx', MAIN, ...JOBS, ...options]
  return new Promise(resolve => {
    execFile(process.execPath, args, { cwd: ROOT, maxBuffer: 2 ** 26 }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr }),
    )
  })
}

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'fdb-simulate-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

/** Runs the simulation with a defect. */
async function withDefect(edits: readonly Edit[], ...options: string[]): Promise<Answer> {
  const file = join(folder(), 'edits.json')
  writeFileSync(file, JSON.stringify(edits))
  return simulate('--edits', file, '--findings', '1', ...options)
}

/** The kernel tells of the end of a connection a moment later: waits for the simulated result. */
function ofKernel(addon: Native, simulated: readonly string[]): AddressCalls {
  const soon = async <T>(attempt: () => T, isDone: (result: T) => boolean): Promise<T> => {
    const until = performance.now() + 5_000
    for (;;) {
      const result = attempt()
      if (isDone(result) || performance.now() > until) return result
      await new Promise(resolve => setImmediate(resolve))
    }
  }
  return {
    addon,
    connect: async (host, port) => {
      const fd = addon.connectTcp(host, port)
      const errno = await soon(
        () => addon.connectResult(fd),
        result => result !== -1,
      )
      if (errno === 0) return fd
      addon.close(fd)
      throw addon.failure(errno, 'connect')
    },
    hangup: (fd, line) =>
      soon(
        () => addon.hangups([fd])[0]!,
        state => `a connection is ${state}` === simulated[line],
      ),
  }
}

async function addressesSimulated(code: Code, seed: number, host: string): Promise<string[]> {
  let lines: string[] | null = null
  await afterMicrotasks(() => {
    const world = new World({ seed, partial: 0 })
    const calls: AddressCalls = {
      addon: code.addon,
      connect: async (...address) => connectTcpNow(...address),
      hangup: async fd => code.addon.hangups([fd])[0]!,
    }
    world.start('A', async p => {
      lines = await randomAddressCalls(seed, calls, host)
      world.kill(p, 'ends')
    })
    world.run(() => lines !== null, 60_000)
  })
  return lines!
}

/** The state in /proc of a child, and whether a signal to it has not taken effect yet. */
function childState(pid: number): { state: string; isPending: boolean; name: string } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8')
  const field = (name: string) => new RegExp(`^${name}:\\t(\\S+)`, 'm').exec(status)?.[1] ?? ''
  const pending = BigInt(`0x${field('SigPnd')}`) | BigInt(`0x${field('ShdPnd')}`)
  const bit = (signal: number) => 1n << BigInt(signal - 1)
  const { SIGCONT, SIGKILL } = constants.signals
  const state = field('State')
  // Other signals to a stopped process wait until it continues.
  const awaited = state === 'T' ? bit(SIGKILL) | bit(SIGCONT) : ~0n
  return { state, isPending: (pending & awaited) !== 0n, name: field('Name') }
}

function processesOfKernel(addon: Native): ProcessCalls {
  const path = folder()
  for (const [name, text] of Object.entries(SCRIPTS)) writeFileSync(join(path, name), text)
  return {
    addon,
    shell: '/bin/sh',
    folder: path,
    kill: (pid, signal) => void process.kill(pid, signal),
    settled: async (pid, script) => {
      await until(
        `the child that ${script} is settled`,
        () => {
          const { isPending, name, state } = childState(pid)
          if (state === 'Z') return true
          return script === 'waits' && name === 'sleep' && !isPending && (state === 'S' || state === 'T')
        },
        60_000,
      )
    },
  }
}

async function processesSimulated(code: Code, seed: number): Promise<string[]> {
  let lines: string[] | null = null
  await afterMicrotasks(() => {
    const world = new World({ seed, partial: 0 })
    world.execute = origin => {
      const main = async (p: SimulatedProcess) => {
        if (origin.script.endsWith('waits')) p.setTimer(() => {}, 1e9)
        else world.exit(p, 'ends', origin.script.endsWith('exits') ? 3 : 0)
      }
      return world.start('child', main, origin)
    }
    world.start('A', async p => {
      const settled = () => new Promise<void>(resolve => p.setTimer(resolve, 10))
      const kill = (pid: number, signal: number) => void world.signal(pid, signal)
      lines = await randomProcessCalls(seed, {
        addon: code.addon,
        shell: NODE,
        folder: '/scripts',
        kill,
        settled,
      })
      world.kill(p, 'ends')
    })
    world.run(() => lines !== null, 60_000)
  })
  return lines!
}

describe('the drivers on a simulated kernel', () => {
  it('keep all promises with the same seeds as before', async () => {
    const { code, output } = await simulate('--from', '1', '--runs', perLane('14', '6000'))
    expect(code, output).toBe(0)
  })

  it('keep all promises while the daemon is replaced, with the same seeds as before', async () => {
    const { code, output } = await simulate(
      '--kind',
      'upgrade',
      '--from',
      '1',
      '--runs',
      perLane('4', '2000'),
    )
    expect(code, output).toBe(0)
  })

  it('keep all promises while run supervises a program, with the same seeds as before', async () => {
    const { code, output } = await simulate(
      '--kind',
      'run',
      '--from',
      '1000',
      '--runs',
      perLane('10', '4000'),
    )
    expect(code, output).toBe(0)
  })

  it('leave the pid file to the version that serves again when its successor in a daemon closes', async () => {
    const { code, output } = await simulate('--seed', '664299615')
    expect(code, output).toBe(0)
  })

  it.runIf(NIGHTLY)('leave the pid file to a version that starts while a closed one drains', async () => {
    const { code, output } = await simulate('--seed', '594281095')
    expect(code, output).toBe(0)
  })

  it.runIf(NIGHTLY)('reads newer state in a version that lacks descriptors when it stands by', async () => {
    const { code, output } = await simulate('--seed', '946921799')
    expect(code, output).toBe(0)
  })

  it.runIf(NIGHTLY)('answer --kill-stuck of a standby also in a version that closes meanwhile', async () => {
    const { code, output } = await simulate('--seed', '700499774', '--kind', 'hung')
    expect(code, output).toBe(0)
  })

  it('keep all promises when any one call fails', async () => {
    const scenarios = perLane(
      'embedded,daemon,next-daemon,start,taken-back,stopped-again,run,run-starts',
      'every',
    )
    const { code, output } = await simulate('--points', scenarios, '--share', perLane('gate', 'places'))
    expect(code, output).toBe(0)
  })

  it('keep all promises when the same call fails in two upgrades, one after the other', async () => {
    const scenarios = perLane('embedded', 'embedded,daemon,next-daemon')
    const share = perLane('gate', 'sites')
    const { code, output } = await simulate('--points', scenarios, '--twice', '--share', share)
    expect(code, output).toBe(0)
  })

  it.runIf(NIGHTLY)('keep all promises in each trouble at each call of an upgrade', async () => {
    const { code, output } = await simulate('--points', 'embedded')
    expect(code, output).toBe(0)
  })

  it.runIf(FRESH)('keep all promises with fresh seeds', async () => {
    const { code, output } = await simulate('--seconds', perLane('4', '3600'))
    process.stdout.write(output)
    expect(code, output).toBe(0)
  })
})

describe('a seed', () => {
  it('replays the same story, byte for byte', async () => {
    const [one, other] = await Promise.all([simulate('--seed', '5'), simulate('--seed', '5')])
    expect(one.output).toContain('"phase":"standby"')
    expect(other).toEqual(one)
  })
})

describe('the simulation', () => {
  it.each(SHOWN.slice(0, perLane(1, SHOWN.length)))('notices %s', async (_, edit, kind, from) => {
    const seeds = ['--from', String(from), '--runs', '100', '--kind', kind]
    const { code, output } = await withDefect([edit], ...seeds)
    expect(output).toContain('WRONG')
    expect(code).toBe(1)
  })

  it.runIf(NIGHTLY)('notices connections that move to a version whose service ends', async () => {
    const { output } = await withDefect(MOVED_TO_ENDING, '--from', '3014', '--runs', '10', '--kind', 'moves')
    expect(output).toContain('WRONG')
  })

  it.runIf(NIGHTLY).each(SHOWN_AT_NIGHT)(
    'notices %s',
    async (_, edit, kind) => {
      const { output } = await withDefect([edit], '--from', '1', '--runs', '1500', '--kind', kind)
      expect(output).toContain('WRONG')
    },
    900_000,
  )

  it('finds the text of each seeded defect in its source', () => {
    const edits = [...[...SHOWN, ...SHOWN_AT_NIGHT].map(([, edit]) => edit), ...MOVED_TO_ENDING]
    const stale = edits.filter(
      ([file, from]) => !readFileSync(join(ROOT, 'src', file), 'utf8').includes(from),
    )
    expect(stale).toEqual([])
  })

  it('gives the results of the kernel, call by call', async () => {
    const code = await load()
    const addon = requireHere(`${ROOT}/build/Release/fd_broker.node`) as Native
    const wrong: string[] = []
    for (let seed = 1; seed <= perLane(400, 20_000) && wrong.length < 5; seed++) {
      const path = folder()
      new World({ seed, partial: 0 }).start('A', async () => {})
      const [expected, got] = [randomCalls(seed, addon, path), randomCalls(seed, code.addon, path)]
      const at = expected.findIndex((line, i) => line !== got[i])
      if (at >= 0) wrong.push(`seed ${seed}: kernel ${expected[at]}; simulated ${got[at]}`)
    }
    expect(wrong).toEqual([])
  })

  it('gives the results of the kernel, call by call, for files', async () => {
    const code = await load()
    const addon = requireHere(`${ROOT}/build/Release/fd_broker.node`) as Native
    const wrong: string[] = []
    for (let seed = 1; seed <= perLane(100, 5_000) && wrong.length < 5; seed++) {
      const expected = await randomFileCalls(seed, { files, promises, addon }, folder())
      const got: string[] = []
      await afterMicrotasks(() => {
        const world = new World({ seed, partial: 0 })
        world.start('A', async p => {
          got.push(...(await randomFileCalls(seed, code, DISK)))
          world.kill(p, 'ends')
        })
        world.run(() => got.length > 0, 60_000)
      })
      const at = expected.findIndex((line, i) => line !== got[i])
      if (at >= 0) wrong.push(`seed ${seed}: kernel ${expected[at]}; simulated ${got[at]}`)
    }
    expect(wrong).toEqual([])
  })

  it('gives the results of the kernel, call by call, for sockets that share an address', async () => {
    const code = await load()
    const addon = requireHere(`${ROOT}/build/Release/fd_broker.node`) as Native
    const wrong: string[] = []
    for (let seed = 1; seed <= perLane(200, 10_000) && wrong.length < 5; seed++) {
      const host = `127.${1 + (process.pid % 250)}.${1 + (seed % 250)}.${1 + Math.floor(seed / 250)}`
      const got = await addressesSimulated(code, seed, host)
      const expected = await randomAddressCalls(seed, ofKernel(addon, got), host)
      const at = expected.findIndex((line, i) => line !== got[i])
      if (at >= 0) wrong.push(`seed ${seed}: kernel ${expected[at]}; simulated ${got[at]}`)
    }
    expect(wrong).toEqual([])
  })

  it('gives the results of the kernel, call by call, for processes', async () => {
    const code = await load()
    const addon = requireHere(`${ROOT}/build/Release/fd_broker.node`) as Native
    const calls = processesOfKernel(addon)
    const wrong: string[] = []
    for (let seed = 1; seed <= perLane(8, 500) && wrong.length < 5; seed++) {
      const got = await processesSimulated(code, seed)
      const expected = await randomProcessCalls(seed, calls)
      const at = expected.findIndex((line, i) => line !== got[i])
      if (at >= 0) wrong.push(`seed ${seed}: kernel ${expected[at]}; simulated ${got[at]}`)
    }
    expect(wrong).toEqual([])
  })

  it('knows each module-level variable that can change', async () => {
    const { modules } = await bundle()
    expect(modules.length).toBeGreaterThan(200)
    const unknown = modules.flatMap(module => {
      const variables = moduleVariables(readFileSync(`${ROOT}/src/${module}.ts`, 'utf8'))
      return variables
        .filter(({ name, mutable }) => mutable && !OWN[module]?.includes(name) && !HARMLESS[module]?.[name])
        .map(({ name }) => `${module}: ${name}`)
    })
    expect(unknown).toEqual([])
  })
})
