import { expect, it } from 'vitest'
import type { Caller } from '../../../src/holder/admission.js'
import { ControlClients } from '../../../src/member/hosting/control-clients.js'
import { untyped } from '../../fixtures/untyped.js'

it('a joiner that waits for the decision joins the successor that was released meanwhile', async () => {
  let decide!: () => void
  const decided = new Promise<void>(resolve => {
    decide = resolve
  })
  const hosting = { released: false, holder: null, probationLeftMs: null, whenDecided: () => decided }
  const deps = {
    hosting: () => hosting,
    settings: { times: { commit: 1_000 } },
    shutdown: { closing: false, over: false },
  }
  const sent: unknown[] = []
  const link = {
    open: true,
    start() {},
    send: async (message: unknown) => void sent.push(message),
    close: () => {
      link.open = false
    },
  }
  const clients = new ControlClients(untyped<ConstructorParameters<typeof ControlClients>[0]>(deps))
  clients.receive(untyped<Caller>({ intent: 'join', link, pidfd: null }))
  hosting.released = true
  decide()
  await decided
  await decided
  // Without an answer, so that it connects again.
  expect(link.open).toBe(false)
  expect(sent).toEqual([])
})

it.each([
  ['operate', 'ERR_FDB_BUSY'],
  ['draining', undefined],
])('a client whose Hello (%s) comes when this process has left connects again', async (intent, code) => {
  const sent: { reject?: { code: string } }[] = []
  const link = {
    open: true,
    channel: { unref() {} },
    start() {},
    send: async (message: (typeof sent)[0]) => void sent.push(message),
    close: () => {
      link.open = false
    },
  }
  const kept: unknown[] = []
  const deps = {
    shutdown: { closing: true, over: true },
    older: { add: (caller: unknown) => kept.push(caller) },
  }
  const clients = new ControlClients(untyped<ConstructorParameters<typeof ControlClients>[0]>(deps))
  clients.receive(untyped<Caller>({ intent, link, pidfd: null }))
  await new Promise(setImmediate)
  expect([link.open, kept]).toEqual([false, []])
  expect(sent.map(({ reject }) => reject?.code)).toEqual(code === undefined ? [] : [code])
})
