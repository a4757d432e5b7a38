import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { withServing } from '../../src/cli/state-source.js'
import { type SegmentsReply, STATE_COMMANDS } from '../../src/state/commands.js'
import { encodeImport } from '../../src/state/import.js'
import { PUT } from '../../src/state/records.js'
import { perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const MEMBER = fileURLToPath(new URL('state-member.mjs', import.meta.url))
/** The acceptance run: FDB_UPGRADES=200. */
const UPGRADES = Number(process.env.FDB_UPGRADES ?? perLane(2, 8))
const CLIENTS = 3

describe('changes through the control socket', () => {
  it(`apply exactly once each, during ${UPGRADES} upgrades in a row`, {
    timeout: 180_000 + UPGRADES * 5000,
  }, async () => {
    const sandbox = Sandbox.open()
    let launched = 0
    const launch = async () => {
      launched++
      await sandbox.launch([process.execPath, MEMBER, sandbox.control])
      await until(
        'the member serves',
        () => sandbox.output.split('serving').length > launched,
        20_000,
        () => sandbox.output,
      )
    }
    const options = { control: sandbox.control, service: '', timeout: 30_000 }
    const position = () =>
      withServing(options, async ask => {
        const reply = await ask(STATE_COMMANDS.segments, '')
        return (JSON.parse(reply.toString()) as SegmentsReply).position
      })
    await launch()
    const before = await position()

    let over = false
    const made = Array.from({ length: CLIENTS }, () => 0)
    const clients = made.map(async (_, client) => {
      for (let i = 0; !over; i++) {
        const value = Buffer.from(JSON.stringify({ cents: i }))
        const changes = [{ section: 'prices', op: PUT, key: `client ${client}/${i}`, value, version: 2 }]
        const head = `${JSON.stringify({ request: `client ${client}/${i}` })}\n`
        const body = Buffer.concat([Buffer.from(head), encodeImport([], changes)])
        await withServing(options, ask => ask(STATE_COMMANDS.import, body))
        // Every third was not heard of, and is tried again.
        if (i % 3 === 0) await withServing(options, ask => ask(STATE_COMMANDS.import, body))
        made[client] = i + 1
      }
    })
    try {
      for (let i = 0; i < UPGRADES; i++) await launch()
    } finally {
      over = true
      await Promise.all(clients)
    }

    const all = made.reduce((sum, count) => sum + count, 0)
    expect(Math.min(...made)).toBeGreaterThan(UPGRADES)
    // Each change is one record.
    expect((await position()).sequence - before.sequence).toBe(all)
    const shown = await sandbox.run('state', 'show', '--control', sandbox.control, '--prefix', 'client ')
    expect(shown.code).toBe(0)
    expect(shown.stdout.trimEnd().split('\n').length).toBe(all)
    if (process.env.FDB_UPGRADES) console.log(`${all} changes in ${UPGRADES} upgrades`)
  })
})
