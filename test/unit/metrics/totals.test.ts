import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { exposition, METRICS, type Series, Totals, type TotalsState } from '../../fixtures/metrics.js'
import { defineSection, json } from '../../fixtures/state.js'
import { writingLog } from '../../fixtures/state-logs.js'
import { untyped } from '../../fixtures/untyped.js'
import { samplesOf } from '../../processes/scraping.js'

const SILENT = { debug: () => {} }

/** The totals of one process, in a log of its own or that of another. */
function counting(log = writingLog().log) {
  return { log, totals: new Totals(log, SILENT) }
}

function totalsOf(totals: Totals): Record<string, readonly number[]> {
  return Object.fromEntries(
    [...totals.all()].map(({ metric, labels, numbers }) => [[metric, ...labels].join(' '), numbers]),
  )
}

describe('totals', () => {
  it('add up all processes, and show no count before the state has it', async () => {
    const { log, totals } = counting()
    const other = new Totals(log, SILENT)
    const requests = totals.numbers('requests', 'http')
    requests[1]! += 2
    other.numbers('requests', 'http')[1]! += 3
    expect(totalsOf(totals)).toEqual({})
    await totals.flush()
    expect(totalsOf(other)).toEqual({ 'requests http': [0, 2, 0, 0, 0, 0] })
    await other.flush()
    requests[3]! += 1
    await totals.flush()
    await totals.flush()
    expect(totalsOf(totals)).toEqual({ 'requests http': [0, 5, 0, 1, 0, 0] })
    log.close()
  })

  it('get the counts that were refused with a later change, once', async () => {
    const { log } = writingLog()
    let refuse = true
    const state: TotalsState = {
      section: (name, schema) => log.section(name, schema),
      update: (change, options) =>
        refuse
          ? Promise.reject(new FdbError('ERR_FDB_FENCED', 'another process serves'))
          : log.update(change, options),
    }
    const totals = new Totals(state, SILENT)
    totals.numbers('scrapes')[0]! += 1
    await expect(totals.flush()).rejects.toMatchObject({ code: 'ERR_FDB_FENCED' })
    totals.numbers('scrapes')[0]! += 1
    refuse = false
    await totals.flush()
    expect(totalsOf(totals)).toEqual({ scrapes: [2] })
    log.close()
  })

  it('get counts once whose change was made although its answer was lost', async () => {
    const { log } = writingLog()
    let lost = 'id-1' as string | null
    const state: TotalsState = {
      section: (name, schema) => log.section(name, schema),
      async update(change, options) {
        if (lost === null) return await log.update(change, options)
        const request = lost
        lost = null
        await log.update(change, { request })
        throw new FdbError('ERR_FDB_DEADLINE', 'no answer', { details: { request } })
      },
    }
    const totals = new Totals(state, SILENT)
    totals.numbers('scrapes')[0]! += 7
    await expect(totals.flush()).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE' })
    totals.numbers('scrapes')[0]! += 1
    await totals.flush()
    expect(totalsOf(totals)).toEqual({ scrapes: [8] })
    log.close()
  })

  it('request the change before flush() returns, so that a process which ends waits for it', async () => {
    const { log, totals } = counting()
    log.pauseWriting()
    totals.numbers('scrapes')[0]! += 1
    const flushed = totals.flush()
    expect(log.section('other').waiting).toBe(1)
    log.resumeWriting()
    await flushed
    log.close()
  })

  it('have at most 1,000 series of a metric from one process, and count further ones as "other"', async () => {
    const { log, totals } = counting()
    for (let n = 0; n < 1_500; n++) totals.numbers('upstreamFailures', `http://s${n}`)[0]! += 1
    await totals.flush()
    const all = totalsOf(totals)
    expect(Object.keys(all)).toHaveLength(1_001)
    expect(all['upstreamFailures other']).toEqual([500])
    log.close()
  })

  it('leave out what another version or program has written', async () => {
    const { log } = writingLog()
    const section = log.section('metrics', defineSection<number[]>({ version: 1, codec: json() }))
    const totals = new Totals(
      { section: () => untyped(section), update: change => log.update(change) },
      SILENT,
    )
    await section.put('["fdbroker_of_next_year","x"]', [1])
    await section.put('no list', [1])
    expect(totalsOf(totals)).toEqual({})
    log.close()
  })
})

describe('the text of metrics', () => {
  it('has cumulative buckets, a sample for each code, and escaped labels', async () => {
    const duration = METRICS.duration.buckets!.map(le => ({ 0.001: 2, 0.01: 1 })[le] ?? 0)
    duration.push(4, 50.5)
    const series: Series[] = [
      { metric: 'duration', labels: ['http'], numbers: duration },
      { metric: 'requests', labels: ['a"b\n'], numbers: [0, 3] },
    ]
    const text = await exposition(series)
    expect(text.endsWith('# EOF\n')).toBe(true)
    expect(text).toContain('# TYPE fdbroker_proxy_requests counter\n')
    const samples = samplesOf(text)
    const bucket = (le: string) =>
      samples.get(`fdbroker_proxy_request_duration_seconds_bucket{listener="http",le="${le}"}`)
    expect([bucket('0.001'), bucket('0.005'), bucket('0.01'), bucket('10'), bucket('+Inf')]).toEqual([
      2, 2, 3, 3, 7,
    ])
    expect(samples.get('fdbroker_proxy_request_duration_seconds_sum{listener="http"}')).toBe(50.5)
    expect(samples.get('fdbroker_proxy_request_duration_seconds_count{listener="http"}')).toBe(7)
    const requests = (code: string) =>
      samples.get(`fdbroker_proxy_requests_total{listener="a\\"b\\n",code="${code}"}`)
    expect([requests('2xx'), requests('none')]).toEqual([3, 0])
  })
})
