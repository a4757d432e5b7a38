import { expect, it } from 'vitest'
import { listenerMessage } from '../../src/proxy/state/entries.js'
import { FollowedConfig } from '../../src/proxy/state/followed-config.js'
import { LISTENERS, listenersSection } from '../../src/proxy/state/sections.js'
import { config, LEAST } from '../fixtures/proxy-config.js'
import { writingLog } from '../fixtures/state-logs.js'

const STAMP = { generation: 1, created: 1 }

it('an entry of a followed configuration that cannot be used is left out, and the log names it', async () => {
  const { log } = writingLog()
  const own = config(LEAST)
  const listener = listenerMessage(own.listeners[0]!, STAMP)
  const listeners = log.section(LISTENERS, listenersSection)
  await listeners.put('http', listener)
  await listeners.put('newer', { ...listener, address: 'quic://*:443' })
  const lines: object[] = []
  const silent = () => {}
  const logger = {
    debug: silent,
    info: silent,
    error: silent,
    warn: (facts: object) => void lines.push(facts),
  }
  const followed = new FollowedConfig(log, logger).read(own)
  expect(followed.listeners.map(({ name }) => name)).toEqual(['http'])
  expect(lines).toEqual([{ err: undefined, key: 'newer' }])
})
