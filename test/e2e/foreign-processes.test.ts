import { type ChildProcess, spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../src/daemon/daemon.js'
import { OwnedFd } from '../../src/kernel/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import { fdbroker } from '../../src/proto/wire.js'
import { needsRoot, SECOND_UID, SecondUser } from '../processes/second-user.js'

const { Op } = fdbroker.wire.DescriptorRequest

/** A daemon at which the second user may do all with the descriptors of "mine" and of "shop". */
async function serve() {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-foreign-'))
  chmodSync(folder, 0o755)
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const config = join(folder, 'broker.json')
  const control = join(folder, 'c.sock')
  const may = ['owner', { uid: SECOND_UID }]
  const all = { put: may, claim: may, list: may, remove: may }
  writeFileSync(config, JSON.stringify({ services: { mine: all, shop: all } }))
  const daemon = await serveDaemon({ control, config })
  onTestFinished(() => daemon.close())
  const client = await OperatorClient.connect(control)
  onTestFinished(() => client.close())
  return { control, client, user: await SecondUser.start() }
}

function aProcess(): ChildProcess & { readonly pid: number } {
  const child = spawn('sleep', ['600'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  return child as ChildProcess & { readonly pid: number }
}

describe('a process of another user', () => {
  it('keeps what it has claimed, whoever else names it by a pidfd', async context => {
    needsRoot(context)
    const { control, client, user } = await serve()
    using fd = OwnedFd.duplicate(2, 'stderr')
    await client.descriptors.put('shop/spool', fd)
    const victim = aProcess()
    using claimed = await client.descriptors.claim('shop/spool', { while: { pid: victim.pid } })
    expect(claimed.closed).toBe(false)
    const pidfd = [`pidfd:${victim.pid}`]
    const codes = {
      claim: (await user.asks(control, { op: Op.CLAIM, name: 'shop/spool' }, pidfd)).code,
      shared: (await user.asks(control, { op: Op.CLAIM, name: 'shop/spool', shared: true }, pidfd)).code,
      release: (await user.asks(control, { op: Op.RELEASE, name: 'shop/spool' }, pidfd)).code,
      'release of its own': (await user.asks(control, { op: Op.RELEASE, name: 'shop/spool' })).code,
    }
    expect(codes).toEqual({
      claim: 'ERR_FDB_DENIED',
      shared: 'ERR_FDB_DENIED',
      release: 'ERR_FDB_DENIED',
      'release of its own': 'ERR_FDB_FD_CLAIMED',
    })
    expect((await client.descriptors.list())[0]).toMatchObject({ claimedBy: victim.pid })
  })

  it('does not claim for another user’s process, which would keep the descriptor busy in its name', async context => {
    needsRoot(context)
    const { control, client, user } = await serve()
    using fd = OwnedFd.duplicate(2, 'stderr')
    await client.descriptors.put('shop/spool', fd)
    const ask = async (pid: number) =>
      (await user.asks(control, { op: Op.CLAIM, name: 'shop/spool' }, [`pidfd:${pid}`])).code
    expect([await ask(1), await ask(aProcess().pid)]).toEqual(['ERR_FDB_DENIED', 'ERR_FDB_DENIED'])
    expect((await client.descriptors.list())[0]).toMatchObject({ claimedBy: null })
    const child = await user.child()
    expect(await ask(child)).toBe('done')
    expect((await client.descriptors.list())[0]).toMatchObject({ claimedBy: child })
  })
})
