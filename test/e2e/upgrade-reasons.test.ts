import { readdirSync, writeFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import * as operator from '../processes/operator.js'
import { AutoProgram } from './auto-program.js'
import { CLI, Sandbox } from './cli-processes.js'

/** `ready` is the end of the version's start. */
const member = (ready: string) => `import http from 'node:http'
import { join } from 'fd-broker'
const member = await join({ service: 'shop', control: process.env.RUNTIME_DIRECTORY + '/' + process.env.NAME + '.sock', upgrade: { ready: 600 } })
const server = http.createServer((request, response) => response.end('pid ' + process.pid))
;(await member.listen('web', 'tcp://127.0.0.1:8080')).serve(server)
const never = () => new Promise(() => {})
setInterval(() => {}, 1000)
${ready}
`

describe('an upgrade that comes to its limit names the step that is missing, and so does the status afterwards:', () => {
  it.each([
    ['ready() was not called', 'void 0', /has joined, but has not called ready\(\)/],
    [
      'a check does not settle',
      'await member.ready({ checks: [async function database() { await never() }] })',
      /has joined, but has not finished check "database"/,
    ],
    [
      'a check without a name does not settle',
      'await member.ready({ checks: [async () => true, async () => never()] })',
      /has joined, but has not finished check 2 of 2/,
    ],
  ])('%s', async (_what, ready, why) => {
    const program = await AutoProgram.of(member('await member.ready()'))
    const env = { NAME: program.name }
    const first = await program.serve('nothing', 1, env)
    program.write(program.file, member(ready))
    const { code, stderr } = await program.sandbox.run('upgrade', '--control', program.control)
    expect(stderr).toMatch(why)
    expect(code).toBe(1)
    const { lastFailure } = await operator.status(program.control)
    expect(lastFailure?.message).toMatch(why)
    await program.answeredBy(first)
  })

  it('the probation of the version that serves has not ended', async () => {
    const program = await AutoProgram.of(member('await member.ready()'))
    await program.serve('nothing', 1, { NAME: program.name })
    const upgrade = (...more: string[]) =>
      program.sandbox.run('upgrade', '--control', program.control, ...more)
    expect((await upgrade()).code).toBe(0)
    const { code, stderr } = await upgrade('--timeout', '500ms')
    expect(stderr).toMatch(
      /^ERR_FDB_DEADLINE: the successor \d+ did not serve within 500 ms: process \d+ is in probation \(for \d s more\), and no version can take over from it before/m,
    )
    expect(code).toBe(1)
  })

  it('a worker has not called ready()', async () => {
    const program = await AutoProgram.of(member('void 0'))
    const words = ['--service', 'shop', '--control', program.control, '--count', '1', '--timeout', '1500ms']
    const worker = [process.execPath, program.path(program.file)]
    const { code, stderr } = await program.sandbox.run('workers', 'start', ...words, '--', ...worker)
    expect(stderr).toMatch(/did not serve within 1500 ms: it has joined, but has not called ready\(\)/)
    expect(code).toBe(1)
  })

  it.each([
    [
      'with its message',
      `async () => { throw new Error('cannot reach db.internal:5432: connection refused') }`,
      'check 1 of 1 failed: cannot reach db.internal:5432: connection refused',
    ],
    ['that returns false', 'async () => false', 'check 1 of 1 returned false'],
  ])('a check that fails, %s', async (_how, check, why) => {
    const program = await AutoProgram.of(member('await member.ready()'))
    const env = { NAME: program.name }
    await program.serve('nothing', 1, env)
    program.write(program.file, member(`await member.ready({ checks: [${check}] })`))
    const { code, stderr } = await program.sandbox.run('upgrade', '--control', program.control)
    expect(stderr).toContain(why)
    expect(code).toBe(1)
    const { lastFailure } = await operator.status(program.control)
    expect(lastFailure?.message).toContain(why)
  })
})

describe('a successor that cannot read its configuration', () => {
  it.each([
    ['writes why for the process that waits for it', true],
    ['leaves no file for a process that does not wait for it any more', false],
  ])('%s', async (_what, isAwaited) => {
    const sandbox = Sandbox.open()
    const file = sandbox.file('upgrade.sock.0123456789abcdef')
    if (isAwaited) writeFileSync(`${file}.step`, '')
    const command = [process.execPath, CLI, 'proxy', '--config', sandbox.file('missing')]
    const { code } = await sandbox.runCommand(['env', `FD_BROKER_LAST_WORDS=${file}`, ...command])
    expect(code).toBe(1)
    const left = readdirSync(sandbox.folder).filter(name => name.startsWith('upgrade.sock'))
    expect(left).toEqual(
      isAwaited ? ['upgrade.sock.0123456789abcdef', 'upgrade.sock.0123456789abcdef.step'] : [],
    )
  })
})
