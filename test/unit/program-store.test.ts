import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { AuditedDescriptors } from '../../src/daemon/audited-descriptors.js'
import { DescriptorStore } from '../../src/daemon/service/descriptor-store.js'
import { ProgramStore } from '../../src/daemon/service/program-store.js'
import { Registry } from '../../src/holder/registry.js'
import { memoryFile, socketPair } from '../../src/kernel/index.js'
import { until } from '../processes/until.js'

const ME = { pid: 7, uid: 0 }

function open() {
  const registry = new Registry()
  const over: string[] = []
  const daemon = { settled: true }
  const ended = (what: string, name: string) => over.push(`${name}: ${what}`)
  const store = new DescriptorStore(registry, new Set(), () => daemon.settled, ended)
  const programs = new ProgramStore({
    store,
    holder: new AuditedDescriptors(store, SILENT),
    most: 10,
    refused: facts => expect.fail(JSON.stringify(facts)),
  })
  onTestFinished(() => {
    programs[Symbol.dispose]()
    store[Symbol.dispose]()
    registry.close()
  })
  const [given, other] = socketPair('given away')
  programs.keep({ service: 'shop', name: 'talk', polled: true }, [given], ME)
  return { registry, store, over, daemon, other }
}

describe('what a program gave away, when its other side has gone', () => {
  it('is let go of while the daemon is handed over, too', async () => {
    const { daemon, other, over, registry } = open()
    daemon.settled = false
    other.close()
    await until('it has gone', () => over.length > 0)
    expect(over).toEqual(['shop/talk: the other side of a descriptor has gone'])
    expect(registry.names).toEqual([])
  })

  it('does not take with it what was put in its place', async () => {
    const { other, over, registry, store } = open()
    // Who has given it away has it still.
    using kept = registry.get('fd/shop%2Ftalk')!.fd.dup()
    const fd = memoryFile('it', 'a memory file')
    store.put({ name: 'shop/talk', fd, lifetime: null, ms: null, replace: true, by: ME })
    other.close()
    await new Promise(resolve => setTimeout(resolve, 20))
    expect([kept.closed, over, store.has('shop/talk')]).toEqual([false, [], true])
  })
})
