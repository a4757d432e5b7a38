import { describe, expect, it } from 'vitest'
import { timelinePage } from '../../../src/timeline/page.js'
import { TimelineBuilder } from '../../../src/timeline/timeline.js'

const DONE = { ok: true, text: 'done' }
const serving = (pid: number, connections: number, phase = 'idle') => ({
  service: 'shop',
  pid,
  generation: pid,
  phase,
  connections,
})
const standby = (pid: number, connections: number) => ({
  pid,
  generation: pid,
  phase: 'standby',
  connections,
})

describe('the timeline of an upgrade', () => {
  it('has a lane for each process, with phases that follow each other without a gap', () => {
    const builder = new TimelineBuilder('', 1_000)
    builder.sample(900, serving(1, 10))
    builder.step({ phase: 'started', at: 1_010, pid: 2 })
    builder.step({ phase: 'offering', at: 1_200, pid: 2 })
    builder.step({ phase: 'serving', at: 1_250, pid: 2 })
    builder.sample(1_300, { ...serving(2, 0, 'probation'), draining: [standby(1, 10)] })
    builder.sample(1_400, serving(2, 10))
    const { processes, service } = builder.build(DONE, 1_500)
    expect(service).toBe('shop')
    expect(processes).toEqual([
      {
        pid: 1,
        generation: 1,
        spans: [
          { phase: 'serves', from: 900, to: 1_250 },
          { phase: 'standby', from: 1_250, to: 1_300 },
        ],
      },
      {
        pid: 2,
        generation: 2,
        spans: [
          { phase: 'started', from: 1_010, to: 1_200 },
          { phase: 'offering', from: 1_200, to: 1_250 },
          { phase: 'serves, on probation', from: 1_250, to: 1_400 },
          { phase: 'serves', from: 1_400, to: 1_400 },
        ],
      },
    ])
  })

  it('has the connections of each process at each sample, 0 before its first report and after its last one', () => {
    const builder = new TimelineBuilder('shop', 1_000)
    expect(builder.draining).toBeUndefined()
    builder.sample(1_000, serving(1, 10))
    expect(builder.draining).toBe(0)
    builder.sample(1_100, { ...serving(2, 4), moves: { arrived: 4 }, draining: [standby(1, 6)] })
    expect(builder.draining).toBe(6)
    const closed = [{ kind: 'http', reason: 'idle', count: 1 }]
    builder.sample(1_200, { ...serving(2, 9), moves: { arrived: 9 }, closed })
    builder.sample(1_300, { ...serving(2, 9), closed })
    expect(builder.build(DONE, 1_300)).toMatchObject({
      times: [1_000, 1_100, 1_200, 1_300],
      connections: [
        { pid: 1, counts: [10, 6, 0, null] },
        { pid: 2, counts: [0, 4, 9, 9] },
      ],
      moved: 9,
      closed: 1,
    })
  })

  it('knows no count of a process that is not reported for a moment', () => {
    const builder = new TimelineBuilder('shop', 1_000)
    builder.sample(1_000, serving(1, 10))
    const unknown = { ...standby(1, 0), phase: 'unknown' }
    builder.sample(1_100, { ...serving(2, 0), draining: [unknown] })
    builder.sample(1_200, { ...serving(2, 4), draining: [standby(1, 6)] })
    const { connections, processes } = builder.build(DONE, 1_200)
    expect(connections[0]?.counts).toEqual([10, null, 6])
    expect(processes[0]?.spans.map(({ phase }) => phase)).toEqual(['serves', 'standby'])
  })

  it('has the steps that the status tells of a process that no command has started', () => {
    const builder = new TimelineBuilder('shop', 10_000)
    builder.sample(10_000, { ...serving(1, 0), processStartedAt: new Date(0).toISOString(), takeover: [] })
    const takeover = [
      { step: 'offered', ms: 10 },
      { step: 'serving', ms: 40 },
      { step: 'released', ms: 60 },
    ]
    builder.sample(10_500, { ...serving(2, 0), processStartedAt: new Date(10_200).toISOString(), takeover })
    expect(builder.build(DONE, 10_500).processes[1]?.spans).toEqual([
      { phase: 'starts', from: 10_200, to: 10_460 },
      { phase: 'joins', from: 10_460, to: 10_470 },
      { phase: 'offered', from: 10_470, to: 10_500 },
      { phase: 'serves', from: 10_500, to: 10_500 },
    ])
  })

  it('ignores a step that is older than the last one of its process', () => {
    const builder = new TimelineBuilder('shop', 0)
    builder.step({ phase: 'offering', at: 20, pid: 2 })
    builder.step({ phase: 'started', at: 10, pid: 2 })
    expect(builder.build(DONE, 30).processes[0]?.spans).toEqual([{ phase: 'offering', from: 20, to: 20 }])
  })
})

describe('the page of a timeline', () => {
  it('has the data, which no name in it can leave', () => {
    const builder = new TimelineBuilder('</script><script>alert(1)</script>', 0)
    const page = timelinePage('// script', builder.build(DONE, 1))
    expect(page).not.toContain('alert(1)</script>')
    const [, json = ''] = /<script type="application\/json" id="timeline">(.*?)<\/script>/s.exec(page) ?? []
    expect(JSON.parse(json)).toMatchObject({ service: '</script><script>alert(1)</script>' })
    expect(page.indexOf(json)).toBeLessThan(page.indexOf('// script'))
  })

  it('keeps a dollar sign of the data', () => {
    const page = timelinePage('', new TimelineBuilder("$'$&", 0).build(DONE, 1))
    expect(page).toContain('"service":"$\'$&"')
  })
})
