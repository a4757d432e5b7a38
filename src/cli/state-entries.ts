import { buffer } from 'node:stream/consumers'
import { FdbError } from '../errors.js'
import { ServiceState, type StateSection } from '../operator/service-state.js'
import { type AskFlags, commandService } from './ask-service.js'
import { STATE_RETRY_CODES } from './state-control.js'
import { bytesOf, entryLine, LineWriter } from './state-lines.js'

interface WatchFlags extends AskFlags {
  section?: string
  initial?: true
  secrets?: boolean
}

/** The service's state. Each request goes to the process that serves then, so a watch continues across upgrades. */
function stateOf(flags: AskFlags): ServiceState {
  return new ServiceState((command, body) => commandService(flags, STATE_RETRY_CODES, command, body))
}

export async function putEntry(
  section: string,
  key: string,
  value: string | undefined,
  flags: AskFlags,
): Promise<void> {
  const state = stateOf(flags)
  const bytes = value === undefined ? await buffer(process.stdin) : await encoded(state, section, value)
  await state.put(section, key, bytes)
  process.stdout.write(`${key} of ${section} is put: ${bytes.length} bytes\n`)
}

async function encoded(state: ServiceState, section: string, text: string): Promise<Uint8Array> {
  // If the section is missing, the serving process refuses the put.
  const schema = (await state.sections()).find(({ name }) => name === section)
  if (schema === undefined) return Buffer.from(text)
  const bytes = bytesOf({ value: parsed(text) }, schema.codec)
  if (typeof bytes !== 'string') return bytes
  throw new FdbError(
    'ERR_FDB_OPTION',
    `this command cannot encode values of section "${section}" (codec "${schema.codec}"): give the encoded bytes at standard input`,
  )
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new FdbError(
      'ERR_FDB_OPTION',
      'the value is not valid JSON: correct it (a string needs double quotes), or leave it out and give its encoded bytes at standard input',
      {
        cause,
      },
    )
  }
}

export async function deleteEntry(section: string, key: string, flags: AskFlags): Promise<void> {
  if (!(await stateOf(flags).delete(section, key)))
    throw new FdbError('ERR_FDB_STATE_NO_ENTRY', `section "${section}" had no key ${JSON.stringify(key)}`)
  process.stdout.write(`${key} of ${section} is deleted\n`)
}

export async function watchEntries(flags: WatchFlags): Promise<void> {
  const { section, initial = false, secrets = false } = flags
  const state = stateOf(flags)
  const known = new Map<string, StateSection>()
  const out = new LineWriter()
  const watched = section === undefined ? {} : { section }
  for await (const change of state.watch({ ...watched, initial, secrets })) {
    if (!known.has(change.section)) for (const one of await state.sections()) known.set(one.name, one)
    const schema = known.get(change.section)
    if (change.op === 'put' && schema) {
      const line = entryLine(schema, change, { secrets, exact: false })
      await out.write({ op: change.op, ...line })
    } else await out.write(change)
    await out.flush()
    if (out.isClosed) return
  }
}
