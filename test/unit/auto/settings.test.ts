import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { misspelled, settingsOf } from '../../../src/auto/settings.js'

const SRC = fileURLToPath(new URL('../../../src', import.meta.url))

describe('the settings of fd-broker/auto', () => {
  it('cause a warning if their names are nearly right', () => {
    expect(
      misspelled({ FD_BROKER_DRIAN: '1s', FD_BROKER_REDY: 'call', FD_BROKER_DRAIN: '1s', NAM: 'x' }),
    ).toEqual([
      'FD_BROKER_DRIAN is not a setting and is ignored: did you mean FD_BROKER_DRAIN?',
      'FD_BROKER_REDY is not a setting and is ignored: did you mean FD_BROKER_READY?',
    ])
  })

  it('have no names near those of other variables of fd-broker', () => {
    const names = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
      .filter(file => file.endsWith('.ts'))
      .flatMap(file => readFileSync(join(SRC, file), 'utf8').match(/\bFD_BROKER_[A-Z_]*[A-Z]\b/g) ?? [])
    expect(names).toContain('FD_BROKER_READY_FD')
    expect(misspelled(Object.fromEntries(names.map(name => [name, '']))).sort()).toEqual([])
  })

  it('let TLS connections move only if they say so', () => {
    const moves = (text?: string) => settingsOf('/shop/server.js', { FD_BROKER_TLS: text }).tlsMoves
    expect([moves(), moves(''), moves('stay'), moves('move')]).toEqual([false, false, false, true])
    expect(() => moves('on')).toThrow('FD_BROKER_TLS is "on": give "move" or "stay"')
  })

  it('take durations with a unit only', () => {
    const drain = (text: string) => settingsOf('/shop/server.js', { FD_BROKER_DRAIN: text }).drainMs
    expect([drain(''), drain('0'), drain('1.5s'), drain('596h')]).toEqual([undefined, 0, 1500, 2_145_600_000])
    for (const text of ['30', '05', '30 s', '597h', '-1s'])
      expect(() => drain(text)).toThrow('FD_BROKER_DRAIN is')
  })
})
