import { expect, it, onTestFinished } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { closeAll, inspectOne } from '../../../src/kernel/index.js'
import { bindListener, formatAddress, parseListenerSpec } from '../../../src/listeners/index.js'
import type { OperatorClient } from '../../../src/operator.js'
import { claimForLife } from '../../fixtures/run.js'
import { untyped } from '../../fixtures/untyped.js'
import { daemonClient } from '../../processes/daemon-client.js'
import { freePort } from '../../processes/scene.js'

const CLAIMING = { service: 'shop', exclusive: false, nonBlocking: false, timeoutMs: 5_000 }

it('programs that begin at once with a listener that the daemon does not hold share it', async () => {
  const client = await daemonClient()
  const spec = parseListenerSpec(`tcp://127.0.0.1:${await freePort()}`)
  const claim = () => claimForLife(client, [{ name: 'web', spec }], CLAIMING)
  const claimed = (await Promise.all([claim(), claim()])).flat()
  expect(new Set(claimed.map(({ about }) => about.ino)).size).toBe(1)
  closeAll(claimed.map(({ fd }) => fd))
})

it('a program shares a listener that another one has bound, and stores in the daemon only then', async () => {
  const bound = bindListener(parseListenerSpec('tcp://127.0.0.1:0'))
  onTestFinished(() => bound.close())
  const about = inspectOne(bound)
  let asked = 0
  const claimAmong = async () => {
    if (++asked < 4) throw new FdbError('ERR_FDB_FD_UNKNOWN', 'the daemon holds no such descriptor')
    return { fd: bound.dup(), others: 1 }
  }
  const client = untyped<OperatorClient>({ descriptors: { claimAmong } })
  const wanted = { name: 'web', spec: parseListenerSpec(formatAddress(about)) }
  const claimed = await claimForLife(client, [wanted], CLAIMING)
  expect(claimed.map(each => each.about.ino)).toEqual([about.ino])
  closeAll(claimed.map(({ fd }) => fd))
})
