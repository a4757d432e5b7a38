import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { Sandbox } from './cli-processes.js'
import { launchMember, openState } from './state-sandbox.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** The output of `fd-broker state …`, which must succeed. */
async function state(sandbox: Sandbox, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await sandbox.run('state', ...args)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout
}

async function refused(sandbox: Sandbox, ...args: string[]): Promise<string> {
  const { code, stderr } = await sandbox.run('state', ...args)
  expect(code).toBe(1)
  return stderr
}

const parsed = (text: string): Record<string, unknown>[] =>
  text
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as Record<string, unknown>)

/** The last line of a file changed. */
function withLast(file: string, to: string, change: (line: Record<string, unknown>) => object): void {
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n')
  const last = JSON.stringify(change(JSON.parse(lines.at(-1)!) as Record<string, unknown>))
  writeFileSync(to, `${[...lines.slice(0, -1), last].join('\n')}\n`)
}

// Each command is a process, twenty and more in a test: slow on a busy machine.
describe.each(perLane(['embedded'], ['embedded', 'daemon']))(
  'fd-broker state on a control socket (%s)',
  hosting => {
    it('tells what the state has, shows entries and keeps secrets', async () => {
      const sandbox = await openState(hosting)
      const source = ['--control', sandbox.control]
      const stats = JSON.parse(await state(sandbox, 'stats', ...source, '--json'))
      expect(stats).toMatchObject({ entries: 3002, epoch: 1 })
      expect(
        stats.sections.map(({ name, entries, codec, version, secret }: never) => [
          name,
          entries,
          codec,
          version,
          secret,
        ]),
      ).toEqual([
        ['carts', 1, 'msgpack', 1, false],
        ['keys', 1, 'bytes', 1, true],
        ['prices', 3000, 'json', 2, false],
      ])
      expect(JSON.parse(await state(sandbox, 'get', ...source, 'carts', 'anna'))).toEqual({
        section: 'carts',
        key: 'anna',
        version: 1,
        // JSON has no form for the last three.
        value: { items: [1, 2, 3], paid: true, number: '1152921504606846976', sum: 'NaN', receipt: 'Af8=' },
      })
      const all = parsed(await state(sandbox, 'show', ...source))
      expect(all.length).toBe(3002)
      expect(all[1]).toEqual({ section: 'keys', key: 'ticket', version: 1, redacted: true, bytes: 11 })
      expect(await refused(sandbox, 'get', ...source, '--raw', 'keys', 'ticket')).toMatch(
        /^ERR_FDB_STATE_SECRET/,
      )
      expect(await state(sandbox, 'get', ...source, '--raw', '--secrets', 'keys', 'ticket')).toBe(
        'do not tell',
      )
      const verified = JSON.parse(await state(sandbox, 'verify', ...source, '--json'))
      expect(verified).toMatchObject({
        ok: true,
        verified: 'the service',
        entries: 3002,
        digest: stats.digest,
        torn: false,
      })
    })

    it.runIf(NIGHTLY)('shows a part of its entries, and tells what it does not have', async () => {
      const sandbox = await openState(hosting)
      const source = ['--control', sandbox.control]
      expect(await state(sandbox, 'stats', ...source)).toMatch(/^prices +3000 +2 +1 +json/m)
      const some = parsed(
        await state(sandbox, 'show', ...source, '--section', 'prices', '--prefix', 'item 299'),
      )
      expect(some.map(({ key }) => key)).toContain('item 2999')
      expect(some.length).toBe(11)
      const [secret] = parsed(await state(sandbox, 'show', ...source, '--section', 'keys', '--secrets'))
      expect(secret).toMatchObject({ text: 'do not tell' })
      expect(await refused(sandbox, 'get', ...source, 'prices', 'none')).toMatch(
        /^ERR_FDB_STATE_NO_ENTRY: .* no key "none"/,
      )
      expect(await refused(sandbox, 'show', ...source, '--section', 'x')).toMatch(
        /there are: carts, keys, prices/,
      )
    })

    it('exports and imports byte for byte, across an upgrade too', async () => {
      const sandbox = await openState(hosting)
      const source = ['--control', sandbox.control]
      const file = join(sandbox.folder, 'state.jsonl')
      await state(sandbox, 'export', ...source, '--secrets', '--out', file)
      expect(statSync(file).mode & 0o777).toBe(0o600)
      if (NIGHTLY) expect(await state(sandbox, 'diff', sandbox.control, file)).toBe('')
      const before = JSON.parse(await state(sandbox, 'stats', ...source, '--json'))
      expect(JSON.parse(await state(sandbox, 'verify', '--file', file, '--json'))).toMatchObject({
        verified: 'its first line',
        digest: before.digest,
        entries: 3002,
      })

      const edited = join(sandbox.folder, 'edited.jsonl')
      withLast(file, edited, line => ({ ...line, value: { cents: 7 } }))
      expect(await refused(sandbox, 'import', ...source, '--file', edited)).toMatch(
        /^ERR_FDB_STATE_DIGEST: .*--edited/,
      )
      await state(sandbox, 'import', ...source, '--file', edited, '--edited', '--section', 'prices')
      const { code, stdout, stderr } = await sandbox.run('state', 'diff', file, sandbox.control)
      expect([code, stderr]).toEqual([
        1,
        'ERR_FDB_STATE_DIFFERENT: 1 entries differ: 0 added, 0 removed, 1 changed\n',
      ])
      expect(parsed(stdout)).toEqual([
        {
          section: 'prices',
          key: 'item 999',
          change: 'changed',
          from: { version: 2, value: { cents: 999, name: 'Apfel ä' } },
          to: { version: 2, value: { cents: 7 } },
        },
      ])

      await launchMember(sandbox, hosting)
      expect(await state(sandbox, 'import', ...source, '--file', file, '--replace')).toBe(
        '3002 entries of carts, keys, prices imported\n',
      )
      const { digest, verified } = JSON.parse(await state(sandbox, 'verify', ...source, '--json'))
      expect({ digest, verified }).toEqual({ digest: before.digest, verified: 'the service' })
    })
  },
)

describe('fd-broker state', () => {
  it('imports all of a file or nothing', async () => {
    const sandbox = await openState()
    const source = ['--control', sandbox.control]
    const file = join(sandbox.folder, 'state.jsonl')
    await state(sandbox, 'export', ...source, '--section', 'prices', '--out', file)
    const wrong = join(sandbox.folder, 'wrong.jsonl')
    withLast(file, wrong, line => ({ ...line, value: { cents: 'seven' } }))
    const { sequence } = JSON.parse(await state(sandbox, 'stats', ...source, '--json'))
    const why = await refused(sandbox, 'import', ...source, '--file', wrong, '--edited', '--replace')
    expect(why).toMatch(/^ERR_FDB_STATE_VALUE: section "prices", key "item 999": .*nothing was imported/)
    expect(JSON.parse(await state(sandbox, 'stats', ...source, '--json')).sequence).toBe(sequence)

    writeFileSync(wrong, '{"section":"unheard","key":"k","text":"x"}\n')
    expect(await refused(sandbox, 'import', ...source, '--file', wrong)).toMatch(
      /^ERR_FDB_STATE_IMPORT: section "unheard"/,
    )
    if (!NIGHTLY) return
    writeFileSync(wrong, '{"section":"prices","key":"k","redacted":true,"bytes":1}\n')
    expect(await refused(sandbox, 'import', ...source, '--file', wrong)).toMatch(
      /^ERR_FDB_STATE_SECRET: the secret values \(\d+\) of /,
    )
    writeFileSync(wrong, '{"section":"prices"}\n')
    expect(await refused(sandbox, 'import', ...source, '--file', wrong)).toMatch(
      /line 1: it lacks "section" or "key"/,
    )
  })

  it.runIf(NIGHTLY)('imports a section without a schema, and empties it with --replace', async () => {
    const sandbox = await openState()
    const source = ['--control', sandbox.control]
    const file = join(sandbox.folder, 'notes.jsonl')
    const notes = { name: 'notes', version: 0, minReader: 0, codec: '', secret: false }
    const head = { fdbState: 1, epoch: 1, sequence: 1, sections: [{ ...notes, entries: 1, digest: '' }] }
    const of = (key: string) => `${JSON.stringify({ section: 'notes', key, version: 0, text: 'milk' })}\n`
    for (const [key, replace] of [
      ['monday', []],
      ['tuesday', ['--replace']],
    ] as const) {
      writeFileSync(file, `${JSON.stringify(head)}\n${of(key)}`)
      expect(await state(sandbox, 'import', ...source, '--file', file, '--edited', ...replace)).toBe(
        '1 entries of notes imported\n',
      )
    }
    expect(await state(sandbox, 'show', ...source, '--section', 'notes')).toBe(of('tuesday'))
    writeFileSync(file, of('wednesday'))
    expect(await refused(sandbox, 'import', ...source, '--file', file, '--replace')).toMatch(
      /^ERR_FDB_STATE_IMPORT: --replace needs a file with the first line/,
    )
  })

  it('writes a large state into a pipe without a warning', async () => {
    const sandbox = Sandbox.open()
    const file = join(sandbox.folder, 'large.jsonl')
    const count = 2000
    const line = (key: number) => JSON.stringify({ section: 'notes', key: `${key}`, text: 'x'.repeat(1000) })
    writeFileSync(file, Array.from({ length: count }, (_, key) => `${line(key)}\n`).join(''))
    const show = [process.execPath, CLI, 'state', 'show', '--file', file]
    const { stdout, stderr } = await sandbox.runCommand(['sh', '-c', '"$@" | cat', 'sh', ...show])
    expect(stderr).toBe('')
    expect(parsed(stdout).length).toBe(count)
  })

  it.runIf(NIGHTLY)('leaves secrets out of an export unless asked, and says so', async () => {
    const sandbox = await openState()
    const file = join(sandbox.folder, 'state.jsonl')
    await state(sandbox, 'export', '--control', sandbox.control, '--out', file)
    expect(readFileSync(file, 'utf8')).not.toMatch(/do not tell|ZG8gbm90/)
    expect(await state(sandbox, 'verify', '--file', file)).toMatch(/1 secret values are missing/)
    expect(await refused(sandbox, 'import', '--control', sandbox.control, '--file', file)).toMatch(
      /--secrets/,
    )
    const log = ['export', '--control', sandbox.control, '--format', 'log']
    expect(await refused(sandbox, ...log)).toMatch(/^ERR_FDB_STATE_SECRET: .*keys/)
    expect(await refused(sandbox, 'export', '--control', sandbox.control, '--out', file)).toMatch(/exists/)
  })

  it.runIf(NIGHTLY)('leaves no part of an export where its file finds no room, and says so', async () => {
    const sandbox = await openState()
    const file = join(sandbox.folder, 'state.jsonl')
    const order = ['export', '--control', sandbox.control, '--secrets', '--out', file]
    await state(sandbox, ...order)
    // Blocks of 512 bytes: enough for the copy of the state in memory, which is smaller.
    const blocks = (statSync(file).size >> 9) - 1
    rmSync(file)
    const limit = ['sh', '-c', `ulimit -f ${blocks}; exec "$@"`, 'sh', process.execPath, CLI]
    expect(await sandbox.runCommand([...limit, 'state', ...order])).toEqual({
      code: 1,
      stdout: '',
      stderr: `ERR_FDB_STATE_FILE: ${file} cannot be written (EFBIG: file too large, write)\n`,
    })
    expect(existsSync(file)).toBe(false)
  })

  it('exports the log itself, which is verified and read as a service is', async () => {
    const sandbox = await openState()
    const file = join(sandbox.folder, 'state.log')
    await state(
      sandbox,
      'export',
      '--control',
      sandbox.control,
      '--format',
      'log',
      '--secrets',
      '--out',
      file,
    )
    expect(await state(sandbox, 'diff', sandbox.control, file)).toBe('')
    const verified = JSON.parse(await state(sandbox, 'verify', '--file', file, '--json'))
    expect(verified).toMatchObject({ entries: 3002, segments: 1, torn: false, verified: 'its checksums' })
    const bytes = readFileSync(file)
    bytes[bytes.length >> 1]! ^= 4
    writeFileSync(file, bytes)
    expect(await refused(sandbox, 'verify', '--file', file)).toMatch(
      /^ERR_FDB_STATE_DAMAGED: .*offset \d+, after sequence \d+/,
    )
  })

  it.runIf(NIGHTLY)('finds the service as every other command does, unless a file is given', async () => {
    const sandbox = await openState('embedded')
    const named = ['env', 'RUNTIME_DIRECTORY=', 'XDG_RUNTIME_DIR=', `FD_BROKER_CONTROL=${sandbox.control}`]
    const ask = async (...args: string[]) => {
      const { code, stdout, stderr } = await sandbox.runCommand([
        ...named,
        process.execPath,
        CLI,
        'state',
        ...args,
      ])
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      return stdout
    }
    expect(JSON.parse(await ask('stats', '--json'))).toMatchObject({ entries: 3002 })
    const file = join(sandbox.folder, 'before.jsonl')
    await ask('export', '--secrets', '--out', file)
    await ask('put', 'prices', 'pear', '{"cents":7}')
    expect(JSON.parse(await ask('get', 'prices', 'pear'))).toMatchObject({ key: 'pear' })
    await ask('delete', 'prices', 'pear')
    expect(JSON.parse(await ask('stats', '--json', '--file', file))).toMatchObject({ entries: 3002 })
    await ask('import', '--file', file, '--json')
    const pidFile = ['--pid-file', join(sandbox.folder, 'none.pid')]
    expect(await sandbox.run('state', 'watch', ...pidFile)).toMatchObject({
      code: 3,
      stderr: expect.stringMatching(/^ERR_FDB_NO_HOLDER: .*none\.pid names no process/),
    })
  })

  it.runIf(NIGHTLY)('asks for one source', async () => {
    const sandbox = Sandbox.open()
    const both = await sandbox.run('state', 'stats', '--control', 'a', '--file', 'b')
    expect(both).toMatchObject({ code: 2, stderr: expect.stringMatching(/^ERR_FDB_STATE_SOURCE/) })
    expect(await refused(sandbox, 'stats', '--file', join(sandbox.folder, 'none'))).toMatch(
      /^ERR_FDB_STATE_FILE: .*ENOENT/,
    )
    expect((await sandbox.run('state', 'diff', 'a')).code).toBe(2)
  })
})
