import { describe, expect, it } from 'vitest'
import { screenLines, stepKey, type TopState, WATCHING } from '../../../src/cli/top-screen.js'

const asking: TopState = { mode: 'asking', order: 'stop' }
const running: TopState = { mode: 'running', order: 'upgrade' }

describe('the keys of fd-broker top', () => {
  it.each<[string, TopState, string, ReturnType<typeof stepKey>]>([
    ['u asks', WATCHING, 'u', { state: { mode: 'asking', order: 'upgrade' }, act: 'none' }],
    ['another letter does nothing', WATCHING, 'x', { state: WATCHING, act: 'none' }],
    ['the name of a method does nothing', WATCHING, 'toString', { state: WATCHING, act: 'none' }],
    ['q quits', WATCHING, 'q', { state: WATCHING, act: 'quit' }],
    ['Ctrl-C quits', WATCHING, '\x03', { state: WATCHING, act: 'quit' }],
    ['y starts the order', asking, 'y', { state: { mode: 'running', order: 'stop' }, act: 'start' }],
    ['any other key drops the order', asking, 's', { state: WATCHING, act: 'none' }],
    ['Ctrl-C drops the order', asking, '\x03', { state: WATCHING, act: 'none' }],
    ['Ctrl-C cancels an order that runs', running, '\x03', { state: running, act: 'cancel' }],
    ['q does not leave an order that runs', running, 'q', { state: running, act: 'none' }],
    ['no second order starts beside one that runs', running, 'u', { state: running, act: 'none' }],
  ])('%s', (_what, state, key, step) => {
    expect(stepKey(state, key)).toEqual(step)
  })
})

describe('the screen of fd-broker top', () => {
  const screen = (status: string, output: string[] = []) =>
    screenLines({ title: 'title', status, output, state: WATCHING, columns: 20, rows: 9 })

  it('has as many rows as the terminal, and the keys in the last one', () => {
    const lines = screen('one\ntwo\n')
    expect(lines).toHaveLength(9)
    expect(lines.slice(0, 4)).toEqual(['title', '', 'one', 'two'])
    expect(lines.at(-1)).toBe('u upgrade   r roll …')
  })

  it('says how many lines of the status have no room', () => {
    const lines = screen(Array.from({ length: 20 }, (_, line) => `line ${line}`).join('\n'))
    expect(lines).toHaveLength(9)
    expect(lines.at(-2)).toBe('… 15 more lines')
  })

  it('counts the columns of letters, not letters', () => {
    const lines = screen(`${'店'.repeat(10)}\n${'店'.repeat(11)}\n${'e\u0301'.repeat(20)}`)
    expect(lines.slice(2, 5)).toEqual(['店'.repeat(10), `${'店'.repeat(9)}…`, 'e\u0301'.repeat(20)])
  })

  it('shows the last lines of an order, without colours', () => {
    const lines = screen('\x1b[32mserving\x1b[39m', ['1', '2', '3', '4', '5'])
    expect(lines[2]).toBe('serving')
    expect(lines.slice(-4, -1)).toEqual(['3', '4', '5'])
  })
})
