import { pino } from 'pino'
import { describe, expect, it } from 'vitest'
import { AccessLines } from '../../src/cli/access-lines.js'
import { until } from '../processes/until.js'

const FACTS = { client: '::1', target: '/a"\\\n\x7f\xff\u2028?b', host: undefined, status: 200, ms: 0.1 }

describe('the lines of an access log', () => {
  it('are those of pino', () => {
    const lines: string[] = []
    const both = { write: (text: string) => void lines.push(text), flushSync() {} }
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

  it('are written together, soon, or before they are too many', async () => {
    const written: string[] = []
    const lines = new AccessLines({ write: text => written.push(text), flushSync() {} })
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

  it('are lost where their reader has gone', () => {
    const gone = () => {
      throw new Error('EPIPE')
    }
    const lines = new AccessLines({ write() {}, flushSync: gone })
    lines.info({}, 'a')
    expect(() => lines.flush()).not.toThrow()
  })
})
