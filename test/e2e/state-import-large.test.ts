import { randomUUID } from 'node:crypto'
import { createWriteStream, statSync } from 'node:fs'
import { join } from 'node:path'
import { finished } from 'node:stream/promises'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { STATE_COMMANDS } from '../../src/state/commands.js'
import { encodeImport } from '../../src/state/import.js'
import { PUT } from '../../src/state/records.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import * as operator from '../processes/operator.js'
import type { Sandbox } from './cli-processes.js'
import { launchMember, openState } from './state-sandbox.js'

const ENTRIES = 100_000

/** An export of more than one message takes: about 22 MB. */
async function large(sandbox: Sandbox): Promise<string> {
  const file = join(sandbox.folder, 'large.jsonl')
  const out = createWriteStream(file)
  const sections = [{ name: 'prices', version: 2, minReader: 1, codec: 'json', secret: false }]
  out.write(`${JSON.stringify({ fdbState: 1, epoch: 1, sequence: 1, sections })}\n`)
  for (let i = 0; i < ENTRIES; i++) {
    const value = { cents: i, name: `${i} ${'x'.repeat(170)}` }
    out.write(`${JSON.stringify({ section: 'prices', key: `item ${i}`, version: 2, value })}\n`)
  }
  out.end()
  await finished(out)
  expect(statSync(file).size).toBeGreaterThan(20_000_000)
  return file
}

async function stateOf(sandbox: Sandbox): Promise<{ entries: number; digest: string; sequence: number }> {
  const { code, stdout } = await sandbox.run('state', 'verify', '--control', sandbox.control, '--json')
  expect(code).toBe(0)
  return JSON.parse(stdout)
}

const pieceOf = (from: number, count: number) =>
  encodeImport(
    [],
    Array.from({ length: count }, (_, i) => ({
      section: 'prices',
      op: PUT,
      key: `new ${from + i}`,
      value: Buffer.from(JSON.stringify({ cents: from + i })),
      version: 2,
    })),
  )
const withHead = (head: object, bytes: Buffer) =>
  Buffer.concat([Buffer.from(`${JSON.stringify(head)}\n`), bytes])

describe.each(perLane<('embedded' | 'daemon')[]>(['embedded'], ['embedded', 'daemon']))(
  'a large import (%s)',
  hosting => {
    it.runIf(NIGHTLY)('makes one change, and goes into its place whole', async () => {
      const sandbox = await openState(hosting)
      const file = await large(sandbox)
      const { code, stdout, stderr } = await sandbox.run(
        'state',
        'import',
        '--control',
        sandbox.control,
        '--file',
        file,
        '--replace',
        '--edited',
      )
      expect({ code, stdout, stderr }).toEqual({
        code: 0,
        stdout: `${ENTRIES} entries of prices imported\n`,
        stderr: '',
      })
      const { entries } = await stateOf(sandbox)
      expect(entries).toBe(ENTRIES + 2)
    })

    it.runIf(NIGHTLY)(
      'of which the rest does not come has changed nothing, nor has one with a wrong value at its end',
      async () => {
        const sandbox = await openState(hosting)
        const before = await stateOf(sandbox)
        const id = randomUUID()
        {
          using client = await OperatorClient.connect(sandbox.control)
          for (let part = 0; part < 3; part++)
            await client.command(
              STATE_COMMANDS.part,
              withHead({ import: id, part }, pieceOf(part * 1000, 1000)),
            )
        }
        expect(await stateOf(sandbox)).toEqual(before)
        using client = await OperatorClient.connect(sandbox.control)
        const ask = (head: object, bytes: Buffer, command: string = STATE_COMMANDS.import) =>
          client.command(command, withHead(head, bytes))
        // The receiver notices a missing piece: one that was left out, one sent twice, an end that comes too early.
        for (const part of [2, 4])
          await expect(ask({ import: id, part }, pieceOf(0, 1), STATE_COMMANDS.part)).rejects.toThrow(
            expect.objectContaining({ code: 'ERR_FDB_STATE_MOVED' }),
          )
        await expect(ask({ after: { import: id, part: 4 } }, pieceOf(0, 1))).rejects.toThrow(
          /has 3 pieces of the import, not 4: start the import again/,
        )
        await expect(ask({ after: { import: 'another', part: 0 } }, pieceOf(0, 1))).rejects.toThrow(
          /has 0 pieces/,
        )
        const wrong = encodeImport(
          [],
          [{ section: 'prices', op: PUT, key: 'wrong', value: Buffer.from('{}'), version: 2 }],
        )
        await expect(ask({ after: { import: id, part: 3 } }, wrong)).rejects.toThrow(
          expect.objectContaining({ code: 'ERR_FDB_STATE_VALUE' }),
        )
        expect(await stateOf(sandbox)).toEqual(before)
        // Whole, and sent again as its answer was lost: once.
        for (let again = 0; again < 2; again++) {
          for (let part = 0; part < 3; part++)
            await ask({ import: id, part }, pieceOf(part * 1000, 1000), STATE_COMMANDS.part)
          expect(
            JSON.parse(
              (await ask({ request: 'once', after: { import: id, part: 3 } }, pieceOf(3000, 1))).toString(),
            ),
          ).toEqual({ puts: 3001 })
        }
        expect((await stateOf(sandbox)).entries).toBe(before.entries + 3001)
      },
    )
  },
)

it.runIf(NIGHTLY)(
  'a large import that meets an upgrade begins again at the new version, and applies once',
  async () => {
    const sandbox = await openState('embedded')
    const file = await large(sandbox)
    const importing = sandbox.run('state', 'import', '--control', sandbox.control, '--file', file, '--edited')
    // Reading the file takes a second: upgrades before, while and after the pieces are sent.
    for (let upgrade = 0; upgrade < 3; upgrade++) await launchMember(sandbox, 'embedded')
    expect(await importing).toMatchObject({ code: 0, stderr: '' })
    const { entries } = await stateOf(sandbox)
    expect(entries).toBe(ENTRIES + 2)
    expect((await operator.status(sandbox.control)).generation).toBe(4)
  },
)
