import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { OwnedFd, SEAL_SEAL, SEAL_WRITE } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { frame, parseHeader } from '../../../src/state/segment.js'
import { Segment } from '../../fixtures/state.js'
import { holdPage } from '../../processes/held-page.js'
import { has } from '../../processes/toolchains.js'

const open: { close(): void }[] = []
const kept = <T extends { close(): void }>(one: T): T => {
  open.push(one)
  return one
}
afterEach(() => {
  for (const one of open.splice(0)) one.close()
})

function withBytes(): Segment {
  const segment = kept(Segment.create(1))
  segment.append(Buffer.from('abc'))
  return segment
}

describe('a segment', () => {
  it('shows by its header alone, which is whole or none', () => {
    const made = kept(Segment.create(7, { kind: 'snapshot' }))
    const bytes = Buffer.alloc(made.start + 5)
    native.pread(made.fd.raw, bytes, 0, made.start, 0)
    expect(parseHeader(bytes)).toMatchObject({ epoch: 7, kind: 'snapshot', service: '', start: made.start })
    for (let at = 0; at < made.start; at++) {
      const other = Buffer.from(bytes)
      other[at]! ^= 1
      expect(() => parseHeader(other), `byte ${at}`).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_STATE_FORMAT' }),
      )
      expect(() => parseHeader(bytes.subarray(0, at)), `cut at ${at}`).toThrow(
        expect.objectContaining({ code: 'ERR_FDB_STATE_FORMAT' }),
      )
    }
  })

  it('says its epoch and kind to whoever opens its descriptor', () => {
    const made = kept(Segment.create(7, { kind: 'snapshot' }))
    const seen = kept(Segment.open(made.fd.dup()))
    expect([seen.epoch, seen.kind, seen.size(), seen.start]).toEqual([7, 'snapshot', made.size(), made.start])
    expect(kept(Segment.create(0)).kind).toBe('epoch')
  })

  it('refuses what is no segment, or of a newer format, and closes it', () => {
    for (const bytes of [
      Buffer.alloc(0),
      Buffer.alloc(100),
      Buffer.from('x'.repeat(64)),
      frame(Buffer.from('hello')),
    ]) {
      const fd = OwnedFd.own(native.memfd('other'), 'other')
      if (bytes.length > 0) native.pwrite(fd.raw, bytes, 0, bytes.length, 0)
      expect(() => Segment.open(fd)).toThrow(expect.objectContaining({ code: 'ERR_FDB_STATE_FORMAT' }))
      expect(fd.closed).toBe(true)
    }
  })

  it('closes with those beside it, where one of them is none', () => {
    const fds = [Segment.create(1).fd, OwnedFd.own(native.memfd('no segment'), 'test'), Segment.create(2).fd]
    expect(() => Segment.openAll(fds)).toThrow(expect.objectContaining({ code: 'ERR_FDB_STATE_FORMAT' }))
    expect(fds.map(({ closed }) => closed)).toEqual([true, true, true])
  })

  it('refuses appends once it is sealed, by whichever descriptor, and sealing again is fine', () => {
    const one = kept(Segment.create(1))
    const other = kept(one.share())
    expect(other.append(Buffer.from('abc'))).toEqual({ written: 3, refused: null })
    expect([one.sealed, other.sealed]).toEqual([false, false])
    one.seal()
    other.seal()
    expect([one.sealed, other.sealed]).toEqual([true, true])
    expect(other.append(Buffer.from('def'))).toEqual({ written: 0, refused: 'sealed' })
    expect(one.size()).toBe(one.start + 3)
  })

  // The kernel waits 150 ms for such a page. A read in another process, compaction and reclaim hold one for a moment, and longer where the machine stands still.
  it('gets its seal although a page of it is held for a quarter of a second', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const segment = withBytes()
    const { end } = await holdPage(segment, 'time.sleep(0.25)')
    segment.seal()
    expect(segment.sealed).toBe(true)
    expect(segment.append(Buffer.from('def')).refused).toBe('sealed')
    await end()
  })

  it('says that pages of it are held for good, and takes appends', async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const segment = withBytes()
    const { end } = await holdPage(segment, 'sys.stdin.read()')
    expect(() => segment.seal()).toThrow(/EBUSY\): a process maps the segment writable, or holds pages of it/)
    expect(segment.sealed).toBe(false)
    expect(segment.append(Buffer.from('def')).refused).toBe(null)
    await end()
  })

  it('gets its seal aside while the event loop turns, or says that pages of it are held for good', async ({
    skip,
  }) => {
    if (!has('python3')) skip('there is no python3')
    const segments = [withBytes(), withBytes(), withBytes()]
    // Has one of the seals already.
    segments[2]!.markReleased()
    const [briefly, ...forGood] = await Promise.all([
      holdPage(segments[0]!, 'time.sleep(0.25)'),
      holdPage(segments[1]!, 'sys.stdin.read()'),
      holdPage(segments[2]!, 'sys.stdin.read()'),
    ])
    let turns = 0
    const counting = setInterval(() => turns++, 5)
    onTestFinished(() => clearInterval(counting))
    const sealing = segments.map(segment => segment.sealAside())
    // A caller may be done with it before.
    const other = segments[0]!.share()
    segments[0]!.close()
    const held = /EBUSY\): a process maps the segment writable, or holds pages of it/
    await Promise.all(sealing.slice(1).map(each => expect(each).rejects.toThrow(held)))
    await sealing[0]
    expect([other.sealed, segments[1]!.sealed, segments[2]!.sealed]).toEqual([true, false, false])
    expect(turns).toBeGreaterThan(10)
    other.close()
    await Promise.all([briefly, ...forGood].map(({ end }) => end()))
  })

  it('counts as sealed when its seals are sealed too', () => {
    const one = kept(Segment.create(1))
    native.addSeals(one.fd.raw, SEAL_WRITE | SEAL_SEAL)
    one.seal()
    expect(one.sealed).toBe(true)
  })

  it('can be claimed once, which seals it', () => {
    const one = kept(Segment.create(1))
    const other = kept(one.share())
    expect([one.claimed, one.claim(), one.claim(), other.claim()]).toEqual([false, true, false, false])
    expect([other.claimed, other.sealed]).toEqual([true, true])
    const seen = kept(one.readOnly())
    expect([seen.claim(), seen.claimed]).toEqual([false, true])
    expect(() => kept(kept(Segment.create(2)).readOnly()).claim()).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_STATE_SEAL' }),
    )
  })

  it('can neither be written nor sealed through a read-only descriptor', () => {
    const one = kept(Segment.create(1))
    const seen = kept(one.readOnly())
    expect(() => seen.seal()).toThrow(expect.objectContaining({ code: 'ERR_FDB_STATE_SEAL' }))
    expect(seen.append(Buffer.from('abc')).refused).toMatchObject({ code: 'ERR_FDB_STATE_IO' })
    expect([one.sealed, one.size()]).toEqual([false, one.start])
    one.seal()
    expect(seen.sealed).toBe(true)
  })

  it('may be released, after which appends go on, and stays released when it is sealed', () => {
    const one = kept(Segment.create(1))
    expect(one.released).toBe(false)
    expect(one.markReleased()).toBe(true)
    expect(one.markReleased()).toBe(true)
    expect([one.released, one.sealed]).toEqual([true, false])
    expect(one.append(Buffer.from('abc')).refused).toBe(null)
    one.seal()
    expect([one.released, one.sealed]).toEqual([true, true])
  })

  it('does not count as released by being sealed, and cannot be released afterwards', () => {
    const one = kept(Segment.create(1))
    one.seal()
    expect([one.released, one.markReleased(), one.released]).toEqual([false, false, false])
  })

  it('continues behind the last whole record: what was torn is cut, or blanked once it is released', () => {
    for (const release of [false, true]) {
      const one = kept(Segment.create(1))
      one.append(Buffer.from('x'.repeat(10_000)))
      if (release) one.markReleased()
      one.continueAt(one.start + 4)
      expect(one.size()).toBe(release ? one.start + 10_000 : one.start + 4)
      one.append(Buffer.from('new'))
      const found = Buffer.alloc(12)
      const got = native.pread(one.fd.raw, found, 0, 12, one.start)
      expect(found.subarray(0, got).toString()).toBe(release ? 'xxxxnew\0\0\0\0\0' : 'xxxxnew')
    }
  })
})
