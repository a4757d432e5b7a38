import { describe, expect, it } from 'vitest'
import type { HolderState } from '../../../src/handoff/holder-machine.js'
import { JOINER, OTHER, OWNER, registering } from '../../holder-support/registering.js'

const RETIRED: Partial<HolderState> = { phase: 'probation', owner: JOINER, joiner: -1, standby: OWNER }

describe('a daemon to which a member registers a descriptor', () => {
  it('waits while the next version may already serve, and then refuses that of the replaced one', () => {
    const { answers, become, names, register } = registering({ phase: 'committing', joiner: JOINER })
    register(OWNER, 7)
    expect([answers, names()]).toEqual([[], []])
    become(RETIRED)
    expect([answers, names()]).toEqual([['1.7 ERR_FDB_FENCED'], []])
    register(OWNER, 8)
    expect(answers.at(-1)).toBe('1.8 ERR_FDB_FENCED')
  })

  it('takes it if the next version fails, and only then', () => {
    const { answers, become, names, register } = registering({ phase: 'committing', joiner: JOINER })
    register(OWNER, 7)
    become({ phase: 'returning' })
    expect(answers).toEqual([])
    register(JOINER, 1, 'late')
    become({ phase: 'idle', joiner: -1, bound: [JOINER] })
    expect([answers, names()]).toEqual([['1.7', '2.1 ERR_FDB_FENCED'], ['kept']])
  })

  it('takes those of the version that serves, or is about to, at once', () => {
    for (const phase of ['idle', 'offering', 'quiescing', 'freezing', 'preparing'] as const) {
      const { answers, names, register } = registering({ phase, joiner: JOINER })
      register(OWNER, 1)
      register(JOINER, 2, 'next')
      register(OTHER, 3, 'older')
      expect([answers, names()]).toEqual([['1.1', '2.2', '3.3 ERR_FDB_FENCED'], ['kept']])
    }
    const { answers, register } = registering({ phase: 'committing', joiner: JOINER })
    register(JOINER, 1)
    expect(answers).toEqual(['2.1'])
  })

  it('takes none that waits while the daemon itself hands over: the next daemon has got the others already', () => {
    const { answers, become, names, pause, register } = registering({ phase: 'committing', joiner: JOINER })
    register(OWNER, 1)
    pause.start()
    become({ phase: 'idle', joiner: -1 })
    register(OWNER, 2, 'later')
    expect([answers, names()]).toEqual([[], []])
    pause.end()
    expect([answers, names()]).toEqual([
      ['1.1', '1.2'],
      ['kept', 'later'],
    ])
  })

  it('answers in order, also after a handoff of its own, and not a member that has left', () => {
    const { answers, ask, become, forget, pause, register } = registering({
      phase: 'committing',
      joiner: JOINER,
    })
    pause.start()
    register(OWNER, 1)
    pause.end()
    ask(OWNER, 2)
    become({ phase: 'idle', joiner: -1 })
    expect(answers).toEqual(['1.1', '1.2'])
    become({ phase: 'committing', joiner: JOINER })
    register(OWNER, 3)
    forget(OWNER)
    become({ phase: 'idle', joiner: -1 })
    expect(answers).toEqual(['1.1', '1.2'])
  })
})

describe('a daemon that a member asks whether it alone has the listeners that it has dropped', () => {
  it('answers when no member stands by, joins, or has failed and lives', () => {
    const { answers, ask, become } = registering({ ...RETIRED, owner: OWNER, standby: JOINER })
    ask(OWNER, 1)
    become({ phase: 'idle', standby: -1, bound: [JOINER] })
    expect(answers).toEqual([])
    become({ bound: [] })
    expect(answers).toEqual(['1.1'])
    become({ phase: 'offering', joiner: JOINER })
    ask(OWNER, 2)
    ask(JOINER, 3)
    expect(answers).toEqual(['1.1', '2.3'])
    become({ ...RETIRED })
    expect(answers).toEqual(['1.1', '2.3', '1.2'])
  })
})
