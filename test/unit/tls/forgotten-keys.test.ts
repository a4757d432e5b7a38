import {
  closeSync,
  existsSync,
  fstatSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  rmSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { join } from '../../../src/index.js'
import { TicketKeys } from '../../../src/tls/ticket-keys.js'
import { until } from '../../processes/until.js'

/** All memory files of this process. */
function memory(): Buffer[] {
  return readdirSync('/proc/self/fd').flatMap(name => {
    try {
      if (!readlinkSync(`/proc/self/fd/${name}`).includes('memfd')) return []
      const fd = openSync(`/proc/self/fd/${name}`, 'r')
      const bytes = Buffer.alloc(fstatSync(fd).size)
      readSync(fd, bytes, 0, bytes.length, 0)
      closeSync(fd)
      return [bytes]
    } catch {
      return []
    }
  })
}

it('ticket keys before the previous ones are gone from log and state file soon after a rotation', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-forgotten-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const stateFile = joinPath(folder, 'state')
  const member = await join({ service: 'shop', control: joinPath(folder, 'c.sock'), stateFile })
  onTestFinished(() => member.close({ timeout: 0 }))
  const tickets = new TicketKeys(member)
  await member.ready()
  const keys = [tickets.current]
  for (let n = 0; n < 5; n++) {
    await tickets.rotate()
    keys.push(tickets.current)
  }
  const places = () => {
    const held = memory()
    const file = existsSync(stateFile) ? readFileSync(stateFile) : Buffer.alloc(0)
    return keys.map(key => [held.some(bytes => bytes.includes(key)), file.includes(key)])
  }
  const gone = [false, false]
  const there = [true, true]
  await until(
    'only the last two are left',
    () => JSON.stringify(places()) === JSON.stringify([gone, gone, gone, gone, there, there]),
    20_000,
    places,
  )
  expect([tickets.previous, tickets.current]).toEqual(keys.slice(-2))
})
