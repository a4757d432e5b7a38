import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { RunSources } from '../../../src/cli/run-sources.js'
import { listenerVariables } from '../../../src/run/shared-listeners.js'
import { parseReadiness } from '../../../src/versions/version-probe.js'
import { NextSettings, passedOn } from '../../fixtures/run.js'
import { versionSettings } from '../../processes/version-settings.js'

/** Other signals have another effect on `fd-broker run`. */
const UPGRADE = 'one of HUP, USR1, USR2, WINCH, TTIN, TTOU, ALRM, VTALRM, CONT'

describe('--ready', () => {
  it.each([
    ['notify', { kind: 'notify' }],
    ['fd', { kind: 'fd' }],
    ['http:/health?deep=1', { kind: 'http', url: '/health?deep=1' }],
    ['http://127.0.0.1:80/health', { kind: 'http', url: 'http://127.0.0.1:80/health' }],
    ['http:http://[::1]/', { kind: 'http', url: 'http://[::1]/' }],
    ['tcp:127.0.0.1:80', { kind: 'tcp', host: '127.0.0.1', port: 80 }],
    ['tcp://[::1]:80', { kind: 'tcp', host: '::1', port: 80 }],
    ['command:test -e /run/a:b', { kind: 'command', text: 'test -e /run/a:b' }],
    ['delay:1.5s', { kind: 'delay', ms: 1500 }],
    ['handoff:/run/a.sock', { kind: 'handoff', control: '/run/a.sock' }],
  ])('%s is read', (text, readiness) => {
    expect(parseReadiness(text)).toEqual(readiness)
  })

  it.each([
    '',
    'notify:x',
    'http:',
    'http:https://a/',
    'tcp',
    'tcp:80',
    'tcp:a:99999',
    'command: ',
    'delay:5',
    'soon',
  ])('"%s" is refused, with what can be given', async ready => {
    expect(parseReadiness(ready)).toBeNull()
    await expect(new RunSources(['a'], { ready }).versionSettings()).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
      message: expect.stringMatching(/^option "ready" is ".*"; give notify, fd, http:URL/),
    })
  })
})

describe('--ready at an address of a listener', () => {
  const read = (listen: string, ready: string) =>
    new RunSources(['a'], { listen: [listen], ready }).versionSettings()

  it.each([
    ['web=tcp://127.0.0.1:8080', 'http://127.0.0.1:8080/health'],
    ['web=tcp://127.0.0.1:8080', 'http://localhost:8080/'],
    ['web=tcp://0.0.0.0:8080', 'http://127.0.0.1:8080/'],
    ['web=tcp://[::]:80', 'http://[::1]/'],
    ['web=tcp://[::1]:80', 'http://[::1]/'],
    ['web=tcp://0.0.0.0:8080', 'tcp:localhost:8080'],
    ['web=tcp://127.0.0.1:8080', 'tcp:0.0.0.0:8080'],
  ])('%s refuses %s: the old version would answer', async (listen, ready) => {
    await expect(read(listen, ready)).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
      message: expect.stringMatching(/is the listener "web".*Give http:\/PATH/),
    })
  })

  it.each([
    ['web=tcp://127.0.0.1:8080', 'http://127.0.0.1:8081/'],
    ['web=tcp://127.0.0.1:8080', 'http://127.0.0.2:8080/'],
    ['web=tcp://0.0.0.0:8080', 'http://192.0.2.1:8080/'],
    ['web=unix:/run/a.sock', 'tcp:127.0.0.1:80'],
    ['web=tcp://127.0.0.1:8080', 'http:/health'],
  ])('%s allows %s', async (listen, ready) => {
    await expect(read(listen, ready)).resolves.toMatchObject({ ready: parseReadiness(ready) })
  })

  it('causes an error with its place in a file', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-run-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const config = join(folder, 'run.yaml')
    writeFileSync(config, 'command: [a]\nlisten: { web: "tcp://127.0.0.1:80" }\nready: http://127.0.0.1/\n')
    await expect(new RunSources([], { config }).versionSettings()).rejects.toThrow(/run\.yaml:3:\d+/)
  })
})

describe('the name of a service', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-run-'))
  const nameOf = async (command: readonly string[], flags = {}) => {
    const { name, storedAs } = await new RunSources(command, { cwd: folder, ...flags }).supervisorSettings()
    return [name, storedAs]
  }

  beforeAll(() => writeFileSync(join(folder, 'package.json'), '{ "name": "@us/kiosk" }'))
  afterAll(() => rmSync(folder, { recursive: true }))

  it.each([
    [['node', 'server.js'], 'kiosk'],
    [
      ['/usr/bin/node', '-r', './a.js', '--import', 'b', '--env-file=c', 'worker.mjs', 'd.js'],
      'kiosk-worker',
    ],
    [['node', '.'], 'kiosk'],
    [['node', '--title', 'a', join(folder, 'dist', 'index.js')], 'kiosk'],
  ])('comes from the package for %j', async (command, name) => {
    expect(await nameOf(command)).toEqual([name, 'node'])
    expect(await nameOf(command, { name: 'given' })).toEqual(['given', undefined])
  })

  it.each([
    [['node', '-e', 'setInterval(() => {}, 1)'], 'node'],
    [['node', '-pe', '1'], 'node'],
    [['node'], 'node'],
    [['./server.mjs', 'a.js'], 'server.mjs'],
    [['/usr/bin/gunicorn', 'app:app'], 'gunicorn'],
  ])('comes from the program for %j', async (command, name) => {
    expect(await nameOf(command)).toEqual([name, undefined])
  })
})

describe('settings', () => {
  function file(text: string): string {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-run-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    writeFileSync(join(folder, 'run.yaml'), text)
    return join(folder, 'run.yaml')
  }

  it.each([
    [
      'command: [sleep, 1]\n',
      /run\.yaml:1:18: command\[1\]: 1 is a number, not a string; put it in quotes, "1"$/,
    ],
    [
      'ready: fd\ncommand: python3 srv.py\n',
      /run\.yaml:2:10: command: "python3 srv\.py" is a string, not a list; write \["python3", "srv\.py"\]$/,
    ],
    ['ready: fd\ncommand: true\n', /run\.yaml:2:10: command: true is a boolean, not a list$/],
    ['command:\n  - sleep\n  - { for: 1 }\n', /run\.yaml:3:5: command\[1\]: .* is a map, not a string$/],
  ])('name what of a command is no text, and where: %j', async (written, message) => {
    const sources = new RunSources([], { config: file(written) })
    await expect(sources.supervisorSettings()).rejects.toMatchObject({
      code: 'ERR_FDB_CONFIG',
      message: expect.stringMatching(message),
    })
  })

  it('come from the command line, then from the file, then from the defaults', async () => {
    const config = file(
      'command: [app]\nready: fd\nstopTimeout: 5s\nhealthyFor: 1m\nname: shop\nenv: { A: 1, B: null }\n',
    )
    const sources = new RunSources([], { config, ready: 'notify', listen: ['web=tcp://127.0.0.1:80'] })
    expect(await sources.supervisorSettings()).toMatchObject({
      name: 'shop',
      control: null,
      restart: 'never',
      upgradeSignal: 'SIGHUP',
    })
    expect(await sources.versionSettings()).toMatchObject({
      command: ['app'],
      ready: { kind: 'notify' },
      stopTimeout: 5_000,
      healthyFor: 60_000,
      readyTimeout: 60_000,
      stopSignal: 'SIGTERM',
      env: { A: '1', B: undefined },
      listen: [{ name: 'web', spec: { kind: 'tcp', port: 80 } }],
    })
  })

  it('say how a version is asked', async () => {
    const byDefault = { interval: null, timeout: 5_000, passes: 1 }
    expect((await new RunSources(['app'], {}).versionSettings()).asking).toEqual(byDefault)
    const config = file('healthInterval: 50ms\nhealthTimeout: 1s\nhealthPasses: 2\n')
    const sources = new RunSources(['app'], { config, healthPasses: '3' })
    expect((await sources.versionSettings()).asking).toEqual({ interval: 50, timeout: 1_000, passes: 3 })
  })

  it('of the environment may name several listeners, and say yes in words', async () => {
    const flags = { listen: 'a=tcp://127.0.0.1:80 b=unix:/run/b.sock', survive: 'true' }
    const { listen, survive } = await new RunSources(['app'], flags).versionSettings()
    expect({ names: listen.map(({ name }) => name), survive }).toEqual({ names: ['a', 'b'], survive: true })
  })

  it.each([
    ['ready: [1]', 'run.yaml:1:8: ready: [1] is not notify, fd, http:URL'],
    ['healthPasses: 0', 'run.yaml:1:15: healthPasses: 0 is no whole number from 1 to 9999'],
    ['healthTimeout: 0s', 'run.yaml:1:16: healthTimeout: "0s" is not a duration from 1ms'],
    ['stopTimeout: 5', 'run.yaml:1:14: stopTimeout: 5 has no unit; write 5s or 5ms'],
    ['upgradeSignal: KILL', `upgradeSignal: "KILL" is not ${UPGRADE}`],
    ['listen: { "a:b": "tcp://127.0.0.1:80" }', 'listen["a:b"]: "a:b" is no name of a listener: 1 to 255'],
    [
      'listens: {}',
      'run.yaml:1:1: listens: unknown key (did you mean "listen"?); the keys here are: command',
    ],
    ['restart: sometimes', 'restart: "sometimes" is none of "never", "on-failure", "always"'],
    ['- a', 'run.yaml:1:1: ["a"] is a list, not a map; its keys are: command'],
    ['{', 'run.yaml:1:2: '],
    ['name: shop\nstopSignal: [1]', 'run.yaml:2:13: stopSignal: [1] is not a signal, for example TERM'],
    ['stopSignal: 15', 'stopSignal: 15 is not a signal, for example TERM'],
    ['upgradeSignal: true', `upgradeSignal: true is not ${UPGRADE}`],
    ['env: null', 'run.yaml:1:6: env: null is empty, not a map of variables to strings'],
    ['env: { A: [1] }', 'run.yaml:1:11: env.A: [1] is not a string, or null'],
    ['cwd: [a]', 'cwd: ["a"] is not a string'],
    ['control: true', 'control: true is not a string'],
    ['pidFile: {}', 'pidFile: {} is not a string'],
    ['listen: [a]', 'listen: ["a"] is a list, not a map of names to addresses'],
    ['listen: { web: null }', 'listen.web: null is empty, not a listener address'],
    ['ready: fd\nlisten: { web: nowhere }', 'run.yaml:2:16: listen.web: The listener nowhere has an invalid'],
    ['ready: fd\nlistens: {}', 'run.yaml:2:1: listens: unknown key'],
    ['adopt: 1', 'run.yaml:1:1: adopt: unknown key'],
  ])('cause an error with their place if wrong: %j', async (text, why) => {
    const sources = new RunSources(['app'], { config: file(text) })
    for (const read of ['supervisorSettings', 'versionSettings'] as const)
      await expect(sources[read]()).rejects.toMatchObject({
        code: 'ERR_FDB_CONFIG',
        message: expect.stringContaining(why),
      })
  })

  it('cause one error that names every problem of the file', async () => {
    const sources = new RunSources(['app'], { config: file('stopTimeout: 5\nrestart: no\nlistens: {}\n') })
    await expect(sources.versionSettings()).rejects.toMatchObject({ details: { count: 3 } })
  })

  it.each([
    [{ healthPasses: '0' }, /^option "healthPasses" is 0; give a whole number from 1 to 9999/],
    [{ stopTimeout: '5' }, /^option "stopTimeout" is "5"; give a duration/],
    [{ stopSignal: 'x' }, /^option "stopSignal" is "x"; give a signal, for example TERM/],
    [{ survive: 'perhaps' }, /^option "survive" is "perhaps"; give true or false/],
    [{ restart: 'now' }, /^option "restart" is "now"; give "never", "on-failure" or "always"/],
    [{ listen: ['web'] }, /^option "listen" is "web"; give NAME=ADDRESS/],
  ])('cause an error that names the option if wrong: %j', async (flags, why) => {
    await expect(new RunSources(['app'], flags).versionSettings()).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
      message: expect.stringMatching(why),
    })
  })
})

describe('a reload', () => {
  it('names the variables of the program if the file removes another one from now on', async () => {
    const settings = { name: 'shop', control: null, pidFile: null, restart: 'never' } as const
    const own = versionSettings({ command: ['a'], env: { A: '1', B: undefined } })
    const next = new NextSettings(
      {
        settings: { ...settings, restartDelay: 1, upgradeSignal: 'SIGHUP' },
        read: () => Promise.resolve(own),
        readSupervisorSettings: () =>
          Promise.resolve({ ...settings, restartDelay: 1, upgradeSignal: 'SIGHUP' }),
      },
      null,
    )
    const now = versionSettings({ command: ['a'], env: { A: '1' } })
    expect((await next.reread(now)).changes).toEqual({ now: [], next: ['env'], restart: [] })
    expect((await next.reread(own)).changes.next).toEqual([])
  })
})

describe('the state that a supervisor leaves to its next image', () => {
  it('says which variables a version does not get', () => {
    const env = { A: '1', B: undefined }
    const versions = [{ settings: versionSettings({ env }) }]
    const { read, text } = passedOn({ versions, known: [{ settings: { env: {} } }] })
    expect(Object.entries(read.versions[0]!.settings.env)).toEqual([
      ['A', '1'],
      ['B', undefined],
    ])
    expect(read.known[0]!.settings.env).toEqual({})
    // An earlier release takes it for a variable, whose name no program asks for.
    expect(JSON.parse(text).versions[0].settings.env).toEqual({ A: '1', 'unset=': 'B' })
  })
})

describe('the variables of a program about its listeners', () => {
  it('have nothing of those that the supervisor has for its own', () => {
    const told = listenerVariables([], 3)
    // With FDSTORE a process gives descriptors to the receiver at NOTIFY_SOCKET: that is the supervisor, which keeps none.
    for (const name of ['LISTEN_FDS', 'NOTIFY_SOCKET', 'WATCHDOG_USEC', 'FDSTORE'])
      expect(told).toHaveProperty(name, undefined)
  })
})
