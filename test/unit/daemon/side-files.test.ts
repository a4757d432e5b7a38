import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { RightsHolders } from '../../../src/daemon/service/recovery.js'
import { keepState } from '../../../src/daemon/service/sole-copy.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { identify } from '../../../src/os/process-identity.js'
import { needsRoot, SECOND_UID } from '../../processes/second-user.js'

/** A folder that every user may write to, and a file of this user's. */
function place() {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-side-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  chmodSync(folder, 0o1777)
  const precious = join(folder, 'precious')
  writeFileSync(precious, 'precious')
  return { folder, precious, control: join(folder, 'c.sock') }
}

const SHOP = { service: 'shop', generation: 3, startedAt: 1, members: [identify(process.pid)] }

function open(control: string) {
  const refused: unknown[] = []
  return { holders: new RightsHolders(control, error => refused.push(error)), refused }
}

describe('the list of rights-holders beside a control socket', () => {
  it('goes through no link that another user has put there', () => {
    const { control, folder, precious } = place()
    symlinkSync(precious, `${control}.members~`)
    symlinkSync(precious, `${control}.members`)
    const { holders } = open(control)
    holders.replace([SHOP])
    holders.write()
    expect(readFileSync(precious, 'utf8')).toBe('precious')
    expect(holders.read()).toMatchObject([{ service: 'shop' }])
    expect(statSync(`${control}.members`).mode & 0o777).toBe(0o600)
    expect(readdirSync(folder).sort()).toEqual(['c.sock.members', 'c.sock.members~', 'precious'])
  })

  it('writes the file only after a change, or after a look at a removed file', () => {
    const { control } = place()
    const list = `${control}.members`
    const { holders } = open(control)
    holders.replace([SHOP])
    holders.write()
    rmSync(list)
    holders.write()
    expect(existsSync(list)).toBe(false)
    holders.look()
    holders.write()
    expect(holders.read()).toMatchObject([{ service: 'shop' }])
  })

  it('reaches the file after a failure as soon as that is possible, without another change', () => {
    const folder = join(place().folder, 'run')
    const { holders } = open(join(folder, 'c.sock'))
    holders.replace([SHOP])
    for (let i = 0; i < 2; i++)
      expect(() => holders.write()).toThrow(expect.objectContaining({ code: 'ERR_FDB_SIDE_FILE' }))
    mkdirSync(folder)
    holders.write()
    expect(holders.read()).toMatchObject([{ service: 'shop' }])
  })

  it('counts neither through a link, nor where others may write it', () => {
    const { control, folder } = place()
    const list = join(folder, 'list')
    writeFileSync(list, JSON.stringify([SHOP]), { mode: 0o600 })
    symlinkSync(list, `${control}.members`)
    const { holders, refused } = open(control)
    expect(holders.read()).toEqual([])
    rmSync(`${control}.members`)
    writeFileSync(`${control}.members`, JSON.stringify([SHOP]))
    chmodSync(`${control}.members`, 0o666)
    expect(holders.read()).toEqual([])
    expect(refused).toMatchObject([{ code: 'ERR_FDB_SIDE_FILE' }, { code: 'ERR_FDB_SIDE_FILE' }])
    chmodSync(`${control}.members`, 0o600)
    expect(holders.read()).toMatchObject([{ service: 'shop' }])
  })

  it('removes what a daemon left that was killed while it wrote, and nothing else', () => {
    const { control, folder } = place()
    writeFileSync(`${control}.members~0123456789abcdef`, '[')
    writeFileSync(`${control}.members~`, 'another file')
    writeFileSync(`${control}2.members~0123456789abcdef`, 'of another daemon')
    const { holders } = open(control)
    holders.replace([SHOP])
    holders.write()
    holders.removeLeftovers()
    expect(readdirSync(folder).sort()).toEqual([
      'c.sock.members',
      'c.sock.members~',
      'c.sock2.members~0123456789abcdef',
      'precious',
    ])
  })

  it('counts for nothing when it is another user’s: the daemon waits for no process by its word', context => {
    needsRoot(context)
    const { control } = place()
    writeFileSync(`${control}.members`, JSON.stringify([SHOP]), { mode: 0o600 })
    chownSync(`${control}.members`, SECOND_UID, SECOND_UID)
    const { holders, refused } = open(control)
    expect(holders.read()).toEqual([])
    expect(refused).toMatchObject([{ code: 'ERR_FDB_SIDE_FILE' }])
  })
})

describe('a daemon that keeps the state of a service in the file that a member has told', () => {
  it('replaces no file that is no state file', async () => {
    const { precious } = place()
    const segmentSet = new SegmentSet()
    onTestFinished(() => segmentSet.close())
    const [segment] = segmentSet.make([1])
    segment!.seal()
    const errors: unknown[] = []
    const logger = { ...SILENT, error: (facts: object) => errors.push(facts) }
    await keepState({
      service: 'shop',
      path: precious,
      diedAt: Date.now(),
      segmentSet,
      logger,
      timeoutMs: 5_000,
    })
    expect(readFileSync(precious, 'utf8')).toBe('precious')
    expect(errors).toMatchObject([{ err: { code: 'ERR_FDB_STATE_FILE' } }])
  })
})
