import { nodeCrypto } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import {
  headed,
  type ImportReply,
  type ImportRequest,
  type PartRequest,
  STATE_COMMANDS,
} from '../state/commands.js'
import { encodeImport } from '../state/import.js'
import { type NewChange, PUT, type StoredSchema } from '../state/records.js'
import type { StateLog } from '../state/state-log.js'
import { ProgressLine, print } from './output.js'
import { openState, type SourceFlags, schemasIn, withServing } from './state-source.js'

/** Limits of one part of an import. */
const PIECE_BYTES = 1024 * 1024
const PIECE_ENTRIES = 10_000

interface ImportFlags extends SourceFlags {
  control: string
  file: string
  section?: string[]
  replace?: true
  edited?: true
  json?: true
}

export async function importState(flags: ImportFlags): Promise<void> {
  const { control, file, service = '', timeout, section: wanted, json } = flags
  using state = await openState({ file, timeout }, { edited: flags.edited ?? false })
  if (state.redacted > 0) {
    throw new FdbError(
      'ERR_FDB_STATE_SECRET',
      `the secret values (${state.redacted}) of ${state.name} were left out when it was written; export it with --secrets, or without their sections (--section)`,
    )
  }
  const schemas = schemasIn(state, wanted)
  const request: ImportRequest = {
    request: `import ${nodeCrypto().randomUUID()}`,
    replace: flags.replace ?? false,
  }
  // Schemas that the file does not have are unknown here: the service uses its own, or refuses the import.
  const known = schemas.filter(({ name }) => !state.unnamed.has(name))
  if (request.replace && known.length < schemas.length) {
    throw new FdbError(
      'ERR_FDB_STATE_IMPORT',
      '--replace needs a file with the first line of an export, which lists its sections',
    )
  }
  const entries = state.log.digests().filter(({ name }) => schemas.some(schema => schema.name === name))
  const total = entries.reduce((sum, section) => sum + section.entries, 0)
  using progress = new ProgressLine()
  const reply = await withServing({ control, service, timeout }, async ask => {
    // A retry may reach another process, which has no part yet: each try sends all parts, under a new id.
    const id = nodeCrypto().randomUUID()
    let part = 0
    let done = 0
    let sent: Buffer | null = null
    const { replace = false } = request
    for (const { piece, count } of piecesOf(state.log, schemas, known)) {
      if (sent !== null) {
        const head = { import: id, part: part++, replace } satisfies PartRequest
        await ask(STATE_COMMANDS.part, headed(head, sent))
      }
      sent = piece
      done += count
      progress.show(() => `importing: ${done} of ${total} entries`)
    }
    const after = part > 0 ? { after: { import: id, part } } : {}
    const body = headed({ ...request, ...after } satisfies ImportRequest, sent ?? Buffer.alloc(0))
    return JSON.parse((await ask(STATE_COMMANDS.import, body)).toString()) as ImportReply
  })
  const names = schemas.map(({ name }) => name)
  const answer = { imported: reply.puts, sections: names, replaced: request.replace }
  print(json, answer, `${reply.puts} entries of ${names.join(', ') || 'no section'} imported\n`)
}

/** Yields the entries in encoded pieces, at least one. The first piece has the schemas. */
function* piecesOf(
  log: StateLog,
  schemas: readonly StoredSchema[],
  known: readonly StoredSchema[],
): Generator<{ piece: Buffer; count: number }> {
  let changes: NewChange[] = []
  let bytes = 0
  let first = known
  const close = () => {
    const made = { piece: encodeImport(first, changes), count: changes.length }
    first = []
    changes = []
    bytes = 0
    return made
  }
  for (const { name } of schemas) {
    const section = log.rawSection(name)
    for (const key of section.keys()) {
      const { value, version } = section.get(key)!
      if (changes.length >= PIECE_ENTRIES || (changes.length > 0 && bytes + value.length > PIECE_BYTES))
        yield close()
      changes.push({ section: name, op: PUT, key, value, version })
      bytes += value.length + key.length
    }
  }
  yield close()
}
