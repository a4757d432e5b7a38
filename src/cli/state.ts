import { resolve } from 'node:path'
import { type Command as AnyCommand, Option } from 'commander'
import { FdbError } from '../errors.js'
import { COMMAND_BYTES } from '../operator/requests.js'
import type { ServiceState, StateSection } from '../operator/service-state.js'
import { repairStateFile } from '../state/file/repair.js'
import type { StateLimits } from '../state/limits.js'
import type { RawEntry } from '../state/overview.js'
import { recordsOf } from '../state/reader.js'
import type { StoredSchema } from '../state/records.js'
import type { Segment } from '../state/segment.js'
import { runInSlices } from '../state/time-slices.js'
import type { AskFlags } from './ask-service.js'
import type { Command } from './command.js'
import { addServiceOptions } from './find-service.js'
import { durationOption } from './options.js'
import { facts, jsonText, print, table } from './output.js'
import { exportState } from './state-export.js'
import { importState } from './state-import.js'
import { entryLine, type LineOptions, LineWriter, lineBytes, lineValue, writeEntries } from './state-lines.js'
import {
  type OpenState,
  openDiffSide,
  openState,
  type SourceFlags,
  schemasIn,
  stateOf,
  withDigests,
} from './state-source.js'

interface ShowFlags extends SourceFlags {
  section?: string
  prefix?: string
  secrets: boolean
}

interface JsonFlags extends SourceFlags {
  json?: true
}

export function addState(program: Command): void {
  const state = program
    .command('state')
    .description('show, change, verify, export and import the state of a running service or a file')
    .notes(`The state is read from the running service, from a state file, from a file that "state export" wrote, or from standard input
(--file -). Each command verifies checksums, sequence and digest. Values of secret sections are omitted unless --secrets is given.`)
    .examples(
      'fd-broker state stats --control /run/shop/upgrade.sock',
      'fd-broker state get --control /run/shop/upgrade.sock routes runtime:example.com/',
      'fd-broker state export --control /run/shop/upgrade.sock --secrets --out state.jsonl',
      'fd-broker state put --control /run/shop/upgrade.sock prices apple \'{"cents":120}\'',
      'fd-broker state watch --control /run/shop/upgrade.sock --section prices',
      'fd-broker state diff /run/shop/upgrade.sock state.jsonl',
    )
  addSource(state.command('show'))
    .description('print the entries, one JSON object per line')
    .option('--section <name>', 'only this section')
    .option('--prefix <prefix>', 'only keys with this prefix')
    .addOption(secretsOption())
    .examples('fd-broker state show --control /run/shop/upgrade.sock --section prices | head')
    .action(show)
  addSource(state.command('get'))
    .description('print one entry as JSON; exit code 1 if the entry does not exist')
    .argument('<section>')
    .argument('<key>')
    .addOption(secretsOption())
    .option('--raw', 'print the bytes of the value')
    .action(get)
  addRunningService(state.command('put'))
    .description('put one entry, checked by the serving process')
    .argument('<section>')
    .argument('<key>')
    .argument('[value]', 'JSON, for codec json or msgpack; default: bytes from standard input')
    .action(putEntry)
  addRunningService(state.command('delete'))
    .description('delete one entry; exit code 1 if the entry does not exist')
    .argument('<section>')
    .argument('<key>')
    .action(deleteEntry)
  addRunningService(state.command('watch'))
    .description(
      'print changes as lines of JSON; looks five times a second, and prints the last change of each entry',
    )
    .option('--section <name>', 'only this section')
    .option('--initial', 'first print the current entries')
    .addOption(secretsOption())
    .action(watchEntries)
  addSource(state.command('stats')).description('print sections, entries and bytes').json().action(stats)
  addSource(state.command('verify'))
    .description('check the whole log against its checksums and digests')
    .json()
    .action(verify)
  state
    .command('repair')
    .description('keep the part of a damaged state file before the damage; rename the damaged file')
    .requiredOption('--file <file>', 'state file of a stopped service')
    .json()
    .notes('Run this as the user that owns the file. A file without damage is not changed.')
    .action(repairState)
  addTimeout(state.command('diff'))
    .option('--service <name>', 'name of the service')
    .description('print entries that differ, as lines of JSON; exit code 1 if there are any')
    .argument('<from>', 'control socket, file, or -')
    .argument('<to>')
    .addOption(secretsOption())
    .action(diffStates)
  addSource(state.command('export'))
    .description('write all entries with their schemas, for "state import"')
    .addOption(
      new Option('--format <format>', 'JSON lines, or the log itself')
        .choices(['lines', 'log'])
        .default('lines'),
    )
    .option('--section <name...>', 'only these sections (format lines)')
    .option('--out <file>', 'write to this new file (mode 0600) instead of standard output')
    .addOption(secretsOption())
    .action(exportState)
  addRunningService(state.command('import'))
    .description('import the entries of an export into a running service: all or none')
    .requiredOption('--file <file>', 'output of "state export"; - is standard input')
    .option('--section <name...>', 'only these sections')
    .option('--replace', 'empty the sections before the import')
    .option('--edited', 'do not compare the file with its first line')
    .json()
    .action(importState)
}

function addTimeout(command: Command): Command {
  return command.addOption(durationOption('--timeout <duration>', 'limit for the answer', '60s'))
}

function addRunningService(command: Command): Command {
  return addTimeout(addServiceOptions(command))
}

function addSource(command: Command): Command {
  const isFile = (asked: AnyCommand) => {
    const { file, pidFile } = asked.opts<SourceFlags & { pidFile?: string }>()
    return file !== undefined && pidFile === undefined
  }
  return addTimeout(
    addServiceOptions(command, isFile).option('--file <file>', 'state file or export; - is standard input'),
  )
}

function secretsOption(): Option {
  return new Option('--secrets', 'include secret values').default(false)
}

async function show({ section, prefix = '', secrets, ...flags }: ShowFlags): Promise<void> {
  using state = await openState(flags)
  const out = new LineWriter()
  for (const schema of schemasIn(state, section === undefined ? undefined : [section])) {
    await writeEntries(state.log, schema, { secrets, exact: false }, out, prefix)
  }
  await out.flush()
}

interface GetEntryFlags extends SourceFlags {
  secrets: boolean
  raw?: true
}

async function get(name: string, key: string, { secrets, raw, ...flags }: GetEntryFlags): Promise<void> {
  using state = await openState(flags)
  const schema = schemasIn(state, [name])[0]!
  const entry = state.log.rawSection(name).get(key)
  if (!entry) {
    throw new FdbError(
      'ERR_FDB_STATE_NO_ENTRY',
      `section "${name}" of ${state.name} has no key ${JSON.stringify(key)}; "state show --section ${name}" shows all`,
    )
  }
  if (raw) {
    if (schema.secret && !secrets) {
      throw new FdbError(
        'ERR_FDB_STATE_SECRET',
        `section "${name}" is secret; give --secrets to print its values`,
      )
    }
    process.stdout.write(entry.value)
    return
  }
  const line = entryLine(schema, entry, { secrets, exact: false })
  process.stdout.write(jsonText(line))
}

async function stats({ json, ...flags }: JsonFlags): Promise<void> {
  using state = await openState(flags)
  const { segments, bytes, liveBytes, entries, sequence } = state.log.stats()
  const { epoch, digest } = state.log.position
  const sections = withDigests(state.log, state.log.schemas())
  const head = facts([
    ['entries', `${entries}`],
    ['sequence', `${sequence} (epoch ${epoch})`],
    ['digest', digest],
    ['log', `${bytes} bytes in ${segments} segments, ${liveBytes} of them in force`],
  ])
  const rows = sections.map(({ name, version, minReader, codec, secret, entries, digest }) => {
    return [name, entries, version, minReader, codec, secret ? 'yes' : '', digest.slice(0, 16)]
  })
  const heading = ['section', 'entries', 'version', 'min reader', 'codec', 'secret', 'digest']
  const all = { epoch, sequence, digest, entries, segments, bytes, liveBytes, sections }
  print(json, all, `${[...head, '', ...table(heading, rows)].join('\n')}\n`)
}

async function verify({ json, ...flags }: JsonFlags): Promise<void> {
  using state = await openState(flags)
  let records = 0
  for (const segment of state.log.segments) records += await runInSlices(count(segment, state.log.limits))
  const { epoch, sequence, digest } = state.log.position
  const { entries, segments } = state.log.stats()
  const { verified, redacted, torn } = state
  const position = { epoch, sequence, digest, entries, segments }
  const all = { ok: true, verified, records, torn: torn > 0, tornBytes: torn, redacted, ...position }
  const notes = [
    ...(torn > 0 ? [`${torn} bytes of an incomplete record at the end are ignored`] : []),
    ...(redacted > 0 ? [`${redacted} secret values are missing: the digests could not be compared`] : []),
  ]
  const line = `${state.name}: ${entries} entries, verified with ${verified}, sequence ${sequence}, digest ${digest}`
  print(json, all, `${[line, ...notes].join('\n')}\n`)
}

function* count(segment: Segment, limits: StateLimits): Generator<undefined, number> {
  let records = 0
  for (const found of recordsOf(segment, { limits })) {
    if (found) records++
    yield
  }
  return records
}

async function repairState({ file, json }: { file: string; json?: true }): Promise<void> {
  const path = resolve(file)
  const { damage, entries, kept } = await repairStateFile(path)
  const { cause, aside = null } = damage ?? {}
  const synced = cause?.details.synced ?? null
  const all = { damaged: damage !== null, entries, sequence: kept, synced, aside, why: cause?.message }
  const lines =
    cause === undefined
      ? [`${path} is not damaged: ${entries} entries; nothing was changed`]
      : [
          `${path} was damaged: ${cause.message}`,
          entries > 0
            ? `it now holds the part before the damage: ${entries} entries, up to sequence ${kept}`
            : 'there was nothing before the damage: the service starts without a state',
          `the damaged file is ${aside}`,
        ]
  print(json, all, `${lines.join('\n')}\n`)
}

interface WatchFlags extends AskFlags {
  section?: string
  initial?: true
  secrets: boolean
}

async function putEntry(
  section: string,
  key: string,
  value: string | undefined,
  flags: AskFlags,
): Promise<void> {
  const state = stateOf(flags)
  const bytes = value === undefined ? await inputBytes() : await encodeValue(state, section, value)
  await state.put(section, key, bytes)
  process.stdout.write(`${key} of ${section} is put: ${bytes.length} bytes\n`)
}

/** Reads standard input, which may have no end. */
async function inputBytes(): Promise<Buffer> {
  const parts: Buffer[] = []
  let length = 0
  for await (const part of process.stdin as AsyncIterable<Buffer>) {
    length += part.length
    if (length > COMMAND_BYTES)
      throw new FdbError('ERR_FDB_OPTION', 'standard input has more than 15 MiB: divide the value')
    parts.push(part)
  }
  return Buffer.concat(parts)
}

async function encodeValue(state: ServiceState, section: string, text: string): Promise<Uint8Array> {
  // The serving process refuses a put if the section is missing.
  const schema = (await state.sections()).find(({ name }) => name === section)
  if (schema === undefined) return Buffer.from(text)
  const bytes = lineBytes({ value: parseValue(text) }, schema.codec)
  if (typeof bytes !== 'string') return bytes
  throw new FdbError(
    'ERR_FDB_OPTION',
    `this command cannot encode values of section "${section}" (codec "${schema.codec}"): give the encoded bytes at standard input`,
  )
}

function parseValue(text: string): unknown {
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

async function deleteEntry(section: string, key: string, flags: AskFlags): Promise<void> {
  if (!(await stateOf(flags).delete(section, key)))
    throw new FdbError('ERR_FDB_STATE_NO_ENTRY', `section "${section}" had no key ${JSON.stringify(key)}`)
  process.stdout.write(`${key} of ${section} is deleted\n`)
}

async function watchEntries(flags: WatchFlags): Promise<void> {
  const { section, initial = false, secrets } = flags
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

interface DiffFlags extends SourceFlags {
  secrets: boolean
}

/** Prints each entry whose value bytes differ, sorted by section and key. */
async function diffStates(from: string, to: string, { secrets, ...flags }: DiffFlags): Promise<void> {
  if (from === '-' && to === '-') {
    throw new FdbError('ERR_FDB_STATE_SOURCE', 'both are standard input; give a file for one of them')
  }
  using before = await openDiffSide(from, flags)
  using after = await openDiffSide(to, flags)
  const counts = { added: 0, removed: 0, changed: 0 }
  const out = new LineWriter()
  for (const { name, old, now } of sectionsOf(before, after)) {
    for (const difference of differences(before, after, name)) {
      counts[difference.change]++
      const options: LineOptions = { secrets, exact: false }
      const side = (schema: StoredSchema | undefined, entry: RawEntry | undefined) =>
        schema && entry ? { version: entry.version, ...lineValue(schema, entry.value, options) } : undefined
      const { key, change } = difference
      const line = {
        section: name,
        key,
        change,
        from: side(old, difference.from),
        to: side(now, difference.to),
      }
      await out.write(line)
    }
  }
  await out.flush()
  const { added, removed, changed } = counts
  const left = before.redacted + after.redacted
  const note = left > 0 ? ` (${left} secret values are not included, and count as missing)` : ''
  if (added + removed + changed === 0) return
  throw new FdbError(
    'ERR_FDB_STATE_DIFFERENT',
    `${added + removed + changed} entries differ: ${added} added, ${removed} removed, ${changed} changed${note}`,
  )
}

function sectionsOf(before: OpenState, after: OpenState) {
  const [old, now] = [before, after].map(
    ({ log }) => new Map(log.schemas().map(schema => [schema.name, schema])),
  ) as [Map<string, StoredSchema>, Map<string, StoredSchema>]
  const digests = [before, after].map(({ log }) => new Map(log.digests().map(one => [one.name, one.digest])))
  const names = [...new Set([...old.keys(), ...now.keys()])].sort()
  return names
    .filter(name => digests[0]?.get(name) !== digests[1]?.get(name))
    .map(name => {
      // A section that is secret on one side is secret on both.
      const secret = (old.get(name)?.secret ?? false) || (now.get(name)?.secret ?? false)
      const marked = (schema: StoredSchema | undefined) => schema && { ...schema, secret }
      return { name, old: marked(old.get(name)), now: marked(now.get(name)) }
    })
}

interface Difference {
  key: string
  change: 'added' | 'removed' | 'changed'
  from: RawEntry | undefined
  to: RawEntry | undefined
}

function* differences(before: OpenState, after: OpenState, name: string): Generator<Difference> {
  const old = before.log.rawSection(name)
  const now = after.log.rawSection(name)
  const keys = [...new Set([...old.keys(), ...now.keys()])].sort()
  for (const key of keys) {
    const from = old.get(key)
    const to = now.get(key)
    if (from && to && Buffer.compare(from.value, to.value) === 0) continue
    yield { key, change: from ? (to ? 'changed' : 'removed') : 'added', from, to }
  }
}
