import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  chmodSync,
  constants,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { UPGRADE_SELF } from '../../src/operator/service-commands.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ancestorsOf, hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { wholeLines } from '../processes/whole-lines.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** Signals that are sent while it is replaced, spread over so long. */
const ROUNDS = perLane(1, 60)
const LAST_MS = 150
/** In this time a second order starts a second try, if it starts one. */
const TRIED_MS = 1_000
const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0 }

/** `fd-broker run` by a command that can be replaced: a `node` and a script in the folder of the test. */
class Installed {
  readonly run: Supervised
  readonly node: string
  readonly script: string
  /** The lines that releases have printed. */
  readonly said: string

  constructor(run: Supervised) {
    const { folder } = run.sandbox
    this.run = run
    this.node = join(folder, 'node')
    this.script = join(folder, 'fd-broker.cjs')
    this.said = join(folder, 'releases')
    this.putNode()
    this.release('one')
  }

  /** One that serves. */
  static async serving(args: (run: Supervised) => readonly string[] = () => []): Promise<Installed> {
    const run = await Supervised.prepare()
    const installed = new Installed(run)
    const own = installed.command(['--ready', 'fd', ...args(run)])
    run.pid = await run.sandbox.launch(['env', `FDB_SUPERVISED=${run.orders({})}`, ...own])
    await run.serving()
    return installed
  }

  putNode(): void {
    rmSync(this.node, { force: true })
    symlinkSync(process.execPath, this.node)
  }

  /** Shell words run before each start of Node, in the same process. */
  wrapNode(words: string): void {
    rmSync(this.node, { force: true })
    writeFileSync(this.node, `#!/bin/sh\n${words}\nexec '${process.execPath}' "$@"\n`, { mode: 0o755 })
  }

  release(name: string, code = ''): void {
    const say = `require('node:fs').appendFileSync(${JSON.stringify(this.said)}, '${name} ' + process.pid + '\\n')`
    writeFileSync(this.script, `${say}\n${code}\nrequire(${JSON.stringify(CLI)})\n`)
  }

  /** Which releases this process has run. */
  releases(pid = this.run.pid): string[] {
    const lines = wholeLines(this.said)
    return lines.filter(line => line.endsWith(` ${pid}`)).map(line => line.split(' ')[0]!)
  }

  command(args: readonly string[], program: readonly string[] = [SERVER]): string[] {
    return [this.node, this.script, ...this.run.commandLine(args, program).slice(2)]
  }

  upgradeSelf() {
    return this.run.upgrade('--self', '--json')
  }
}

describe('fd-broker upgrade --self', () => {
  it('replaces the supervisor although its configuration file has a mistake, which is logged', async () => {
    let write = (_: string) => {}
    const installed = await Installed.serving(({ port, sandbox }) => {
      const file = join(sandbox.folder, 'run.json')
      write = stopTimeout =>
        writeFileSync(file, JSON.stringify({ stopTimeout, listen: { web: `tcp://127.0.0.1:${port}` } }))
      write('5s')
      return ['--config', file]
    })
    const { run } = installed
    write('soon')
    installed.release('two')
    expect(await installed.upgradeSelf()).toMatchObject({ code: 0, stderr: '' })
    expect(installed.releases()).toEqual(['one', 'two'])
    expect(run.sandbox.output).toMatch(/^warning: ERR_FDB_CONFIG: \S+run.json:1:16: stopTimeout: /m)
    expect(await run.upgrade()).toMatchObject({ code: 1, stderr: expect.stringContaining('ERR_FDB_CONFIG') })
  })

  it('leaves the listener of a program that accepts in blocking mode as it is', async () => {
    const run = await Supervised.prepare()
    const installed = new Installed(run)
    const flags = join(run.sandbox.folder, 'flags')
    const program = ['sh', '-c', `while :; do grep flags: /proc/self/fdinfo/3 >${flags}; sleep 0.1; done`]
    run.pid = await run.sandbox.launch(installed.command(['--ready', 'delay:10ms'], program))
    await run.serving()
    const blocks = async () => {
      rmSync(flags, { force: true })
      await until('the program has looked', () => existsSync(flags) && readFileSync(flags, 'latin1') !== '')
      return (Number.parseInt(/\d+/.exec(readFileSync(flags, 'latin1'))![0], 8) & constants.O_NONBLOCK) === 0
    }
    expect(await blocks()).toBe(true)
    installed.release('two')
    expect(await installed.upgradeSelf()).toMatchObject({ code: 0 })
    expect(await blocks()).toBe(true)
    expect(await run.upgrade()).toMatchObject({ code: 0 })
    expect(await blocks()).toBe(true)
  })

  it('leaves the pipe to which its program writes in blocking mode, as at the start', async () => {
    const run = await Supervised.prepare()
    const installed = new Installed(run)
    const flags = join(run.sandbox.folder, 'flags')
    const look = `seen=$(grep -h flags: /proc/$$/fdinfo/1 /proc/$$/fdinfo/2); echo "$seen" >${flags}`
    const program = ['sh', '-c', `while :; do ${look}; sleep 0.1; done`]
    const own = installed.command(['--ready', 'delay:10ms'], program)
    const log = join(run.sandbox.folder, 'log')
    run.pid = await run.sandbox.launch(['bash', '-c', `exec "$@" > >(cat >${log}) 2>&1`, 'bash', ...own])
    const block = async () => {
      rmSync(flags, { force: true })
      const words = () => (existsSync(flags) ? (readFileSync(flags, 'latin1').match(/\d+/g) ?? []) : [])
      await until('the program has looked', () => words().length === 2)
      return words().map(word => (Number.parseInt(word, 8) & constants.O_NONBLOCK) === 0)
    }
    expect(await block()).toEqual([true, true])
    installed.release('two')
    expect(await installed.upgradeSelf()).toMatchObject({ code: 0 })
    expect(await block()).toEqual([true, true])
  })

  it('replaces the supervisor under load: the same process, with its program, and all that it can', async () => {
    const run = await Supervised.prepare()
    const installed = new Installed(run)
    const manager = NotifyRecorder.open(run.sandbox.folder)
    const env = Object.entries({ FDB_SUPERVISED: run.orders({}), ...manager.env })
    const given = env.map(([name, value]) => `${name}=${value}`)
    const pidFile = join(run.sandbox.folder, 'run.pid')
    const own = installed.command(['--ready', 'notify', '--pid-file', pidFile])
    run.pid = await run.sandbox.launch(['env', ...given, ...own])
    await run.serving()
    const load = await loadOn(run.url, { ...FRESH, rate: perLane(100, 300) })
    const { pid } = await run.whoami()
    installed.release('two')
    const first = await installed.upgradeSelf()
    expect({ ...first, stdout: JSON.parse(first.stdout) }).toMatchObject({
      code: 0,
      stderr: '',
      stdout: { ok: true, pid: run.pid },
    })
    expect(installed.releases()).toEqual(['one', 'two'])
    expect(readFileSync(pidFile, 'utf8')).toBe(`${run.pid}\n`)
    expect(await run.status()).toMatchObject({
      pid,
      generation: 1,
      role: 'serving',
      says: 'at work',
      listeners: [{ name: 'web', address: `tcp://127.0.0.1:${run.port}`, accepting: true }],
      supervisor: { pid: run.pid, replaced: 1 },
    })
    expect(ancestorsOf(pid)[0]).toBe(run.pid)
    // The new supervisor is heard at the socket that the earlier one gave it, gets signals, and is replaced and reaped.
    run.signal('SIGUSR2')
    await until('it is heard', async () => (await run.status()).says === 'heard of USR2')
    await run.upgraded()
    const last = await run.serving(2)
    await load.answeredBy(last, 20)
    expect(ancestorsOf(last)[0]).toBe(run.pid)
    expect(await installed.upgradeSelf()).toMatchObject({ code: 0 })
    await run.logged('a version has ended', line => line.child === pid && line.code === 0)
    expect(await run.whoami()).toEqual({ generation: 2, pid: last })
    await load.stop()
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    // Each version was in its probation when the supervisor was replaced, and may have written why it ends.
    await run.ended()
    const folder = dirname(run.control)
    expect(readdirSync(folder).filter(name => /\.[0-9a-f]{16}/.test(name))).toEqual([])
    expect([hasEnded(run.pid), hasEnded(last)]).toEqual([true, true])
    expect([existsSync(run.control), existsSync(pidFile)]).toEqual([false, false])
  })

  it('replaces the supervisor for two orders at once', async () => {
    const installed = await Installed.serving()
    const { run } = installed
    const gate = join(run.sandbox.folder, 'gate')
    const waits = `const fs = require('node:fs'); while (!fs.existsSync('${gate}')) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10)`
    installed.release('two', waits)
    const order = async () => {
      using client = await OperatorClient.connect(run.control)
      return await client.command(UPGRADE_SELF, '').catch(({ code }) => code)
    }
    const orders = Promise.all([order(), order()])
    const tries = () =>
      [...readFileSync(installed.said, 'utf8').matchAll(/^two (\d+)$/gm)].map(([, pid]) => Number(pid))
    const tried = () => tries().every(hasEnded)
    await until('the installed release is tried', () => tries().length > 0)
    // The supervisor hears of all that happens meanwhile in the same turn.
    await setTimeout(TRIED_MS)
    run.signal('SIGSTOP')
    writeFileSync(gate, '')
    await until('each try has ended', tried)
    run.signal('SIGCONT')
    // The connections end without an answer.
    expect(await orders).toEqual([
      expect.stringMatching(/^ERR_FDB_CHANNEL_(?:CLOSED|RESET)$/),
      expect.stringMatching(/^ERR_FDB_CHANNEL_(?:CLOSED|RESET)$/),
    ])
    await run.logged('the supervisor runs the installed release')
    expect((await run.status()).supervisor.replaced).toBe(1)
  })

  it.runIf(NIGHTLY)(
    'leaves the supervisor as it is where what is installed cannot be started, or cannot go on',
    async () => {
      const installed = await Installed.serving()
      const { run } = installed
      const { pid } = await run.whoami()
      const stays = async (why: RegExp) => {
        expect(await installed.upgradeSelf()).toMatchObject({ code: 1, stderr: expect.stringMatching(why) })
        expect(await run.status()).toMatchObject({ pid, role: 'serving', supervisor: { replaced: 0 } })
      }
      installed.release('broken', 'process.exit(9)')
      await stays(/^ERR_FDB_SUCCESSOR_EXITED: .*code 9/)
      installed.release('two')
      rmSync(installed.node)
      await stays(/^ERR_FDB_NO_BINARY/)
      writeFileSync(installed.node, 'no program')
      chmodSync(installed.node, 0o755)
      await stays(/^ERR_FDB_SPAWN: this supervisor cannot execute /)
      installed.putNode()
      expect(
        await run.sandbox.run('upgrade', '--control', run.control, '--self', '--', 'true'),
      ).toMatchObject({
        code: 2,
      })
      // Not while a version is being brought to serve.
      const slow = run.upgrade('--', 'env', `FDB_SUPERVISED=${run.orders({ fail: true })}`, SERVER)
      await until('a version starts', async () => (await run.status()).phase === 'starting')
      expect(await installed.upgradeSelf()).toMatchObject({
        code: 4,
        stderr: expect.stringMatching(/^ERR_FDB_BUSY/),
      })
      const { child } = await run.logged('a version was started', line => line.version === 2)
      run.signal('SIGKILL', child)
      expect(await slow).toMatchObject({ code: 1 })
      expect(installed.releases()).toEqual(['one'])
      expect(await installed.upgradeSelf()).toMatchObject({ code: 0 })
      expect(installed.releases()).toEqual(['one', 'two'])
      expect(await run.status()).toMatchObject({ pid, lastFailure: { code: 'ERR_FDB_SUCCESSOR_EXITED' } })
    },
  )

  it.runIf(NIGHTLY)(
    'goes on with what was under way: one that is to be killed, a command, a program that is to be started anew',
    async () => {
      const run = await Supervised.prepare()
      const own = run.commandLine(['--ready', 'fd', '--stop-timeout', '1s'], [SERVER])
      const child = spawn(own[0]!, own.slice(1), {
        env: { ...run.sandbox.env, FDB_SUPERVISED: run.orders({ deaf: true }) },
        stdio: ['ignore', 'ignore', 'pipe'],
      })
      child.stderr.on('data', text => appendFileSync(run.sandbox.log, text))
      const deaf = await run.serving()
      const next = ['env', `FDB_SUPERVISED=${run.orders({ code: 5 })}`, SERVER]
      expect(await run.upgrade('--', ...next)).toMatchObject({ code: 0 })
      expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
      await run.logged('a version has ended', line => line.child === deaf && line.code === 137)
      // The command that an operator has given counts on.
      await run.upgraded()
      expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
      const { pid } = await run.whoami()
      child.kill('SIGTERM')
      expect(await once(child, 'exit')).toEqual([0, null])
      await run.logged('a version has ended', line => line.child === pid && line.code === 5)

      const again = await Supervised.start(['--ready', 'fd', '--restart', 'always', '--restart-delay', '1s'])
      await fetch(`${again.url}/crash`).catch(() => {})
      await again.logged('no version runs any more; the next one starts after a delay')
      // An upgrade is refused while a version starts: where the rest is over already.
      await until('it is replaced', async () => (await again.upgrade('--self')).code === 0)
      expect(await again.whoami()).toMatchObject({ generation: 2 })
    },
  )

  it.runIf(NIGHTLY)(
    'obeys each signal that comes while it is replaced, when its handlers are there',
    {
      timeout: 180_000 + ROUNDS * 5_000,
    },
    async () => {
      const run = await Supervised.prepare()
      const installed = new Installed(run)
      const own = installed.command(['--ready', 'fd', '--pid-file', join(run.sandbox.folder, 'run.pid')])
      const child = spawn(own[0]!, own.slice(1), {
        env: { ...run.sandbox.env, FDB_SUPERVISED: run.orders({}), LD_PRELOAD: '' },
        stdio: ['ignore', 'ignore', 'pipe'],
      })
      run.pid = child.pid!
      const ended = once(child, 'exit')
      child.stderr.on('data', text => appendFileSync(run.sandbox.log, text))
      await run.serving()
      // Within Node, before the command line of fd-broker has a handler.
      installed.release('two', toItself('HUP'))
      expect(await installed.upgradeSelf()).toMatchObject({ code: 0 })
      const second = await run.serving(2)
      // Neither the supervisor nor its children keep anything of it.
      for (const pid of [run.pid, second])
        expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(/^SigBlk:\s0+$/m)
      const variables = readFileSync(`/proc/${second}/environ`, 'utf8').split('\0')
      expect(variables.filter(each => /^(LD_PRELOAD|FD_BROKER_HELD)/.test(each))).toEqual(['LD_PRELOAD='])
      // At any moment from the last of the old image on.
      installed.release('three')
      for (let round = 0; round < ROUNDS; round++) {
        const replaced = 2 + round
        const heard = count(run.said, 'USR2')
        const upgraded = installed.upgradeSelf()
        await run.logged(
          'the supervisor is replaced by the installed release',
          line => line.replaced === replaced,
        )
        await setTimeout((LAST_MS * round) / (ROUNDS - 1))
        run.signal('SIGUSR2')
        expect(await upgraded).toMatchObject({ code: 0 })
        await until('the program has got it', () => count(run.said, 'USR2') > heard)
      }
      installed.release('four', toItself('TERM'))
      const last = installed.upgradeSelf()
      await run.ended()
      await last
      expect(await ended).toEqual([0, null])
      await run.logged('the program is ended', line => line.signal === 'SIGTERM')
      expect(run.lines.filter(line => line.level >= 40 && /signal/.test(line.msg))).toEqual([])
    },
  )

  it.runIf(NIGHTLY)('holds no signals where a program of the command refuses to be preloaded', async () => {
    const installed = await Installed.serving()
    const { run } = installed
    installed.wrapNode('if [ -n "$LD_PRELOAD" ]; then exit 127; fi')
    expect(await installed.upgradeSelf()).toMatchObject({ code: 0 })
    await run.logged(
      'a signal that arrives while the supervisor is replaced may end it: the installed release cannot block signals',
    )
    expect(await run.status()).toMatchObject({ role: 'serving', supervisor: { replaced: 1 } })
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
  })
})

/** JavaScript that sends a signal to the next image of a supervisor, not to one that is tried. */
function toItself(signal: string): string {
  return `if (/^take/.test(process.env.FD_BROKER_SUPERVISOR)) process.kill(process.pid, 'SIG${signal}')`
}

function count(file: string, text: string): number {
  return existsSync(file) ? readFileSync(file, 'utf8').split(text).length - 1 : 0
}
