import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ancestorsOf, hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

/** Each request on a connection of its own: what a program does with open ones is its own affair. */
const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0 }

const UPGRADES = perLane(2, 3)

describe('fd-broker run', () => {
  it('gives listeners by name and number, upgrades under load, and ends with its program', async () => {
    const run = await Supervised.start(['--ready', 'http:/health'])
    await run.says(`started web:ready 127.0.0.1:${run.port}=3;`)
    const load = await loadOn(run.url, { ...FRESH, rate: 300 })
    for (let generation = 2; generation <= UPGRADES + 1; generation++) {
      const { code, stdout, stderr } = await run.upgrade('--json')
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      const { ok, pid, generation: now, phases } = JSON.parse(stdout)
      expect({ ok, now }).toEqual({ ok: true, now: generation })
      expect(phases.map(({ phase }: { phase: string }) => phase)).toEqual(['started', 'ready', 'serving'])
      await load.answeredBy(pid, 20)
      expect(ancestorsOf(pid)[0]).toBe(run.pid)
    }
    await load.stop()
    await until('the version before has ended', async () => (await run.status()).draining.length === 0)
    expect(await run.status()).toMatchObject({
      service: 'server.mjs',
      hosting: 'supervisor',
      generation: UPGRADES + 1,
      role: 'serving',
      phase: 'idle',
      draining: [],
      lastFailure: null,
      listeners: [{ name: 'web', address: `tcp://127.0.0.1:${run.port}`, accepting: true }],
    })
    const { pid } = await run.whoami()
    expect(await run.sandbox.run('reload', '--control', run.control)).toMatchObject({ code: 5 })
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    expect([hasEnded(run.pid), hasEnded(pid)]).toEqual([true, true])
    expect(existsSync(run.control)).toBe(false)
  })

  it('keeps the version that serves when the next one crashes, is not ready, or cannot be started', async () => {
    const run = await Supervised.start(['--ready', 'http:/health', '--ready-timeout', '60s'])
    const load = await loadOn(run.url, { ...FRESH, rate: 200 })
    const { pid } = await run.whoami()
    const given = (orders: object) => ['env', `FDB_SUPERVISED=${run.orders(orders)}`, SERVER]
    const crashed = await run.upgrade('--', ...given({ crash: 9 }))
    expect(crashed).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_SUCCESSOR_EXITED: .*code 9/),
    })
    // Long enough for it to answer at all on a busy machine.
    const late = await run.upgrade('--timeout', '3s', '--', ...given({ fail: true }))
    expect(late).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^ERR_FDB_DEADLINE: .*not ready within 3000 ms: GET http:\S+\/health: 5\d\d /,
      ),
    })
    const none = await run.upgrade('--', '/nowhere/server')
    expect(none).toMatchObject({ code: 1, stderr: expect.stringMatching(/^ERR_FDB_NO_BINARY/) })
    expect(await run.whoami()).toEqual({ generation: 1, pid })
    expect(await run.status()).toMatchObject({ pid, lastFailure: { code: 'ERR_FDB_NO_BINARY' } })
    await load.stop()
    // A command that failed is not kept.
    await run.upgraded()
    expect(await run.status()).toMatchObject({ generation: 5, role: 'serving' })
  })

  it.runIf(NIGHTLY)(
    'refuses a version that is not ready within --ready-timeout, also when the client would wait longer',
    async () => {
      const run = await Supervised.start(['--ready', 'http:/health', '--ready-timeout', '3s'])
      const { pid } = await run.whoami()
      const never = ['env', `FDB_SUPERVISED=${run.orders({ fail: true })}`, SERVER]
      expect(await run.upgrade('--timeout', '10m', '--', ...never)).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^ERR_FDB_DEADLINE: .*not ready within 3000 ms/),
      })
      // The version accepts on the listener that it was given until it has ended.
      await run.logged('a version has ended', line => line.version === 2)
      expect(await run.whoami()).toEqual({ generation: 1, pid })
    },
  )

  it('starts the next version on HUP, one for all that come meanwhile, and passes other signals on', async () => {
    const run = await Supervised.start(['--ready', 'fd', '--healthy-for', '300ms'])
    for (let i = 0; i < 5; i++) run.signal('SIGHUP')
    await run.serving(2)
    run.signal('SIGUSR1')
    run.signal('SIGWINCH')
    await run.says('SIGUSR1')
    await run.says('SIGWINCH')
    await until('the last one serves', async () => {
      const { phase, generation, draining } = await run.status()
      return phase === 'idle' && draining.length === 0 && generation > 1
    })
    // Kernel and Node may join signals that come together: no more than one waits behind the one under way.
    expect((await run.whoami()).generation).toBeLessThanOrEqual(3)
  })

  it('ends its program by the configured signal, and a crash is the end unless it is told to restart', async () => {
    const run = await Supervised.prepare()
    await run.launch(['--ready', 'fd', '--stop-signal', 'INT'])
    await run.says('listens')
    await run.serving()
    run.signal('SIGTERM')
    await run.logged('a version has ended', line => line.code === 4)
    await run.ended()
    const again = await Supervised.start([
      '--ready',
      'fd',
      '--restart',
      'on-failure',
      '--restart-delay',
      '50ms',
    ])
    const first = await again.whoami()
    await fetch(`${again.url}/crash`).catch(() => {})
    await again.logged('no version runs any more; the next one starts after a delay', line => line.ms === 50)
    // The client waits in the queue of the listener, which stays.
    const second = await again.whoami()
    expect([first.generation, second.generation]).toEqual([1, 2])
    await fetch(`${again.url}/crash`).catch(() => {})
    await again.logged('no version runs any more; the next one starts after a delay', line => line.ms === 100)
  })

  it('refuses connects as soon as it is told to stop, and answers what it has', async () => {
    const run = await Supervised.start(['--ready', 'fd'])
    const there = connect(run.port, '127.0.0.1')
    await once(there, 'connect')
    there.write('GET /whoami HTTP/1.1\r\nHost: a\r\n')
    // The version has read that: earlier requests on this connection were answered.
    await run.whoami()
    run.signal('SIGTERM')
    await run.says('TERM')
    await until('connects are refused', async () => {
      const late = connect(run.port, '127.0.0.1')
      const refused = await Promise.race([
        once(late, 'connect').then(() => false),
        once(late, 'error').then(([error]) => error.code === 'ECONNREFUSED'),
      ]).catch(error => error.code === 'ECONNREFUSED')
      late.destroy()
      return refused
    })
    expect(hasEnded(run.pid)).toBe(false)
    there.write('Connection: close\r\n\r\n')
    const [answer] = await once(there, 'data')
    expect(`${answer}`).toContain('1,')
    await run.ended()
  })

  it('kills what does not end in time, and does not outlive its supervisor', async () => {
    const run = await Supervised.start(['--ready', 'fd', '--stop-timeout', '300ms'], [SERVER], {})
    const deaf = await run.upgrade('--', 'env', `FDB_SUPERVISED=${run.orders({ deaf: true })}`, SERVER)
    expect(deaf.code).toBe(0)
    const pid = await run.serving(2)
    expect((await run.upgrade('--', SERVER)).code).toBe(0)
    await run.ended(pid)
    await run.logged('a version has ended', line => line.child === pid && line.code === 137)
    const last = await run.serving(3)
    run.signal('SIGKILL')
    await run.ended()
    await run.ended(last)
  })

  it('lets it outlive the supervisor where that is wanted', async () => {
    const run = await Supervised.start(['--ready', 'fd', '--survive'])
    const { pid } = await run.whoami()
    run.signal('SIGKILL')
    await run.ended()
    expect(await run.whoami()).toMatchObject({ pid })
  })

  it('learns by NOTIFY_SOCKET, by a command and by a connect that a version is ready', async () => {
    const notify = await Supervised.start(['--ready', 'notify'])
    expect(await notify.status()).toMatchObject({ role: 'serving', says: 'at work' })
    const file = join(notify.sandbox.folder, 'ready')
    const command = await Supervised.prepare()
    await command.launch(['--ready', `command:test -e ${file} && kill -0 $FD_BROKER_PID`])
    await command.says('listens')
    expect(await command.status()).toMatchObject({ role: 'starting' })
    writeFileSync(file, '')
    await command.serving()
    const tcp = await Supervised.prepare()
    await tcp.launch(['--ready', `tcp://127.0.0.1:${notify.port}`])
    await tcp.serving()
  })

  it('says of a version that does not prove itself what was asked and what was answered', async () => {
    const file = join(tmpdir(), `fdb-run-${process.pid}-well`)
    onTestFinished(() => rmSync(file, { force: true }))
    writeFileSync(file, '')
    const asked = `test -e ${file} || { echo looked; echo nothing there; exit 3; }`
    const paced = ['--health-interval', '20ms', '--health-passes', '3', '--healthy-for', '30s']
    const run = await Supervised.start(['--ready', `command:${asked}`, ...paced])
    const { pid } = await run.whoami()
    // On trial: one no is a failure.
    const upgrade = run.upgrade()
    await until('the next one is on trial', async () => (await run.status()).phase === 'trial')
    rmSync(file)
    expect(await upgrade).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^ERR_FDB_UNHEALTHY: version 2: command ".*": ended with 3 \(nothing there\)/,
      ),
    })
    expect(await run.upgrade('--timeout', '500ms')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_DEADLINE: .*within 500 ms: command .*\(nothing there\)/),
    })
    expect(await run.status()).toMatchObject({ pid, lastFailure: { code: 'ERR_FDB_DEADLINE' } })
  })

  it('reads its file anew for every version: command, environment and listeners', async () => {
    const run = await Supervised.prepare()
    const file = join(run.sandbox.folder, 'run.yaml')
    const write = (more: string) =>
      writeFileSync(
        file,
        `command: [${SERVER}]\nready: fd\nlisten:\n  web: tcp://127.0.0.1:${run.port}\n${more}`,
      )
    write(`  path: unix:${run.sandbox.folder}/a.sock\nenv: {FDB_SUPERVISED: '${run.orders({})}'}\n`)
    await run.launch(['--config', file], [])
    await run.serving()
    await run.says(`started web:path 127.0.0.1:${run.port}=3;${run.sandbox.folder}/a.sock=4`)
    const [client] = [connect(join(run.sandbox.folder, 'a.sock'))]
    await once(client, 'connect')
    client.destroy()
    write(`  other: unix:${run.sandbox.folder}/b.sock\nwrong: 1\n`)
    expect(await run.upgrade()).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/run\.yaml:\d+:1: wrong: unknown key/),
    })
    rmSync(file)
    execFileSync('mkfifo', [file])
    expect(await run.upgrade()).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(`${file} cannot be read (it is not a regular file)`),
    })
    rmSync(file)
    write(`  other: unix:${run.sandbox.folder}/b.sock\nenv: {FDB_SUPERVISED: '${run.orders({ code: 3 })}'}\n`)
    await run.upgraded()
    await run.says(`started web:other 127.0.0.1:${run.port}=3;${run.sandbox.folder}/b.sock=4`)
    expect(existsSync(join(run.sandbox.folder, 'a.sock'))).toBe(false)
    expect((await run.status()).listeners.map(({ name }: { name: string }) => name)).toEqual(['web', 'other'])
  })

  it.runIf(NIGHTLY)(
    'reads its file anew at once, and says from when on counts what has changed',
    async () => {
      const run = await Supervised.prepare()
      const file = join(run.sandbox.folder, 'run.yaml')
      const write = (more: string) =>
        writeFileSync(
          file,
          `command: [${SERVER}]\nready: fd\nlisten:\n  web: tcp://127.0.0.1:${run.port}\n${more}`,
        )
      write('')
      await run.launch(['--config', file], [])
      const pid = await run.serving()
      const reload = (...args: string[]) => run.sandbox.run('reload', '--control', run.control, ...args)
      expect(await reload()).toEqual({ code: 0, stdout: 'nothing has changed\n', stderr: '' })
      write(`stopSignal: INT\nenv: { A: 1 }\nhealthPasses: 2\nrestart: always\n`)
      // The supervisor compares the file with its settings, also when it has gone on as another program.
      expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
      const { stdout } = await reload('--json')
      expect(JSON.parse(stdout)).toEqual({
        ok: true,
        pid,
        generation: 1,
        now: ['stopSignal'],
        next: ['env', 'healthPasses'],
        restart: ['restart'],
      })
      expect((await reload()).stdout.split('\n')).toEqual([
        'env, healthPasses: with the next version (fd-broker upgrade)',
        'restart: when fd-broker run is restarted',
        '',
      ])
      write('stopSignal: NONE\n')
      expect(await reload()).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^ERR_FDB_CONFIG.*a signal/),
      })
      run.signal('SIGTERM')
      await run.says('INT')
      await run.ended()
    },
  )

  it('refuses wrong settings and a control path that another has, with what is to be done', async () => {
    const run = await Supervised.start(['--ready', 'fd'])
    const refused = async (...args: string[]) => await run.sandbox.run('run', ...args)
    expect(await refused('--control', run.control, '--', 'true')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_CONTROL_TAKEN/),
    })
    expect((await refused('--ready', 'soon', '--', 'true')).stderr).toMatch(
      /^ERR_FDB_OPTION: option "ready" is "soon"; give notify/,
    )
    expect(await refused('--', 'sh', '-c', 'echo out; echo err >&2; exit 5')).toMatchObject({
      code: 5,
      stdout: 'out\n',
      stderr: expect.stringMatching(/^err$/m),
    })
    // A pid file is for readers: the program runs without it.
    const nowhere = join(run.sandbox.folder, 'missing', 'run.pid')
    const control = join(run.sandbox.folder, 'run', 'other.sock')
    expect(
      await refused('--control', control, '--pid-file', nowhere, '--', 'sh', '-c', 'exit 6'),
    ).toMatchObject({ code: 6, stderr: expect.stringContaining('the pid file could not be changed') })
    expect(readFileSync(run.said, 'utf8')).toMatch(/listens/)
  })

  it.runIf(NIGHTLY)('refuses more wrong settings', async () => {
    const sandbox = Sandbox.open()
    const refused = async (...args: string[]) => (await sandbox.run('run', ...args)).stderr
    expect(await refused('--listen', 'tcp://127.0.0.1:0', '--', 'true')).toMatch(
      /^ERR_FDB_OPTION.*NAME=ADDRESS/,
    )
    expect(await refused('--stop-signal', 'NONE', '--', 'true')).toMatch(/^ERR_FDB_OPTION.*a signal/)
    expect(await refused()).toMatch(/^ERR_FDB_OPTION: there is no program/)
  })

  const failures: [name: string, args: string[], why: RegExp][] = [
    ['a command that is not there', ['--', 'nosuchprogram'], /^ERR_FDB_NO_BINARY: .*"nosuchprogram"/m],
    // Addresses of no interface: for documents.
    [
      'an address that cannot be bound',
      ['--listen', 'web=tcp://192.0.2.1:8080', '--', 'true'],
      /^ERR_FDB_BIND: tcp:\/\/192\.0\.2\.1:8080 /m,
    ],
    [
      'a program that ends',
      ['--', 'sh', '-c', 'exit 5'],
      /^ERR_FDB_SUCCESSOR_EXITED: .* ended with code 5 /m,
    ],
    ['a folder that is not there', ['--cwd', '/nowhere', '--', 'true'], /^ERR_FDB_NO_CWD: .*\/nowhere/m],
    ['a program that has nothing to do', ['--', 'true'], /^ERR_FDB_SUCCESSOR_EXITED: .* ended with code 0 /m],
  ]
  it.each(failures.slice(0, perLane(1, failures.length)))(
    'says at its end why %s never served, also where the log is silent',
    async (_, args, why) => {
      const sandbox = Sandbox.open()
      const code = args.includes('exit 5') ? 5 : 1
      if (NIGHTLY)
        expect(await sandbox.run('run', ...args)).toMatchObject({ code, stderr: expect.stringMatching(why) })
      const { code: ended, stderr } = await sandbox.run('run', '--log-level', 'silent', ...args)
      expect({ code: ended, stderr }).toEqual({ code, stderr: expect.stringMatching(why) })
      expect(stderr.trimEnd().split('\n')).toHaveLength(1)
    },
  )
})
