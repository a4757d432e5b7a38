// npx tsx test/vectors/make.ts: writes the vectors of docs/protocol.md and the table of events beside them, as the codec, the state log and
// the machine of this checkout make them. test/unit/wire/protocol-vectors.test.ts fails when they would be others.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { frameVectors, streamVectors } from './frames.js'
import { memberVectors } from './member.js'
import { memberTable } from './member-table.js'
import { messageVectors } from './messages.js'
import { oddLogs } from './odd-logs.js'
import { stateVectors } from './state.js'
import { writeVectors } from './writes.js'

/** The vectors by the name of their file, one line for each. */
export async function vectors(): Promise<Record<string, object[]>> {
  return {
    frames: frameVectors(),
    streams: streamVectors(),
    messages: messageVectors(),
    state: [...(await stateVectors()), ...(await oddLogs())],
    member: memberVectors(),
    writes: await writeVectors(),
  }
}

export function fileOf(name: string): URL {
  return new URL(`${name}.json`, import.meta.url)
}

export function textOf(lines: readonly object[]): string {
  return `[\n${lines.map(line => JSON.stringify(line)).join(',\n')}\n]\n`
}

export const PAGE = new URL('member.md', import.meta.url)
const TABLE = /(?<=<!-- made by test\/vectors\/make\.ts -->\n)[\s\S]*?(?=\n<!-- end -->)/

/** The page, with the table of this checkout in it. */
export function withTable(page: string): string {
  return page.replace(TABLE, () => memberTable())
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [name, lines] of Object.entries(await vectors())) writeFileSync(fileOf(name), textOf(lines))
  writeFileSync(PAGE, withTable(readFileSync(PAGE, 'utf8')))
}
