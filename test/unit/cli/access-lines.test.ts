import { pino } from 'pino'
import { describe, expect, it } from 'vitest'
import { AccessLines } from '../../../src/cli/access-lines.js'
import { until } from '../../processes/until.js'

const FACTS = { client: '::1', target: '/a"\\\n\x7f\xff\u2028?b', host: undefined, status: 200, ms: 0.1 }

describe('the lines of an access log', () => {
  it('equal those of pino', () => {
    const lines: string[] = []
    const both = { write: (text: string) => void lines.push(text) }
    const ours = new AccessLines(both)
    ours.info(FACTS, 'request')
    ours.flush()
    const base = { pid: process.pid }
    pino({ base, timestamp: pino.stdTimeFunctions.isoTime }, both).info(FACTS, 'request')
    const [one, other] = lines.map(line => line.replace(/"time":"[^"]{20,}"/, '"time":""'))
    expect(JSON.parse(one!)).toEqual(JSON.parse(other!))
    expect(Object.keys(JSON.parse(one!))).toEqual(Object.keys(JSON.parse(other!)))
    expect(Date.now() - Date.parse(JSON.parse(lines[0]!).time)).toBeLessThan(60_000)
  })

  it('say what they are told, whether it is the same as in the lines before or not', () => {
    const written: string[] = []
    const lines = new AccessLines({ write: text => written.push(text) })
    const targets = ['/a', '/a', '/a', '/a', '/b"', '/b"', '/b"', '/ä', '/ä', '/ä', '/a', 7, 7, 7, '7']
    for (const target of targets) lines.info({ target, status: 200 }, 'request')
    lines.info({ other: 1 }, 'connection')
    lines.info({ target: '/a', other: 2 }, 'request')
    lines.flush()
    const told = written.join('').trimEnd().split('\n')
    const facts = told.map(line => {
      const { level, time, pid, ...rest } = JSON.parse(line)
      expect([level, typeof time, pid]).toEqual([30, 'string', process.pid])
      return rest
    })
    const msg = 'request'
    expect(facts).toEqual([
      ...targets.map(target => ({ target, status: 200, msg })),
      { other: 1, msg: 'connection' },
      { target: '/a', other: 2, msg },
    ])
  })

  it('go out together, soon, or before they are too many', async () => {
    const written: string[] = []
    const lines = new AccessLines({ write: text => written.push(text) })
    lines.info({}, 'a')
    lines.info({}, 'b')
    expect(written).toEqual([])
    await until('they are written', () => written.length > 0)
    expect(written.map(text => text.match(/"msg":"."}\n/g))).toEqual([['"msg":"a"}\n', '"msg":"b"}\n']])
    lines.info({ target: 'c'.repeat(100_000) }, 'c')
    expect(written).toHaveLength(2)
    lines.info({}, 'd')
    lines.flush()
    lines.flush()
    expect(written).toHaveLength(3)
  })
})
