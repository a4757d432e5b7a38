import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, realpathSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { EVENT_TYPES, type ServiceEvent } from '../../src/events/events.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { startDaemon } from '../processes/daemon.js'
import { Follower } from '../processes/event-follower.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** For the incumbent, whose limits apply to its successor: the probation lasts until the rollback. */
const LONG = { probation: 60_000, heartbeat: 50, silence: 2_000 }
const TIMES = { probation: 300, heartbeat: 50, silence: 2_000 }

async function ran(control: string, ...args: string[]) {
  const command = [CLI, ...args, '--control', control]
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] })
  const closed = once(child, 'close')
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)])
  const [code] = await closed
  return { code, stderr, stdout }
}

async function printed(control: string, ...args: string[]): Promise<string> {
  const { code, stderr, stdout } = await ran(control, ...args)
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  return stdout
}

/** Each handoff has these; the steps of the serving process before the Commit only if they take time. */
const HANDOFF = ['offered', 'sealed', 'committed', 'serving'].map(step => `handoff.${step}`)
const SHORT = ['handoff.quiescing', 'handoff.freezing']

const FIELDS = [
  'number',
  'at',
  'type',
  'service',
  'pid',
  'generation',
  'process',
  'epoch',
  'phase',
  'code',
  'reason',
  'by',
  'counts',
]

describe('the events of a service', () => {
  it('reach a follower once each, over 5 upgrades and a rollback of unrelated processes', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const apps = [await scene.serve()]
    const follower = new Follower(scene.control)
    await follower.has('the first event', events => events.length > 0)
    for (let i = 0; i < 5; i++) {
      apps.push(await scene.serve(i === 4 ? { upgrade: LONG } : {}))
      await follower.has(
        `upgrade ${i + 1} is kept`,
        () => follower.types.filter(type => type === 'handoff.kept').length > i,
      )
    }
    const sixth = apps.at(-1)!
    const seventh = await scene.serve()
    await follower.has('the seventh serves', events => events.at(-1)?.type === 'handoff.serving')
    await scene.rollback()
    await follower.has('the sixth serves again', () => follower.types.includes('rollback.serving'))
    await follower.has(
      'the seventh has ended',
      events => events.filter(({ type }) => type === 'drain.ended').length >= 5,
    )

    const { events } = follower
    expect(events.map(({ number }) => number)).toEqual(events.map((_, i) => i + 1))
    expect(events[0]).toMatchObject({ type: 'service.started', pid: apps[0]!.pid, generation: 1 })
    const handoffs = follower.types.filter(type => type.startsWith('handoff.') && !SHORT.includes(type))
    expect(handoffs).toEqual([
      ...Array.from({ length: 5 }, () => [...HANDOFF, 'handoff.kept']).flat(),
      ...HANDOFF,
    ])
    const commits = events.filter(({ type }) => type === 'handoff.committed')
    expect(commits.map(event => event.process)).toEqual([...apps.slice(1), seventh].map(({ pid }) => pid))
    const rollback = events.slice(events.findIndex(({ type }) => type === 'rollback.ordered'))
    expect(rollback[0]).toMatchObject({
      pid: seventh.pid,
      by: {
        pid: process.pid,
        uid: process.getuid!(),
        gid: process.getgid!(),
        executable: realpathSync(process.execPath),
      },
    })
    expect(rollback.find(({ type }) => type === 'rollback.started')).toMatchObject({
      pid: sixth.pid,
      process: seventh.pid,
      code: 'ERR_FDB_SUCCESSOR_LEFT',
    })
    expect(follower.stderr).toBe('')

    const kept = (await printed(scene.control, 'history', '--json')).trim().split('\n')
    expect(kept.map(line => JSON.parse(line))).toEqual(events)
    const some = await printed(scene.control, 'events', '--from', String(rollback[0]!.number))
    expect(some).toContain(`rollback.ordered  by process ${seventh.pid} (generation 7)`)
    expect(some.trim().split('\n')).toHaveLength(rollback.length)
  })

  for (const hosting of perLane(['embedded'] as const, ['embedded', 'daemon'] as const))
    it(`can be read after all processes were killed, and go on when the service starts again (${hosting})`, async () => {
      const scene = Scene.open({ hosting, upgrade: TIMES })
      const daemon = hosting === 'daemon' ? await startDaemon(scene, { upgrade: TIMES }) : null
      const apps = [await scene.serve(), await scene.serve()]
      const history = async () => {
        const { code, stderr, stdout } = await ran(scene.control, 'history', '--json', '--service', 'shop')
        expect(code).toBe(0)
        const events = stdout.trim().split('\n')
        return { stderr, events: events.map(line => JSON.parse(line)) as ServiceEvent[] }
      }
      const types = (events: readonly ServiceEvent[]) => events.map(({ type }) => type)
      const before = await until('the second is kept', async () => {
        const { events } = await history()
        return types(events).includes('drain.ended') ? events : null
      })
      await apps[1]!.kill()
      await daemon?.kill()
      const left = await history()
      const file = `${scene.control}${hosting === 'daemon' ? '.shop' : ''}.events`
      expect(left.stderr).toContain(
        `no process of the service runs: these are the events that it has left in ${file}`,
      )
      expect(left.events.slice(0, before.length)).toEqual(before)

      if (daemon !== null) await startDaemon(scene, { upgrade: TIMES })
      await scene.serve()
      const { events, stderr } = await history()
      expect(stderr).toBe('')
      expect(events.map(({ number }) => number)).toEqual(events.map((_, i) => i + 1))
      expect(events.slice(0, left.events.length)).toEqual(left.events)
      expect(types(events.slice(left.events.length))).toContain('service.started')
      const other = await ran(scene.control, 'history', '--service', 'other')
      expect(other.code).not.toBe(0)
    })

  it.runIf(NIGHTLY)(
    'go on in a daemon that was killed, and in the next one: the members bring them back, or the daemon hands them over',
    async () => {
      const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES })
      const daemon = await startDaemon(scene, { upgrade: TIMES })
      const first = await scene.serve()
      const follower = new Follower(scene.control)
      await follower.has('the first serves', () => follower.types.includes('handoff.serving'))
      const second = await scene.serve()
      await follower.has('the second is kept', () => follower.types.includes('handoff.kept'))
      await daemon.kill()
      const restarted = await startDaemon(scene, { upgrade: TIMES })
      await follower.has('the daemon knows the second', () => follower.types.includes('daemon.restarted'))
      const third = await scene.serve({ upgrade: LONG })
      const kept = () => follower.types.filter(type => type === 'handoff.kept').length
      await follower.has('the third is kept', () => kept() === 2)
      const next = await startDaemon(scene, { upgrade: TIMES, takeOver: true })
      await restarted.end(20_000)
      const fourth = await scene.serve()
      await follower.has(
        'the fourth serves',
        events => events.at(-1)?.type === 'handoff.serving' && kept() === 2,
      )
      await scene.rollback()
      await follower.has('the third serves again', () => follower.types.includes('rollback.serving'))
      await third.kill()
      await follower.has('no member serves', () => follower.types.includes('service.unserved'))

      const { events } = follower
      expect(events.map(({ number }) => number)).toEqual(events.map((_, i) => i + 1))
      const commits = events.filter(({ type }) => type === 'handoff.committed')
      expect(commits.map(event => event.process)).toEqual(
        [first, second, third, fourth].map(({ pid }) => pid),
      )
      expect(commits.map(({ pid }) => pid)).toEqual([daemon, daemon, restarted, next].map(({ pid }) => pid))
      expect(events.find(({ type }) => type === 'rollback.ordered')).toMatchObject({
        pid: next.pid,
        by: { pid: process.pid, uid: process.getuid!(), executable: realpathSync(process.execPath) },
      })
      expect(events.findLast(({ type }) => type === 'service.unserved')).toMatchObject({ process: third.pid })
      expect(follower.stderr).toBe('')
      // An event with further fields, such as all members of the service, may not fit into its record, and then is missing.
      const fields = new Set(events.flatMap(event => Object.keys(event)))
      for (const field of FIELDS) fields.delete(field)
      expect([...fields]).toEqual([])
    },
  )

  it('stand in docs/operating.md with their meaning', () => {
    const page = readFileSync(new URL('../../docs/operating.md', import.meta.url), 'utf8')
    const rows = Object.entries(EVENT_TYPES).map(([type, meaning]) => `| \`${type}\` | ${meaning} |\n`)
    expect(page).toContain(`| Event | Meaning |\n|---|---|\n${rows.join('')}\n`)
  })

  it('wait for a follower that is stopped, which holds up no handoff', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    await scene.serve()
    const follower = new Follower(scene.control)
    await follower.has('the first event', events => events.length > 0)
    follower.child.kill('SIGSTOP')
    for (let i = 0; i < 2; i++) {
      const app = await scene.serve()
      await scene.statusWhere(
        'it has been released',
        ({ pid, draining }) => pid === app.pid && draining.length === 0,
      )
    }
    const seen = follower.events.length
    follower.child.kill('SIGCONT')
    await follower.has(
      'the second is kept',
      () => follower.types.filter(type => type === 'handoff.kept').length === 2,
    )
    expect(follower.events.length).toBeGreaterThan(seen + 10)
    expect(follower.events.map(({ number }) => number)).toEqual(follower.events.map((_, i) => i + 1))
  })
})
