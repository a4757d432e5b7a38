import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
import { exportState, ProgressLine, readStateFile } from '../../fixtures/cli.js'

const MIB = 2 ** 20

/** Writes an export of `values` entries of `bytes` bytes each, and returns its file. */
function exported(values: number, bytes: number): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-export-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'export.jsonl')
  const sections = [{ name: 'blobs', version: 1, minReader: 1, codec: 'bytes', secret: false }]
  const base64 = Buffer.alloc(bytes, 7).toString('base64')
  const entries = Array.from({ length: values }, (_, i) => ({
    section: 'blobs',
    key: `${i}`,
    version: 1,
    base64,
  }))
  const head = { fdbState: 1, epoch: 1, sequence: 1, sections }
  writeFileSync(file, [head, ...entries].map(line => `${JSON.stringify(line)}\n`).join(''))
  return file
}

/** Reads such an export, and returns how many entries have come. */
async function read(values: number, bytes: number): Promise<number> {
  using progress = new ProgressLine()
  const { log } = await readStateFile(exported(values, bytes), progress)
  try {
    return [...log.rawSection('blobs').keys()].length
  } finally {
    log.close()
  }
}

it('reads an export of entries that are together larger than a record', async () => {
  expect(await read(20, MIB)).toBe(20)
})

it('reads an entry of a service whose limits are larger than the defaults', async () => {
  expect(await read(1, 17 * MIB)).toBe(1)
})

it('an export that fails leaves no file: the next one may have its name', async () => {
  const file = exported(1, 10)
  const out = `${file}.copy`
  const order = { format: 'lines', file, out, secrets: true, timeout: 1_000 } as const
  await expect(exportState({ ...order, section: ['unknown'] })).rejects.toMatchObject({
    code: 'ERR_FDB_STATE_NO_ENTRY',
  })
  expect(existsSync(out)).toBe(false)
  await exportState(order)
  expect(existsSync(out)).toBe(true)
})

it('refuses another input at its beginning, as it may have no end', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-export-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'zeros')
  writeFileSync(file, '')
  truncateSync(file, 64 * MIB)
  using progress = new ProgressLine()
  const read = vi.spyOn(progress, 'bytes')
  await expect(readStateFile(file, progress)).rejects.toMatchObject({ code: 'ERR_FDB_STATE_FORMAT' })
  expect(Math.max(...read.mock.calls.map(([, bytes]) => bytes))).toBeLessThan(MIB)
})
