import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../../src/daemon/daemon.js'
import { join, type Member } from '../../../src/index.js'
import type { JoinOptions } from '../../../src/member/options/options.js'
import { ROLLBACK, STOP, stopBody } from '../../../src/operator/service-commands.js'
import { OperatorClient } from '../../../src/operator.js'
import { until } from '../../processes/until.js'

/** The messages to the members of one service, in order. */
interface Service {
  readonly control: string
  readonly story: string[]
  join(options?: Partial<JoinOptions>): Promise<Member>
}

async function service(hosting: 'embedded' | 'daemon', times: JoinOptions['upgrade'] = {}): Promise<Service> {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-duty-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const upgrade = { probation: 60_000, heartbeat: 20, ...times }
  if (hosting === 'daemon') {
    const daemon = await serveDaemon({ control, upgrade })
    onTestFinished(() => daemon.close())
  }
  const story: string[] = []
  return {
    control,
    story,
    async join(options) {
      const member = await join({ service: 'shop', control, hosting, upgrade, ...options })
      onTestFinished(() => member.close({ timeout: 0 }))
      for (const event of ['serving', 'retiring', 'reinstated', 'resumed', 'retired'] as const)
        member.on(event, () => story.push(`${member.generation} ${event}`))
      return member
    },
  }
}

/** The first stands by, the second serves. */
async function probation(hosting: 'embedded' | 'daemon') {
  const { control, story, join } = await service(hosting)
  const first = await join()
  await first.ready()
  const second = await join()
  await second.ready()
  await until('the first stands by', () => first.phase === 'standby')
  return { control, story, join, first, second }
}

/** Work that ends when it is let end. */
function work(member: Member, story: string[]): { end(): void; readonly signal: AbortSignal | undefined } {
  const { generation } = member
  let end!: () => void
  let seen: AbortSignal | undefined
  const ended = new Promise<void>(resolve => {
    end = resolve
  })
  member.whileServing(() => async ({ signal }) => {
    seen = signal
    story.push(`${generation} ends its work`)
    await ended
    story.push(`${generation} has ended it`)
  })
  return {
    end,
    get signal() {
      return seen
    },
  }
}

for (const hosting of ['embedded', 'daemon'] as const) {
  describe(`work that may be done in one process only (${hosting})`, () => {
    it('ends in the old process before the new one serves; the time is told', async () => {
      const { story, join } = await service(hosting)
      const first = await join()
      const job = work(first, story)
      await first.ready()
      const second = await join()
      const ready = second.ready()
      await until('it is asked to end', () => story.includes('1 ends its work'))
      expect(first.phase).toBe('serving')
      await first.section('jobs').put('last', Buffer.from('done'))
      job.end()
      await ready
      await until('the first is told', () => story.includes('1 retiring'))
      expect(story).toEqual(['1 serving', '1 ends its work', '1 has ended it', '2 serving', '1 retiring'])
      expect(Buffer.from(second.section('jobs').get('last')!).toString()).toBe('done')
      expect(job.signal?.aborted).toBe(false)
      if (hosting === 'embedded') {
        expect(first.status().handoffs.at(-1)).toMatchObject({
          quiesce: { ms: expect.any(Number), inTime: true },
        })
        const told = () => second.status().draining.find(({ generation }) => generation === 1)?.quiescedMs
        await until('the second knows', () => told() !== undefined)
        expect(told()).toBeGreaterThan(0)
      }
    })

    it('starts when its process serves, and again when it does so again; its stop is awaited between', async () => {
      const { join } = await service(hosting)
      const first = await join()
      const said: string[] = []
      first.whileServing(async () => {
        said.push('starts')
        await Promise.resolve()
        return () => void said.push('stops')
      })
      await first.ready()
      first.whileServing(() => void said.push('starts at once'))
      expect(said).toEqual(['starts', 'starts at once'])
      const second = await join()
      await second.ready()
      await until('the first stands by', () => first.phase === 'standby')
      expect(said).toEqual(['starts', 'starts at once', 'stops'])
      await second.close()
      await until('it starts again', () => said.length > 3)
      expect(said.slice(3)).toEqual(['starts', 'starts at once'])
      await first.close()
      expect(said.slice(5)).toEqual(['stops'])
    })

    it('starts again the next time if its start throws, with a log line and a count', async () => {
      const { join } = await service(hosting)
      const first = await join()
      let starts = 0
      const stopped: number[] = []
      first.whileServing(() => {
        const start = ++starts
        if (start === 1) throw new Error('no queue yet')
        return () => void stopped.push(start)
      })
      // @ts-expect-error: its start returns no function.
      first.whileServing(() => 'no function')
      await first.ready()
      await until('both are counted', () => first.status().applicationErrors === 2)
      const second = await join()
      await second.ready()
      await second.close()
      await until('the first serves again', () => starts === 2)
      await first.close()
      expect(stopped).toEqual([2])
      // @ts-expect-error: it is no function.
      const wrong = () => first.whileServing(null)
      expect(wrong).toThrow(expect.objectContaining({ code: 'ERR_FDB_OPTION' }))
    })

    it('hears that it did not end in time, and the upgrade goes on', async () => {
      const { story, join } = await service(hosting, { quiesce: 100 })
      const first = await join()
      const job = work(first, story)
      await first.ready()
      await (await join()).ready()
      await until('the first is told', () => story.includes('1 retiring'))
      expect(story).toEqual(['1 serving', '1 ends its work', '2 serving', '1 retiring'])
      expect(job.signal?.aborted).toBe(true)
      if (hosting === 'embedded')
        expect(first.status().handoffs.at(-1)).toMatchObject({ quiesce: { inTime: false } })
      job.end()
    })

    it('begins again when the upgrade fails meanwhile, once it has ended', async () => {
      const { story, join } = await service(hosting)
      const first = await join()
      const job = work(first, story)
      await first.ready()
      const second = await join()
      const failed = expect(second.ready()).rejects.toMatchObject({ code: 'ERR_FDB_CLOSED' })
      await until('it is asked to end', () => story.includes('1 ends its work'))
      await second.close()
      await failed
      await until('its signal tells', () => job.signal?.aborted === true)
      expect(story).not.toContain('1 resumed')
      job.end()
      await until('it begins again', () => story.includes('1 resumed'))
      expect(first.phase).toBe('serving')
      await (await join()).ready()
      await until('the first is told', () => story.includes('1 retiring'))
      expect(story.slice(-3)).toEqual(['1 has ended it', '2 serving', '1 retiring'])
    })

    it('of the last process ends before it leaves, and its listeners hear of it', async () => {
      const { story, join } = await service(hosting)
      const first = await join()
      const job = work(first, story)
      await first.ready()
      const closed = first.close()
      await until('it is asked to end', () => story.includes('1 ends its work'))
      await first.section('jobs').put('last', Buffer.from('done'))
      job.end()
      await closed
      expect(story).toEqual(['1 serving', '1 ends its work', '1 has ended it', '1 retiring', '1 retired'])
    })

    it('an orderly stop in probation ends the service when it is asked to: the old process does not come back', async () => {
      const { story, join, first, second } = await probation(hosting)
      await second.close({ handBack: false })
      expect(await first.retired).toBe('replaced')
      expect(story).toEqual(['1 serving', '2 serving', '1 retiring', ...story.slice(3)])
      expect(story).not.toContain('1 reinstated')
      expect(story.slice(3).sort()).toEqual(['1 retired', '2 retired', '2 retiring'])
      const third = await join()
      await third.ready()
      expect(third.phase).toBe('serving')
    })

    it('an operator’s stop in probation ends the service', async () => {
      const { control, story, first, second } = await probation(hosting)
      using client = await OperatorClient.connect(control)
      await client.command(STOP, stopBody({ timeoutMs: null, drop: false }), { service: 'shop' })
      expect(await Promise.all([first.retired, second.retired])).toEqual(['replaced', 'closed'])
      expect(story).not.toContain('1 reinstated')
    })

    it('begins again if the process to which an operator rolls back ends meanwhile', async () => {
      const { control, story, first, second } = await probation(hosting)
      const job = work(second, story)
      using client = await OperatorClient.connect(control)
      const rolledBack = client.command(ROLLBACK, '', { service: 'shop' })
      const refused = expect(rolledBack).rejects.toMatchObject({ code: 'ERR_FDB_NO_STANDBY' })
      await until('it is asked to end', () => story.includes('2 ends its work'))
      await first.close()
      job.end()
      await refused
      await until('it begins again', () => story.includes('2 resumed'))
      expect(second.phase).toBe('serving')
    })

    it('comes back when the new process closes', async () => {
      const { story, first, second } = await probation(hosting)
      await second.close()
      await until('the first serves again', () => story.includes('1 reinstated'))
      expect(story).toContain('2 retiring')
      expect(first.phase).toBe('serving')
    })
  })
}
