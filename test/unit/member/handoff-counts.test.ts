import { describe, expect, it } from 'vitest'
import { countHandoffs, type EventType, type ServiceEvent, summed } from '../../fixtures/member-metrics.js'

/** Events one second apart: `service type`. */
function eventsOf(...texts: readonly string[]): ServiceEvent[] {
  return texts.map((text, i) => {
    const [service = '', type] = text.split(' ')
    return { number: i + 1, at: i * 1_000, service, type: type as EventType, pid: 1, generation: 1 }
  })
}

/** The outcomes, and of each phase its seconds. */
function counted(events: readonly ServiceEvent[], after = 0): Record<string, number> {
  const counts: Record<string, Float64Array> = {}
  countHandoffs(events, after, (metric, label = '') => {
    counts[`${metric} ${label}`] ??= new Float64Array(20)
    return counts[`${metric} ${label}`]!
  })
  return Object.fromEntries(
    Object.entries(counts).map(([key, numbers]) => [
      key,
      key.startsWith('phases') ? numbers[16]! : numbers[0]!,
    ]),
  )
}

const WHOLE = ['offered', 'quiescing', 'sealed', 'committed', 'serving', 'kept'].map(
  type => `shop handoff.${type}`,
)

describe('the counts of handoffs', () => {
  it('come from the events, with the time of their phases, when a handoff has ended', () => {
    const all = { offering: 1, quiescing: 1, preparing: 1, committing: 1, probation: 1 }
    const phases = Object.fromEntries(Object.entries(all).map(([phase, s]) => [`phases ${phase}`, s]))
    expect(counted(eventsOf(...WHOLE))).toEqual({ 'handoffs released': 1, ...phases })
    expect(counted(eventsOf(...WHOLE.slice(0, 5)))).toEqual({})
    expect(counted(eventsOf(...WHOLE, 'shop handoff.offered', 'shop handoff.failed'), 6)).toEqual({
      'handoffs failed': 1,
      'phases offering': 1,
    })
  })

  it('have each handoff once if the events are seen in parts', () => {
    const events = eventsOf(...WHOLE, ...WHOLE)
    const parts = events.map((_, at) => counted(events.slice(0, at + 1), at))
    expect(parts.filter(part => Object.keys(part).length > 0)).toHaveLength(2)
    expect(parts[5]).toEqual(parts[11])
  })

  it('tell workers apart, which have one sequence of events', () => {
    const both = WHOLE.flatMap(event => [event, event.replace('shop', 'shop.1')])
    expect(counted(eventsOf(...both))).toMatchObject({ 'handoffs released': 2, 'phases offering': 4 })
  })

  it('have a return if the previous version serves again, not if a daemon was started again', () => {
    const back = ['shop rollback.started', 'shop rollback.serving']
    expect(counted(eventsOf(...WHOLE.slice(0, 5), ...back))).toMatchObject({
      'handoffs reverted': 1,
      'phases returning': 1,
    })
    expect(counted(eventsOf('shop daemon.restarted', 'shop rollback.serving'))).toEqual({})
  })

  it('have no probation of a version that started without a previous one', () => {
    const first = ['offered', 'committed', 'serving'].map(type => `shop handoff.${type}`)
    expect(counted(eventsOf(...first, ...WHOLE))).toEqual(counted(eventsOf(...WHOLE)))
  })
})

it('gauges of workers add up, or the largest counts, without those of another release', () => {
  const one = (metric: string, value: number) => ({
    metric: metric as 'connections',
    labels: [],
    numbers: [value],
  })
  expect(
    summed([
      one('connections', 3),
      one('generation', 4),
      one('unknown', 1),
      one('connections', 2),
      one('generation', 2),
    ]),
  ).toEqual([one('connections', 5), one('generation', 4)])
})
