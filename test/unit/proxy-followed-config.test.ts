import { expect, it } from 'vitest'
import type { Member } from '../../src/index.js'
import { listenerMessage, settingMessages } from '../../src/proxy/state/entries.js'
import { FollowedConfig } from '../../src/proxy/state/followed-config.js'
import { UPSTREAMS } from '../../src/proxy/state/sections.js'
import { config, LEAST } from '../fixtures/proxy-config.js'

const STAMP = { generation: 1, created: 1 }

it('an entry of a followed configuration that cannot be used is left out, and the log names it', () => {
  const own = config(LEAST)
  const listener = listenerMessage(own.listeners[0]!, STAMP)
  const entries: Record<string, Map<string, unknown>> = {
    listeners: new Map([
      ['http', listener],
      ['newer', { ...listener, address: 'quic://*:443' }],
    ]),
    settings: settingMessages(own, STAMP),
    upstreams: new Map([['damaged', undefined]]),
    certificates: new Map(),
  }
  const damaged = new Error('damaged')
  const member = {
    section: (name: string) => ({
      keys: () => entries[name]!.keys(),
      get(key: string) {
        if (name === UPSTREAMS) throw damaged
        return entries[name]!.get(key)
      },
    }),
  } as unknown as Member
  const lines: object[] = []
  const log = () => {}
  const logger = { debug: log, info: log, error: log, warn: (facts: object) => void lines.push(facts) }
  const { listeners, upstreams } = new FollowedConfig(member, logger).read(own)
  expect([listeners.map(({ name }) => name), upstreams]).toEqual([['http'], []])
  expect(lines).toEqual([
    { err: damaged, key: 'damaged' },
    { err: undefined, key: 'newer' },
  ])
})
