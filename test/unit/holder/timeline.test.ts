import { expect, it } from 'vitest'
import { Timeline } from '../../../src/holder/holder.js'

function ended(...phases: Parameters<Timeline['enter']>[0][]): Timeline {
  const timeline = new Timeline()
  timeline.startHandoff(4711)
  for (const phase of phases) timeline.enter(phase)
  return timeline
}

it.each([
  [['offering', 'preparing', 'committing', 'probation', 'idle']],
  [['offering', 'idle']],
  [['offering', 'preparing', 'committing', 'probation', 'returning', 'idle']],
  [['offering', 'preparing', 'committing', 'probation', 'released']],
] as const)(
  'a handoff that has ended (%j) has no phases of the segments in which the state goes on later',
  phases => {
    const timeline = ended(...phases)
    for (let i = 0; i < 3; i++) {
      timeline.enter('returning')
      timeline.enter('idle')
    }
    expect(timeline.records.map(record => record.phases.map(({ phase }) => phase))).toEqual([phases])
  },
)
