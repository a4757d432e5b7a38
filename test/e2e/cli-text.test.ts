import { describe, expect, it } from 'vitest'
import { durationMs } from '../../src/base/duration.js'
import { formatDuration } from '../../src/cli/output.js'
import { statusText, withAges } from '../../src/cli/status.js'
import { untyped } from '../fixtures/untyped.js'

describe('durations', () => {
  it.each([
    ['500ms', 500],
    ['30s', 30_000],
    ['1.5m', 90_000],
    ['2h', 7_200_000],
  ])('%s is %d ms', (text, ms) => expect(durationMs(text, 1)).toBe(ms))

  it.each(['', '5', 's', '-1s', '0ms', '0.1ms', '1 s', '1e3s', '30S', '600h', 'Infinitys'])(
    '"%s" is none',
    text => expect(durationMs(text, 1)).toBeNull(),
  )

  it.each([
    [0, '0.0s'],
    [59.99, '59.9s'],
    [60, '1m 0s'],
    [3725, '1h 2m'],
    [266_400, '3d 2h'],
    [Number.NaN, '-'],
  ])('%d seconds read %s', (seconds, text) => expect(formatDuration(seconds)).toBe(text))
})

describe('the status for people', () => {
  it('shows every part of a busy service, aligned', () => {
    const now = Date.parse('2026-03-04T12:00:00Z')
    const text = statusText(
      {
        service: 'shop',
        control: '/run/shop/upgrade.sock',
        hosting: 'embedded',
        pid: 4711,
        details: { requests: { perSecond: 1234.4, failed: 2, p99Ms: 25 } },
        generation: 3,
        epoch: 5,
        role: 'serving',
        phase: 'probation',
        uptimeSeconds: 7265,
        connections: 1200,
        processStartedAt: '2026-03-04T11:59:30Z',
        listeners: [
          {
            name: 'web',
            address: 'tcp://0.0.0.0:80',
            accepting: true,
            connections: 1200,
            kinds: { idle: 1190, tunnel: 7, tcp: 3 },
          },
          { name: 'admin', address: 'unix:/run/admin.sock', accepting: false, connections: 0 },
        ],
        moves: {
          moved: 0,
          arrived: 1190,
          lost: 0,
          wave: null,
          refused: {},
          longestGivingMs: 0,
          longestTakingMs: 0,
        },
        draining: [
          {
            pid: 4000,
            generation: 2,
            phase: 'leaving',
            connections: 7,
            kinds: { 'tls1.2': 5, idle: 2 },
            moves: {
              moved: 1190,
              arrived: 0,
              lost: 0,
              wave: null,
              refused: { ERR_FDB_NO_TARGET: 7 },
              longestGivingMs: 0,
              longestTakingMs: 0,
            },
          },
        ],
        sections: [{ name: 'routes', version: 1, entries: 10_000, digest: 'abcdef0123456789' }],
        state: {
          sequence: 10_001,
          digest: '0123456789abcdef',
          entries: 10_000,
          bytes: 1_572_864,
          segments: 2,
          takenOver: null,
          file: {
            path: '/var/lib/shop/state',
            ok: false,
            writing: true,
            lastError: { code: 'ENOSPC', message: 'ENOSPC: no space left on device, write', at: '' },
            behindBytes: 2048,
            sequence: 9000,
            syncedSequence: 8999,
            bytes: 1_000_000,
          },
        },
        lastFailure: { code: 'ERR_FDB_CHECK', phase: 'offering', at: now, message: 'no\ndatabase' },
        blockedBy: [3999],
      },
      now,
    )
    expect(text).toBe(`service       shop
generation    3
pid           4711
epoch         5
role          serving
handoff       probation
control       /run/shop/upgrade.sock (embedded)
uptime        service 2h 1m, process 30.0s
connections   1200, and 7 in older versions
requests      1234/s, 2 failed, 99% within 25 ms (the last seconds)
moves         1190 arrived
state         10000 entries, 1.5 MiB in 2 segments, sequence 10001, digest 0123456789ab
state file    /var/lib/shop/state CANNOT BE WRITTEN, 2.0 KiB are only in memory (sequence 9000, on the disk 8999): ENOSPC: no space left on device, write
last failure  ERR_FDB_CHECK in phase offering at 2026-03-04T12:00:00.000Z: no
              database
blocked by    pid 3999 (may still live: the next upgrade waits until it has ended)

draining
  GENERATION   PID  PHASE    CONNECTIONS  KINDS             MOVES
           2  4000  leaving            7  5 tls1.2, 2 idle  1190 moved, 7 stay (ERR_FDB_NO_TARGET)

listeners
  NAME   ADDRESS               ACCEPTING  CONNECTIONS  KINDS
  web    tcp://0.0.0.0:80      yes               1200  1190 idle, 7 tunnel, 3 tcp
  admin  unix:/run/admin.sock  no                   0  -

sections
  NAME    VERSION  ENTRIES  DIGEST
  routes        1    10000  abcdef012345
`)
  })

  it('shows each service of a daemon, with what is known of it', () => {
    const text = statusText({
      hosting: 'daemon',
      pid: 10,
      services: [
        { service: 'a', pid: null, generation: 4, segments: 2, logBytes: 2048, listeners: [{ name: 'web' }] },
        {},
      ],
    })
    expect(text).toBe(`daemon  2 services
pid     10

service     a
generation  4
pid         none: no process serves
state       2.0 KiB in 2 segments

listeners
  NAME  ADDRESS  ACCEPTING  CONNECTIONS  KINDS
  web   -        -          -            -

service  -
`)
  })

  it('leaves out of the state what a member in another language does not send', () => {
    const shown = (state: object) => statusText(untyped({ service: 'a', segments: 1, logBytes: 100, state }))
    const text = shown({ sequence: 7, digest: 'a'.repeat(64) })
    expect(text).toBe('service  a\nstate    100 B in 1 segment, sequence 7, digest aaaaaaaaaaaa\n')
    expect(shown({})).toBe('service  a\nstate    100 B in 1 segment\n')
  })

  it('shows the other services of a daemon, whatever the member of one reports', () => {
    const odd = JSON.parse('{ "toString": 1, "valueOf": 1 }')
    const fields = ['role', 'draining', 'listeners', 'lastFailure', 'held', 'blockedBy', 'sections', 'moves']
    for (const field of [...fields, 'processStartedAt', 'epoch', 'upgrade', 'openFds', 'supervisor'])
      for (const value of [odd, [odd], [[odd]], [null], null, 'x', 7, { at: odd, code: odd, phase: odd }]) {
        const faulty = { service: 'faulty', pid: 1, lastFailure: { at: 1 }, [field]: value }
        const answer = withAges(
          untyped({ hosting: 'daemon', services: [faulty, { service: 'shop', pid: 2 }] }),
        )
        const text = statusText(answer)
        expect(text, field).toMatch(/^service +faulty$/m)
        expect(text, field).toMatch(/^service +shop$/m)
      }
  })

  it('lets nothing through that moves the cursor', () => {
    expect(statusText({ service: 'a\u001b[2Jb\u0007\r\nc' })).toBe('service  a [2Jb c\n')
  })
})
