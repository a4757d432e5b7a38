/** A machine that leaves its balancer before a reboot. `fd-broker drain` sends the steps. */
import { readFileSync } from 'node:fs'
import { shortJson } from '../checks/place.js'
import { codec, defineSection, FdbError, type Member, type Section } from '../index.js'
import type { Respond } from '../relay/index.js'

export const DRAIN_COMMAND = 'drain'

/**
 * `serving`: the machine does not leave. `unready`: the balancer's checks get 503, and all other requests are served. `leaving`: each answer is also the last
 * of its connection. `ended`: the proxy also ends tunnels.
 */
export const STEPS = ['serving', 'unready', 'leaving', 'ended'] as const
export type Step = (typeof STEPS)[number]

export interface DrainReply {
  /** `serving` also if the machine was told to serve again before this step. */
  step: Step
  /** The path that the balancer asks for; null without the key `ready`. */
  ready: string | null
  /** `drain.timeout` of the configuration, in milliseconds. */
  timeout: number
}

/** A step is in force until the machine boots again. */
interface Stored {
  readonly step: Step
  readonly boot: string
}

const MACHINE = 'machine'
const machineSection = defineSection({ version: 1, codec: codec.json<Stored>() })
const KEY = 'leaving'

const answer = (status: number, body: string): Respond => ({
  kind: 'respond',
  status,
  headers: [
    ['Content-Type', 'text/plain'],
    ['Cache-Control', 'no-store'],
  ],
  body,
  unlogged: true,
})
export const READY = answer(200, 'ready\n')
export const UNREADY = answer(503, 'leaving\n')

/** The step of this machine, which all workers and versions of the proxy share. */
export class Leaving {
  readonly #section: Section<Stored>
  readonly #boot = bootId()
  readonly #unsubscribe: () => void
  #step: Step

  constructor(member: Pick<Member, 'section'>, changed: () => void) {
    this.#section = member.section(MACHINE, machineSection)
    this.#step = this.#read()
    this.#unsubscribe = this.#section.onChange(() => {
      this.#step = this.#read()
      changed()
    })
  }

  get step(): Step {
    return this.#step
  }

  /** Takes a step ('': none), except a later one of a machine that serves again. Resolves with the step in force. Rejects with ERR_FDB_OPTION. */
  async take(given: string): Promise<Step> {
    if (given === '') return this.#step
    const step = STEPS.find(each => each === given)
    if (step === undefined) throw new FdbError('ERR_FDB_OPTION', `${shortJson(given)} is no step`)
    if (step === 'serving') await this.#section.delete(KEY)
    else if (step === 'unready' || this.#step !== 'serving')
      await this.#section.put(KEY, { step, boot: this.#boot })
    // Reading the size notifies the listeners of this turn's changes.
    void this.#section.size
    return this.#step
  }

  stop(): void {
    this.#unsubscribe()
  }

  #read(): Step {
    const stored = this.#section.get(KEY)
    return stored?.boot === this.#boot && STEPS.includes(stored.step) ? stored.step : 'serving'
  }
}

/** Differs after each boot of the kernel; '' if it cannot be read. */
function bootId(): string {
  try {
    return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()
  } catch {
    return ''
  }
}
