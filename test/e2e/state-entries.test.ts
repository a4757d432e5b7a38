import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { type Caller, receiveHello, serveCaller } from '../../src/holder/admission.js'
import { OperatorClient } from '../../src/operator/client.js'
import { acquireControl, closeControl, type FirstControl } from '../../src/os/control-path.js'
import { STATE_COMMANDS, serveStateCommands } from '../../src/state/commands.js'
import { ControlListener } from '../../src/wire/control-listener.js'
import { VERSIONS } from '../../src/wire/link.js'
import { defineSection, json, Segment, StateLog } from '../fixtures/state.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'
import { launchMember, openState } from './state-sandbox.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** The output of `fd-broker state watch …` so far. */
function watch(sandbox: Sandbox, ...args: string[]): Record<string, unknown>[] {
  const lines: Record<string, unknown>[] = []
  const child = spawn(process.execPath, [CLI, 'state', 'watch', '--control', sandbox.control, ...args], {
    env: sandbox.env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  let rest = ''
  child.stdout.setEncoding('utf8').on('data', text => {
    const all = `${rest}${text}`.split('\n')
    rest = all.pop()!
    lines.push(...all.map(line => JSON.parse(line)))
  })
  return lines
}

/** Serves the commands of a log at a control socket. Calls `before` with the name of each command before it is executed. */
async function serve(
  control: string,
  log: StateLog,
  before: (command: string) => Promise<void>,
): Promise<void> {
  const handlers = new Map<string, (body: Buffer) => Promise<Uint8Array | string>>()
  serveStateCommands((name, handler) => handlers.set(name, handler), log)
  const command = async ({ name, body }: { name: string; body: Buffer }) => {
    await before(name)
    return Buffer.from(await handlers.get(name)!(body))
  }
  const none = () => expect.fail('this is not requested')
  const place = (await acquireControl(control)) as FirstControl
  const listener = new ControlListener(place.listener)
  const callers: Caller[] = []
  const admission = { versions: VERSIONS, service: 'shop', timeoutMs: 60_000, logger: SILENT }
  listener.start((fd, who) =>
    receiveHello(fd, who, admission, caller => {
      callers.push(caller)
      serveCaller(caller, { command, status: none, upgrade: none })
    }),
  )
  onTestFinished(() => {
    for (const { link } of callers) link.close()
    listener.stop()
    closeControl(place)
  })
}

// Each command is a process: slow on a busy machine.
describe.each(perLane(['embedded'], ['embedded', 'daemon']))('entries by an operator (%s)', hosting => {
  it('change by command, and show in a watch, across an upgrade', async () => {
    const sandbox = await openState(hosting)
    const run = async (command: string, ...args: string[]) => {
      const { code, stdout, stderr } = await sandbox.run(
        'state',
        command,
        '--control',
        sandbox.control,
        ...args,
      )
      return code === 0 ? stdout : stderr
    }
    const lines = watch(sandbox, '--initial', '--section', 'carts')
    const seen = (key: string) => lines.some(line => line.key === key)
    await until('the watch has begun', () => seen('anna'), 20_000)
    expect(lines).toEqual([
      expect.objectContaining({
        ...{ op: 'put', section: 'carts', key: 'anna', version: 1 },
        value: expect.objectContaining({ items: [1, 2, 3], paid: true }),
      }),
    ])
    expect(await run('put', 'carts', 'bert', '{"items":[]}')).toMatch(/^bert of carts is put: \d+ bytes$/m)
    await until('the watch tells of a put', () => seen('bert'), 20_000)

    await launchMember(sandbox, hosting)
    expect(await run('put', 'carts', 'carl', '[1]')).toMatch(/^carl of carts is put/)
    await until('the watch tells of a put after the upgrade', () => seen('carl'), 20_000)
    expect(await run('delete', 'carts', 'bert')).toBe('bert of carts is deleted\n')
    await until('the watch tells of a deletion', () => lines.at(-1)?.op === 'delete', 20_000)
    expect(lines.slice(1)).toEqual([
      { op: 'put', section: 'carts', key: 'bert', version: 1, value: { items: [] } },
      { op: 'put', section: 'carts', key: 'carl', version: 1, value: [1] },
      { op: 'delete', section: 'carts', key: 'bert' },
    ])

    expect(await run('put', 'prices', 'apple', '{"euros":1}')).toMatch(/^ERR_FDB_STATE_VALUE/)
    const piped = [process.execPath, CLI, 'state', 'put', '--control', sandbox.control, 'keys', 'ticket']
    const { code } = await sandbox.runCommand(['sh', '-c', 'printf told | "$@"', 'sh', ...piped])
    expect(code).toBe(0)
    const endless = await sandbox.runCommand(['sh', '-c', 'head -c 99M /dev/zero | "$@"', 'sh', ...piped])
    expect(endless).toMatchObject({ code: 2, stderr: expect.stringContaining('has more than 15 MiB') })
    expect(await run('get', '--raw', '--secrets', 'keys', 'ticket')).toBe('told')
  })

  it.runIf(NIGHTLY)('refuse wrong commands, with the reason', async () => {
    const sandbox = await openState(hosting)
    const refused = async (...args: string[]) =>
      (await sandbox.run('state', ...args, '--control', sandbox.control)).stderr
    expect(await refused('delete', 'carts', 'bert')).toMatch(/^ERR_FDB_STATE_NO_ENTRY/)
    expect(await refused('put', 'prices', 'apple', '{')).toMatch(/^ERR_FDB_OPTION: .*not valid JSON/)
    expect(await refused('put', 'keys', 'ticket', '1')).toMatch(/^ERR_FDB_OPTION: .*at standard input/)
    expect(await refused('put', 'non', 'ticket', '1')).toMatch(
      /^ERR_FDB_STATE_NO_ENTRY: .*carts, keys, notes, prices/,
    )
  })

  it('change by a program, which reads them too', async () => {
    const sandbox = await openState(hosting)
    using client = await OperatorClient.connect(sandbox.control)
    const { state } = client
    expect((await state.sections()).map(({ name, entries }) => [name, entries])).toEqual([
      ['carts', 1],
      ['keys', 1],
      ['notes', 0],
      ['prices', 3000],
    ])
    expect((await state.list('prices')).length).toBe(3000)
    const changes = state.watch({ section: 'prices', initial: true })
    for (let i = 0; i < 3000; i++) await changes.next()
    const value = Buffer.from('{"cents":7}')
    for (let i = 0; i < 2; i++) await state.put('prices', 'item 7', value, { request: 'seven' })
    expect((await changes.next()).value).toEqual({
      op: 'put',
      section: 'prices',
      key: 'item 7',
      version: 2,
      value,
    })
    await changes.return()
    expect(await state.get('prices', 'item 7')).toMatchObject({ version: 2, value })
    const wrong = state.put('prices', 'item 7', Buffer.from('{}'))
    await expect(wrong).rejects.toThrow(expect.objectContaining({ code: 'ERR_FDB_STATE_VALUE' }))
    expect(await state.delete('prices', 'item 7')).toBe(true)
  })
})

it('a watch copies the state anew when a compaction removes the segment that it reads', async () => {
  const sandbox = Sandbox.open()
  const log = new StateLog()
  onTestFinished(() => log.close())
  log.startWriting(Segment.create(1))
  const counts = log.section('counts', defineSection<number>({ version: 1, codec: json() }))
  await counts.put('a', 1)
  const commands: string[] = []
  await serve(sandbox.control, log, async command => {
    commands.push(command)
    if (command !== STATE_COMMANDS.read || log.segments[0]?.kind === 'snapshot') return
    log.segments[0]!.seal()
    log.startWriting(Segment.create(2))
    await log.compact()
  })
  const lines = watch(sandbox, '--initial')
  await until('the watch has begun', () => lines.length > 0, 90_000)
  expect(lines).toEqual([{ op: 'put', section: 'counts', key: 'a', version: 1, value: 1 }])
  const { segments, read } = STATE_COMMANDS
  const anew = [segments, ...log.segments.map(() => read)]
  expect(commands.slice(0, 2 + anew.length)).toEqual([segments, read, ...anew])
})
