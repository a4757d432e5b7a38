import { EventEmitter } from 'node:events'
import { describe, expect, it } from 'vitest'
import { observe, replay } from '../../../src/node/observed-events.js'

/** An emitter that records what its listeners get. */
function emitter() {
  const one = new EventEmitter()
  const heard: unknown[] = []
  one.on('data', (...args) => heard.push(...args))
  return { one, heard }
}

const traces = (one: EventEmitter) => [one.eventNames(), one.listenerCount('data'), Object.keys(one).sort()]

describe('an observed emitter', () => {
  it('shows no trace of it, emits the same, and returns the same', () => {
    const { one, heard } = emitter()
    const before = traces(one)
    const told: string[] = []
    one.on('newListener', event => told.push(event))
    const seen: unknown[] = []
    const stop = observe(
      one,
      new Map([
        ['data', (...args) => void seen.push(...args)],
        ['none', () => void seen.push('none')],
      ]),
    )
    one.removeAllListeners('newListener')
    expect(traces(one)).toEqual(before)
    expect(told).toEqual([])
    expect([one.emit('data', 1, 2), one.emit('none')]).toEqual([true, false])
    expect([heard, seen]).toEqual([
      [1, 2],
      [1, 2, 'none'],
    ])
    stop()
    expect(Object.hasOwn(one, 'emit')).toBe(false)
  })

  it('throws an error that the program does not handle', () => {
    const one = new EventEmitter()
    const seen: unknown[] = []
    observe(one, new Map([['error', error => void seen.push(error)]]))
    const error = new Error('none handles it')
    expect(() => one.emit('error', error)).toThrow(error)
    expect(seen).toEqual([error])
  })

  it('stays observed after removeAllListeners()', () => {
    const { one } = emitter()
    let seen = 0
    observe(one, new Map([['data', () => void seen++]]))
    one.removeAllListeners()
    expect([one.emit('data'), seen]).toEqual([false, 1])
  })

  it('may have several observers, each until it stops, in any order', () => {
    const { one, heard } = emitter()
    const seen: string[] = []
    const stops = ['a', 'b', 'c'].map(name => observe(one, new Map([['data', () => void seen.push(name)]])))
    one.emit('data', 1)
    stops[1]!()
    one.emit('data', 2)
    stops[2]!()
    one.emit('data', 3)
    stops[0]!()
    one.emit('data', 4)
    expect(seen.join('')).toBe('cbacaa')
    expect(heard).toEqual([1, 2, 3, 4])
  })

  it('keeps an event from the listeners, not from other observers, if an observer returns false', () => {
    const { one, heard } = emitter()
    const seen: string[] = []
    observe(one, new Map([['data', () => void seen.push('inner')]]))
    observe(one, new Map([['data', () => false]]))
    one.emit('data', 1)
    expect([heard, seen]).toEqual([[], ['inner']])
  })

  it('calls the observer after its listeners too, also if one throws', () => {
    const { one, heard } = emitter()
    const seen: unknown[] = []
    const stop = observe(
      one,
      new Map(),
      new Map([['data', (...args) => void seen.push(heard.length, ...args)]]),
    )
    expect(one.emit('data', 1)).toBe(true)
    one.on('data', () => {
      throw new Error('a mistake')
    })
    expect(() => one.emit('data', 2)).toThrow('a mistake')
    stop()
    expect(seen).toEqual([1, 1, 2, 2])
  })

  it('replays an event to the observers alone', () => {
    const { one, heard } = emitter()
    const seen: unknown[] = []
    for (const name of ['a', 'b']) observe(one, new Map([['data', value => void seen.push(name, value)]]))
    replay(one, 'data', 1)
    expect([heard, seen]).toEqual([[], ['b', 1, 'a', 1]])
  })

  it('may be wrapped by a tracing library before, meanwhile and by its prototype', () => {
    class Traced extends EventEmitter {}
    const one = new Traced()
    const seen: string[] = []
    const wrap = (name: string, target: EventEmitter) => {
      const { emit } = target
      target.emit = function (...args) {
        seen.push(name)
        return emit.apply(this, args)
      }
    }
    wrap('before', one)
    const stop = observe(one, new Map([['data', () => void seen.push('observer')]]))
    wrap('after', one)
    one.emit('data')
    stop()
    one.emit('data')
    expect(seen).toEqual(['after', 'observer', 'before', 'after', 'before'])
    const other = new Traced()
    observe(other, new Map())
    seen.length = 0
    wrap('prototype', Traced.prototype)
    other.emit('data')
    expect(seen).toEqual(['prototype'])
  })
})
