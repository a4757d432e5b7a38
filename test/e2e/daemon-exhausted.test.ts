import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join } from '../../src/member/joining/join.js'
import { OperatorClient } from '../../src/operator/client.js'
import { fdbroker } from '../../src/proto/wire.js'
import { NIGHTLY } from '../lanes/lane.js'
import { hello, RawPeer } from '../processes/raw-peer.js'
import { needsRoot, SecondUser } from '../processes/second-user.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const { Op } = fdbroker.wire.DescriptorRequest
const DESCRIPTORS = 256

/** A daemon that may have few descriptors, and may be asked for its lists by everybody. */
async function serve() {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-exhausted-'))
  chmodSync(folder, 0o755)
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'c.sock')
  const config = joinPath(folder, 'broker.json')
  writeFileSync(config, JSON.stringify({ default: { list: ['anyone'] }, descriptors: { list: ['anyone'] } }))
  const script = `ulimit -n ${DESCRIPTORS}; exec "$0" "$@"`
  const args = ['-c', script, process.execPath, CLI, 'serve', '--control', control, '--config', config]
  const daemon = spawn('/bin/sh', args, { stdio: 'ignore', env: { ...process.env, NODE_OPTIONS: '' } })
  onTestFinished(() => void daemon.kill('SIGKILL'))
  const client = await until('it listens', () => OperatorClient.connect(control).catch(() => null), 20_000)
  onTestFinished(() => client.close())
  await client.status()
  return { client, control }
}

describe('a daemon of which another user wants all connections', () => {
  it.runIf(NIGHTLY)(
    'tells that user that it has its share, and serves its own user as before',
    async context => {
      needsRoot(context)
      const { control } = await serve()
      const user = await SecondUser.start()
      const codes: (string | null | undefined)[] = []
      for (let i = 0; i < DESCRIPTORS; i++) {
        const heard = await user.say({
          as: `c${i}`,
          control,
          bodies: [hello('OPERATE', '')],
          answers: ['welcome'],
        })
        codes.push(heard?.reject?.code)
      }
      const admitted = codes.filter(code => code === undefined).length
      expect(admitted).toBe(DESCRIPTORS / 16 / 2)
      expect(codes.slice(admitted)).toEqual(codes.slice(admitted).map(() => 'ERR_FDB_SHARE'))
      using operator = await OperatorClient.connect(control)
      await operator.status()
      const member = await join({ service: 'shop', control, hosting: 'daemon', drain: { timeout: 0 } })
      onTestFinished(() => member.close({ timeout: 0 }))
      const web = await member.listen('web', 'tcp://127.0.0.1:0')
      web.serve(createServer())
      await member.ready()
      await user.leave('c0')
      await until('what it gives back is its again', async () => {
        const heard = await user.say({
          as: 'again',
          control,
          bodies: [hello('OPERATE', '')],
          answers: ['welcome'],
        })
        return heard?.reject === undefined
      })
    },
  )

  it('ends no more than its share of watches', async context => {
    needsRoot(context)
    const { control } = await serve()
    const user = await SecondUser.start()
    await user.say({ as: 'w', control, bodies: [hello('OPERATE', '')], answers: ['welcome'] })
    const codes: string[] = []
    for (let request = 1; request <= 20; request++) {
      const bodies = [{ descriptorRequest: { request, op: Op.WATCH } }]
      const heard = await user.say({ as: 'w', bodies, answers: ['descriptorReply'] })
      codes.push(heard?.descriptorReply?.ok ? 'done' : (heard?.descriptorReply?.code ?? ''))
    }
    expect(codes).toEqual([...Array(16).fill('done'), ...Array(4).fill('ERR_FDB_SHARE')])
  })
})

describe('a daemon that has no descriptor left', () => {
  it('says so to the one that connects, with how many it has', async () => {
    const { control } = await serve()
    const peers: RawPeer[] = []
    const refusal = await until('one is refused', async () => {
      const peer = await RawPeer.connect(control)
      onTestFinished(() => peer.leave())
      peers.push(peer)
      peer.say(hello('OPERATE', ''))
      await until('it is answered', () => peer.heard.length > 0)
      return peer.heard[0]?.reject
    })
    expect(refusal).toMatchObject({ code: 'ERR_FDB_NO_DESCRIPTORS', retryable: true })
    expect(refusal.message).toMatch(/may have 256/)
    for (const peer of peers) peer.leave()
    await until('others are served again', async () => {
      using client = await OperatorClient.connect(control)
      return await client.status().then(
        () => true,
        () => false,
      )
    })
  })
})
