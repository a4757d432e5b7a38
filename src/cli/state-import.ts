import { randomUUID } from 'node:crypto'
import { FdbError } from '../errors.js'
import { COMMAND_BYTES } from '../holder/command.js'
import { type ImportReply, type ImportRequest, STATE_COMMANDS } from '../state/commands.js'
import { encodeImport } from '../state/import.js'
import { type NewChange, PUT } from '../state/records.js'
import { askServing } from './state-control.js'
import { openState, type SourceFlags } from './state-source.js'

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
      `${state.redacted} values of ${state.name} were left out as secrets when it was written; export it with --secrets`,
    )
  }
  const schemas = state.log.schemas().filter(({ name }) => wanted === undefined || wanted.includes(name))
  for (const name of wanted ?? []) {
    if (!schemas.some(schema => schema.name === name))
      throw new FdbError('ERR_FDB_STATE_NO_ENTRY', `${state.name} has no section ${JSON.stringify(name)}`)
  }
  const changes: NewChange[] = []
  for (const { name } of schemas) {
    const section = state.log.rawSection(name)
    for (const key of section.keys()) {
      const { value, version } = section.get(key)!
      changes.push({ section: name, op: PUT, key, value, version })
    }
  }
  // Lines without a head say nothing of their sections' schemas: the service knows them, or refuses.
  const request: ImportRequest = { request: `import ${randomUUID()}`, replace: flags.replace ?? false }
  const known = schemas.filter(({ codec }) => codec !== '')
  if (request.replace && known.length < schemas.length) {
    throw new FdbError(
      'ERR_FDB_STATE_IMPORT',
      '--replace needs the first line of an export, which says what it is all of',
    )
  }
  const head = Buffer.from(`${JSON.stringify(request)}\n`)
  const body = Buffer.concat([head, encodeImport(known, changes)])
  if (body.length > COMMAND_BYTES) {
    throw new FdbError(
      'ERR_FDB_STATE_LIMIT',
      `the import has ${body.length} bytes (${changes.length} entries), at most ${COMMAND_BYTES} can be put in at once: ` +
        'divide it, for example with --section',
      { details: { bytes: body.length, most: COMMAND_BYTES } },
    )
  }
  const reply = await askServing({ control, service, timeout }, async ask => {
    return JSON.parse((await ask(STATE_COMMANDS.import, body)).toString()) as ImportReply
  })
  const names = schemas.map(({ name }) => name)
  const answer = { imported: reply.puts, sections: names, replaced: request.replace }
  const text = `${reply.puts} entries of ${names.join(', ') || 'no section'} imported`
  process.stdout.write(json ? `${JSON.stringify(answer, null, 2)}\n` : `${text}\n`)
}
