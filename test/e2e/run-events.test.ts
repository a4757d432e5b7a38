import { realpathSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { Follower } from '../processes/event-follower.js'
import { Supervised } from '../processes/supervised.js'

describe('the events of fd-broker run', () => {
  it.runIf(NIGHTLY)(
    'tell its orders, its versions and why they fail, in one sequence over the next release of run itself',
    async () => {
      const run = await Supervised.start(['--ready', 'fd', '--restart', 'always', '--restart-delay', '50ms'])
      const follower = new Follower(run.control)
      const since = (number: number) => follower.events.filter(event => event.number > number)
      const typesSince = (number: number) =>
        since(number).map(({ type, generation }) => `${type} ${generation}`)
      const seen = () => follower.events.length
      const ends = (...types: string[]) => types.every(type => typesSince(begun).includes(type))
      let begun = 0
      await follower.has('the first serves', () => ends('version.started 1', 'version.serving 1'))
      begun = seen()
      await run.upgraded()
      await follower.has('the first has ended', () => ends('version.serving 2', 'version.ended 1'))
      expect(since(begun)[0]).toMatchObject({
        type: 'upgrade.ordered',
        pid: run.pid,
        by: { pid: process.pid, uid: process.getuid!(), executable: realpathSync(process.execPath) },
      })
      expect(typesSince(begun).slice(1)).toEqual([
        'version.started 2',
        'version.serving 2',
        'version.ended 1',
      ])
      begun = seen()
      expect((await run.upgrade('--', 'sh', '-c', 'exit 3')).code).not.toBe(0)
      await follower.has('the upgrade has failed', () => ends('upgrade.failed 0', 'version.ended 3'))
      expect(since(begun).find(({ type }) => type === 'version.failed')).toMatchObject({
        generation: 3,
        code: 'ERR_FDB_SUCCESSOR_EXITED',
        reason: expect.stringContaining('ended with code 3 before it served'),
      })
      expect(since(begun).find(({ type }) => type === 'version.ended')).toMatchObject({
        reason: 'with code 3',
      })
      expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
      begun = seen()
      run.signal('SIGWINCH')
      await follower.has('the signal is there', () => ends('signal.forwarded 0'))
      run.signal('SIGHUP')
      await follower.has('the fourth serves', () =>
        ends('upgrade.ordered 0', 'version.serving 4', 'version.ended 2'),
      )
      await fetch(`${run.url}/crash`).catch(() => {})
      await follower.has('another version serves', () => ends('version.serving 5'))
      expect(typesSince(begun)).toEqual(
        expect.arrayContaining(['version.ended 4', 'version.started 5', 'version.serving 5']),
      )
      expect(follower.events.map(({ number }) => number)).toEqual(follower.events.map((_, i) => i + 1))
      expect(follower.stderr).toBe('')
    },
  )
})
