import { appendFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { humanLine } from '../../src/cli/log.js'
import { NewLines } from '../../src/cli/start.js'
import { NIGHTLY } from '../lanes/lane.js'
import { Scene } from '../processes/scene.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** Control sequences as they can be read. */
const visible = (text: string) => text.replaceAll('\x1b', '^')

/** The output of a command line in a terminal of its own. */
async function onTerminal(sandbox: Sandbox, words: string): Promise<string> {
  const { stdout } = await sandbox.runCommand(['script', '-qec', `TERM=xterm ${words}`, '/dev/null'])
  return visible(stdout.replaceAll('\r\n', '\n'))
}

describe('on a terminal', () => {
  it('the log of run is text, with colour; elsewhere it is JSON', async () => {
    const sandbox = Sandbox.open()
    const words = `${process.execPath} ${CLI} run -- true`
    const text = await onTerminal(sandbox, words)
    expect(text).toMatch(/\d\d:\d\d:\d\d\^\[22m \^\[32minfo \^\[39m a version was started /)
    expect(text).toContain('^[2mcommand=["true"]^[22m')
    expect(await onTerminal(sandbox, `NO_COLOR=1 ${words}`)).toMatch(
      /^\d\d:\d\d:\d\d info {2}a version was started version=1 child=\d+ command=\["true"\]$/m,
    )
    const { stderr } = await sandbox.runCommand(['bash', '-c', words])
    const messages = stderr.split('\n').flatMap(line => (line.startsWith('{') ? [JSON.parse(line)] : []))
    expect(messages).toContainEqual(expect.objectContaining({ level: 30, msg: 'a version was started' }))
  })

  it('a status shows in colour that the service serves', async () => {
    const scene = Scene.open()
    await scene.serve({ listeners: [{ name: 'web', spec: 'tcp://127.0.0.1:0' }] })
    const words = `${process.execPath} ${CLI} status --control ${scene.control}`
    expect(await onTerminal(Sandbox.open(), words)).toMatch(
      /^role +\^\[32mserving\^\[39m$[\s\S]*^\^\[1mlisteners\^\[22m$/m,
    )
  })

  it.runIf(NIGHTLY)('an upgrade that takes long says in which phase it is, and since when', async () => {
    const sandbox = Sandbox.open()
    const scene = Scene.open({ readyDelay: 1_400 })
    await scene.serve()
    const words = `${process.execPath} ${CLI} upgrade --control ${scene.control}`
    const text = await onTerminal(sandbox, words)
    expect(text).toMatch(/\r\^\[K[|/\\-] \w+ \(pid \d+\), 1\.\d s\r\^\[K/)
    expect(text).toMatch(/\^\[32mgeneration 2 \(pid \d+\) serves, after \d+ ms\^\[39m/)
    const { stderr } = await sandbox.run('status', '--control', join(sandbox.folder, 'none'))
    expect(visible(stderr)).toMatch(/^ERR_FDB_NO_HOLDER: no process serves at /)
  })
})

describe('a line of the log as text', () => {
  const out = { isTTY: false } as unknown as NodeJS.WriteStream

  it.each([
    [
      { level: 50, msg: 'it failed', err: { code: 'ERR_FDB_X', message: 'a\nb' } },
      'error it failed (ERR_FDB_X: a b)',
    ],
    [{ level: 40, msg: 'late', ms: 3, pid: 1, hostname: 'h', name: 'n' }, 'warn  late ms=3'],
    [{ level: 20, msg: 'peer', pid: 1, ownPid: 2 }, 'debug peer pid=1'],
    [{ level: 30, msg: 'an error', err: { message: 'm', stack: 's' } }, 'info  an error (s)'],
  ])('%j', (line, text) => {
    const at = new Date(2026, 0, 2, 3, 4, 5).getTime()
    expect(humanLine(JSON.stringify({ time: at, ...line }), out)).toBe(`03:04:05 ${text}\n`)
  })

  it('stays as it is if it is no line of a log', () => {
    expect(humanLine('no JSON\n', out)).toBe('no JSON\n')
  })
})

describe('a line of a log', () => {
  it.each(['null', '5', '"text"'])('stays unchanged on a terminal if it is JSON but no object: %s', line => {
    expect(humanLine(line)).toBe(line)
  })

  it('appears once, when it is complete, and from the start of a file that was rotated', async () => {
    const log = join(Sandbox.open().folder, 'shop.log')
    const lines = new NewLines(log)
    expect(await lines.read()).toBe('')
    writeFileSync(log, 'one\ntw')
    expect(await lines.read()).toBe('one\n')
    appendFileSync(log, 'o\n')
    expect([await lines.read(), await lines.read()]).toEqual(['two\n', ''])
    writeFileSync(log, 'new\n')
    expect(await lines.read()).toBe('new\n')
  })
})
