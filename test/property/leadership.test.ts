import { expect, it } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { Leadership, type StopWork } from '../../src/member/lifecycle/leadership.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

type Step =
  | { readonly what: 'acquire' | 'quiesce' | 'retire' | 'add' }
  | { readonly ends: number; readonly throws: boolean }

/** All that follows from the end of a start or a stop without a further one. */
const turn = () => new Promise(resolve => setImmediate(resolve))

const FAILURE = new Error('the work fails')

/** The work of one process, whose starts and stops last until the script ends them. */
class Process {
  readonly wrong: string[] = []
  readonly #works: { isRunning: boolean; hasFailed: boolean }[] = []
  /** Starts and stops that last. */
  #lasting: ((throws: boolean) => void)[] = []
  #mayWork = false
  /** Another process serves. */
  #isRetired = false
  /** How often this process has begun to serve. */
  #turns = 0
  /** Whether the application was told last that this process serves. */
  #isTold = false
  readonly #leadership = new Leadership(
    event => this.#hear(event),
    error => error !== FAILURE && this.wrong.push(String(error)),
    SILENT,
  )

  async play(steps: readonly Step[]): Promise<void> {
    for (const step of steps) {
      if ('ends' in step)
        this.#lasting.splice(step.ends % Math.max(1, this.#lasting.length), 1)[0]?.(step.throws)
      else this.#do(step.what)
      await turn()
    }
    while (this.#lasting.length > 0) {
      this.#lasting.shift()!(false)
      await turn()
    }
    for (const [at, { hasFailed, isRunning }] of this.#works.entries())
      if (isRunning !== (this.#mayWork && !hasFailed))
        this.wrong.push(`at the end work ${at} ${isRunning ? 'runs' : 'does not run'}`)
    if (this.#mayWork && !this.#isTold)
      this.wrong.push('at the end the application is not told that it serves')
    if (this.#isRetired && this.#isTold)
      this.wrong.push('at the end the application is not told that another process serves')
  }

  #do(what: 'acquire' | 'quiesce' | 'retire' | 'add'): void {
    switch (what) {
      case 'add':
        this.#add()
        return
      case 'acquire':
        this.#mayWork = true
        this.#isRetired = false
        this.#turns++
        this.#leadership.acquire()
        return
      case 'quiesce':
        this.#quiesce()
        return
      case 'retire':
        // A handoff ends the work first; this process may be the one that ends.
        this.#quiesce()
        this.#isRetired = true
        this.#leadership.retire()
    }
  }

  #quiesce(): void {
    this.#mayWork = false
    const turns = this.#turns
    const check = () => {
      const all = this.#works.filter(({ isRunning }) => isRunning)
      // If this process has served again, a later handoff asks once more.
      if (turns === this.#turns && all.length > 0)
        this.wrong.push(`${all.length} run, and another process may serve`)
    }
    const done = this.#leadership.quiesce()
    if (done === undefined) check()
    else void done.then(check)
  }

  /** Each second work starts at once. */
  #add(): void {
    const work = { isRunning: false, hasFailed: false }
    const at = this.#works.push(work) - 1
    // Work whose stop throws counts as stopped, and so does work whose start throws, until this process begins to serve again.
    const stop: StopWork = () =>
      this.#lasts(throws => {
        this.#change(at, false)
        if (throws) throw FAILURE
      })
    this.#leadership.add(() => {
      this.#change(at, true)
      work.hasFailed = false
      const isStarted = (throws: boolean) => {
        if (!throws) return stop
        work.hasFailed = true
        this.#change(at, false)
        throw FAILURE
      }
      return at % 2 === 0 ? stop : this.#lasts(isStarted)
    })
  }

  #change(at: number, isRunning: boolean): void {
    const work = this.#works[at]!
    if (work.isRunning === isRunning) this.wrong.push(`work ${at} ${isRunning ? 'starts' : 'stops'} twice`)
    if (isRunning && !this.#mayWork) this.wrong.push(`work ${at} starts, and another process may serve`)
    work.isRunning = isRunning
  }

  #lasts<T>(end: (throws: boolean) => T): Promise<T> {
    return new Promise<boolean>(resolve => this.#lasting.push(resolve)).then(end)
  }

  #hear(event: string): void {
    const serves = event !== 'retiring'
    if (serves && !this.#mayWork) this.wrong.push(`"${event}" is told, and another process may serve`)
    this.#isTold = serves
  }
}

const STEPS: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.constantFrom<Step>({ what: 'acquire' }, { what: 'quiesce' }, { what: 'retire' }, { what: 'add' }),
    fc.record({ ends: fc.nat(5), throws: fc.boolean() }),
  ),
  { maxLength: 16 },
)

it('work of whileServing() runs once, and only while its process serves, whenever its starts and stops end', async () => {
  const property = fc.asyncProperty(STEPS, async steps => {
    const process = new Process()
    await process.play([{ what: 'add' }, { what: 'add' }, ...steps])
    expect(process.wrong).toEqual([])
  })
  await fc.assert(property, { numRuns: perLane(1_500, 50_000) })
})
