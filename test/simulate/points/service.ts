import type { Code } from '../globals.js'
import type { Origin, SimulatedProcess } from '../process.js'
import { remains } from '../scenario/census.js'
import { type History, Lasts, startClient } from '../scenario/client.js'
import { DAEMON_SCRIPT, Daemons } from '../scenario/daemon.js'
import { Endings } from '../scenario/endings.js'
import { Ledger } from '../scenario/ledger.js'
import { startOperator } from '../scenario/operator.js'
import { CONTROL, OnceOnlyWork, startVersion, type Version } from '../scenario/program.js'
import type { Act, Schedule, Who } from '../scenario/schedule.js'
import { phaseOf, verdict } from '../scenario/verdict.js'
import { World } from '../world.js'
import { type Census, censusOf, differences, STATE, tooManyPidfds } from './descriptors.js'
import type { Point, Trouble } from './point.js'
import { MESSAGES, Tap } from './tap.js'

const SEED = 1
/** Far more than a run has whose trouble lasts long. */
const MOST_STEPS = 200_000
/** The first client is the one whose connections stay. */
const CLIENTS = [1, 2]
const START_MS = 5_000
const PROBATION_MS = 400
/** An order is answered, also by a process that was stopped. */
const ANSWER_MS = 25_000
/** By then the probation has ended, and the replaced version has left. */
const CALM_MS = 1_000
/** A service without requests is at rest after so long, also after trouble. */
const REST_MS = 6_000
/** A failed write of the state file is repeated after so long at the latest. */
const LONG_REST_MS = 12_000
const SOON_MS = 300
/** Processes that were stopped run again. */
const AGAIN_MS = 4_000
/** Including the rollback, changes wait for a next version for less than this. */
const WAIT_MS = 2_000
const WATCHES = ['pidfds', 'polls', 'timers']
const FILES = ['files', 'locked files']
const LASTING = /^ERR_FDB_(?:DEADLINE|CHANNEL_)/
const GOES_ON = /goes on with once-only work/
const REMOVES = /^(?:rm|unlink)/
const FILE = /^the file .* remains$/
const WHEN = ['before the trouble', 'after the trouble', 'at the end']

/** The parts of a scenario that has a service with one version. */
export interface ServiceScenario {
  readonly hosting: 'embedded' | 'daemon'
  /** Default {@link PROBATION_MS}. */
  readonly probation?: number
  /** Brings the service to the moment at which the trouble may begin. */
  readonly before?: (run: ServiceRun) => void
  /** The acts during which the trouble may happen. */
  readonly during: (run: ServiceRun) => void
  /** The act can be repeated: an upgrade. */
  readonly repeats?: true
}

/** The result of one run. */
export interface Played {
  readonly world: World
  readonly wrong: readonly string[]
  /** The name of the call at which the trouble has happened; null if it has not. */
  readonly at: string | null
  /** The censuses before the trouble, after it and at the end. */
  readonly censuses: readonly Censuses[]
}

/** The censuses at one moment, by the part of each process. */
interface Censuses {
  /** The number of successful upgrades since the service has begun, and which version serves. */
  readonly since: string
  readonly parts: ReadonlyMap<string, Census>
}

type Order = 'upgrade' | 'upgrade daemon' | 'rollback' | 'status'

interface Answer {
  pid: number | null
  done: boolean
  error: Error | null
  isOver(): boolean
}

/** A run of a scenario, with the trouble of one point, or none. */
export interface PlayableRun {
  readonly world: World
  readonly tap: Tap
  /** `usual`: the censuses of a run without trouble. */
  run(usual: Played['censuses'] | null): Played
}

/** Plays a scenario with a service of one version, with the trouble of one point, or none. */
export class ServiceRun implements PlayableRun {
  readonly world: World
  readonly tap: Tap
  readonly versions = new Map<string, Version>()
  daemons: Daemons | null = null
  readonly #code: Code
  readonly #scenario: ServiceScenario
  readonly #point: Point | null
  readonly #ledger = new Ledger()
  readonly #work = new OnceOnlyWork()
  readonly #clients: { readonly p: SimulatedProcess; readonly history: History }[] = []
  readonly #wrong: string[] = []
  readonly #censuses: Censuses[] = []
  /** B begins to serve. */
  onCommit: () => void = () => {}
  /** A version is ready: from then on the present one may freeze, and changes wait. */
  onReady: (p: SimulatedProcess) => void = () => {}
  /** While the clients are stopped for a census, they wait for themselves. */
  readonly #restedAt: number[] = []
  /** The name of the version that starts next. */
  #next = 'A'
  /** The same for daemons that take over. */
  #nextDaemon = 'T'
  /** The act is repeated, and with it the trouble. */
  readonly #twice: boolean

  constructor(code: Code, scenario: ServiceScenario, point: Point | null, trace: boolean, twice = false) {
    this.#twice = twice
    this.#code = code
    this.#scenario = scenario
    this.#point = point
    this.tap = new Tap(point)
    this.world = new World({ seed: SEED, trace, partial: 0, mostSteps: MOST_STEPS })
    this.world.tap = this.tap
  }

  /** `usual`: the censuses of a run without trouble. */
  run(usual: Played['censuses'] | null): Played {
    const { world, tap } = this
    const { hosting, before, during } = this.#scenario
    world.execute = origin => this.#execute(origin)
    const endings = new Endings(world, { versions: () => this.versions.values(), mayEnd: () => false })
    if (hosting === 'daemon') this.daemons = new Daemons(this.#code, world)
    const A = this.start()
    if (!world.run(() => A.hasServed, START_MS))
      throw new Error(
        `the first version does not serve: ${A.p.failures.map(each => each.stack)} ${world.story.join('\n')}`,
      )
    const lasts = new Lasts(Math.max(...CLIENTS) + 1)
    lasts.mayLag = () => this.daemons?.mayLag ?? false
    this.#ledger.onStartedAgain = () => lasts.startAgain()
    for (const index of CLIENTS) {
      const history = startClient(this.#code, world, lasts, index, false)
      this.#clients.push({ p: [...world.processes.values()].at(-1)!, history })
    }
    world.run(() => false, 400)
    this.#takeCensus()
    before?.(this)
    tap.begin(world.now)
    during(this)
    if (this.#twice) this.#repeat()
    world.run(() => false, CALM_MS)
    tap.end()
    this.#takeCensus()
    const tookOver = this.#startLast()
    world.run(() => false, CALM_MS)
    this.#takeCensus()
    // The clients have their last answers.
    world.run(() => false, SOON_MS)
    return {
      world,
      at: tap.played,
      censuses: this.#censuses,
      wrong: [
        ...this.#wrong,
        ...this.#verdict(tookOver),
        ...this.#failures(),
        ...this.#waits(),
        ...endings.wrong,
        ...(usual === null ? [] : this.#compare(usual)),
        ...this.#remains(),
        ...(tap.spins ? [`${tap.played}() is repeated without a pause`] : []),
      ],
    }
  }

  /** Does once more what the scenario does, when all processes run. */
  #repeat(): void {
    const { tap, world } = this
    world.run(() => false, CALM_MS)
    tap.end()
    world.run(() => false, AGAIN_MS)
    const { process } = this.#point ?? {}
    if (tap.played !== null) tap.again(this.#sameAs(process!))
    this.#scenario.during(this)
  }

  /** The name of the process that has the part now that `process` has had at first. */
  #sameAs(process: string): string {
    if (process === 'S') return this.daemons!.living[0]?.name ?? process
    if (process === 'T') return this.#nextDaemon
    if (!/^[A-K]$/.test(process)) return process
    const serving = [...this.versions.values()].find(version => phaseOf(version) === 'serving')
    if (process === 'A') return serving?.p.name ?? process
    return letter(this.#next, process.charCodeAt(0) - 'B'.charCodeAt(0))
  }

  start(origin: Partial<Origin> = {}): Version {
    const name = this.#next
    this.#next = letter(name, 1)
    const options = {
      probation: this.#scenario.probation ?? PROBATION_MS,
      hosting: this.#scenario.hosting,
      onPhase: (phase: string) => {
        if (name === 'B' && phase === 'beginning') this.world.after(0, () => this.onCommit())
        if (phase === 'ready') this.world.after(0, () => this.onReady(version.p))
      },
      ledger: this.#ledger,
    }
    const version = startVersion(this.#code, name, this.world, this.#work, options, origin)
    this.versions.set(name, version)
    return version
  }

  /** Gives an order, and waits for its answer. */
  order(what: Order): Answer {
    const answer = this.give(what)
    const isAnswered = this.world.run(() => answer.isOver(), ANSWER_MS)
    if (!isAnswered) this.#wrong.push(`the order "${what}" has no answer`)
    return answer
  }

  /** Gives an order. */
  give(what: Order): Answer {
    const { world } = this
    const answer: Answer = {
      pid: null,
      done: false,
      error: null,
      isOver: () => answer.done || answer.error !== null || operator.dead,
    }
    const operator = startOperator(this.#code, world, what, {
      upgraded: pid => {
        answer.pid = pid
      },
      done: () => {
        answer.done = true
      },
      status: () => {
        answer.done = true
      },
      failed: (_, error) => {
        answer.error = error
      },
    })
    return answer
  }

  /** Orders a rollback: then A serves, or the answer says why it does not. */
  rollBack(): void {
    const { done, error } = this.order('rollback')
    this.world.run(() => false, SOON_MS)
    const A = this.versions.get('A')!
    if (done && !A.p.dead && phaseOf(A) !== 'serving')
      this.#wrong.push(`the answer to "rollback" is that it has happened, and A is ${phaseOf(A)}`)
    if (error !== null) this.#judge('rollback', error)
  }

  /** Gives an order to upgrade, whose answer must say what has happened. */
  upgrade(what: 'upgrade' | 'upgrade daemon' = 'upgrade'): Answer {
    const { world } = this
    const answer = this.order(what)
    world.run(() => false, 100)
    const { pid, error } = answer
    if (pid !== null) {
      const p = world.processes.get(pid)
      const version = [...this.versions.values()].find(each => each.p === p)
      const serves = p !== undefined && (version?.hasServed === true || this.daemons?.serves(p) === true)
      if (!serves && p?.dead !== true)
        this.#wrong.push(`the answer to "${what}" names process ${pid}, which does not serve`)
    }
    if (error !== null) this.#judge(what, error)
    return answer
  }

  /** The error of an order says which call has failed. */
  #judge(what: string, error: Error): void {
    const { code = '' } = error as { code?: string }
    if (!/^ERR_FDB_/.test(code)) this.#wrong.push(`the answer to "${what}" is ${code} ${error.message}`)
    const { trouble } = this.#point ?? {}
    this.world.note(this.world.processes.values().next().value!, `answer: ${describe(error)}`)
    if (trouble?.what !== 'fails' || this.tap.played === null) return
    if (!this.#isTold(code, error, trouble))
      this.#wrong.push(`the answer to "${what}" does not name ${trouble.code}: ${describe(error)}`)
  }

  /** Whether an operator can find out which call has failed. */
  #isTold(code: string, error: Error, { code: errno, always }: Trouble & { what: 'fails' }): boolean {
    if (describe(error).includes(errno)) return true
    // The process that must answer has lost the connection.
    if (code === 'ERR_FDB_CHANNEL_CLOSED') return true
    // A call that fails again and again is repeated until the time has run out, or costs each connection; the answer says what did not happen.
    const isLate = (each: unknown) => always && LASTING.test((each as { code?: string }).code ?? '')
    if (isLate(error)) return true
    if (!code.startsWith('ERR_FDB_SUCCESSOR_') && code !== 'ERR_FDB_NO_STANDBY') return false
    // The next version has written its own error, to which the answer refers; the present one has logged why it has refused that one, and a standby why it does not serve.
    const own = [...this.versions.values()].flatMap(({ p }) => p.failures)
    const told = [...own, ...(this.daemons?.refusals ?? []), ...this.tap.logged]
    return told.some(each => describe(each).includes(errno) || isLate(each))
  }

  /** After the trouble one more upgrade must succeed; if no version lives, or the one that serves is killed while others leave, a start. */
  #startLast(): boolean {
    const { world } = this
    const isKilled = this.#point?.trouble.what.startsWith('dies') === true
    const phases = [...this.versions.values()].map(phaseOf)
    const isAny = phases.some(phase => phase !== 'dead' && !(isKilled && phase === 'leaving'))
    this.#next = 'L'
    if (!isAny) this.start()
    else {
      const { error } = this.order('upgrade')
      if (error !== null) this.#wrong.push(`the second upgrade fails: ${describe(error)}`)
    }
    return world.run(() => this.versions.get('L')?.hasServed === true, 1_000)
  }

  #execute(origin: Origin): SimulatedProcess {
    if (origin.script !== DAEMON_SCRIPT) return this.start(origin).p
    const name = this.#nextDaemon
    this.#nextDaemon = letter(name, 1)
    return this.daemons!.upgrade(name, origin)
  }

  /** Counts what the serving version, and the daemon, have. */
  #takeCensus(): void {
    const { world } = this
    const { trouble } = this.#point ?? {}
    const hasFailed = this.tap.played !== null && trouble?.what === 'fails' && trouble.always
    const restMs = hasFailed ? LONG_REST_MS : REST_MS
    this.#restedAt.push(world.now)
    for (const { p } of this.#clients) world.stop(p, restMs + 1)
    world.run(() => false, restMs)
    const census = new Map<string, Census>()
    const serving = [...this.versions.values()].find(version => phaseOf(version) === 'serving')
    if (serving !== undefined) census.set('the version', censusOf(serving.p))
    const [daemon] = this.daemons?.living ?? []
    if (daemon !== undefined) {
      census.set('the daemon', censusOf(daemon))
      this.#wrong.push(...tooManyPidfds(daemon))
      const noted = textOf(world, `${CONTROL}.members`)
      // The next daemon waits for the members in this file.
      if (serving !== undefined && !noted.includes(`"pid":${serving.p.pid},`))
        this.#wrong.push(`the file of members does not name ${serving.p.name}: ${noted}`)
    }
    const served = [...this.versions.values()].filter(({ hasServed }) => hasServed)
    const begun = served.findLastIndex(({ first }) => first)
    const name = serving?.p.name ?? 'none'
    this.#censuses.push({ since: `${served.length - 1 - begun} upgrades, ${name}`, parts: census })
  }

  #compare(usual: Played['censuses']): string[] {
    return this.#censuses.flatMap(({ since, parts }, at) => {
      const same = usual.find(each => each.since === since)
      if (same === undefined) return []
      return [...parts].flatMap(([part, has]) => {
        // A second time there are as many segments again, until they are merged.
        const rounds = this.#twice ? 2 : 1
        const most = rounds * Math.max(...usual.map(each => each.parts.get(part)?.get(STATE) ?? 0))
        const expected = new Map(same.parts.get(part)).set(STATE, most)
        // With a full disk a version writes the present state file, and keeps the next one that it has begun.
        const { trouble } = this.#point ?? {}
        if (trouble?.what === 'fails' && trouble.code === 'ENOSPC')
          for (const kind of FILES) expected.set(kind, has.get(kind) ?? 0)
        // Processes that have got no pidfd poll each other.
        const hasNone = trouble?.what === 'fails' && (trouble.always || (has.get('pidfds') ?? 0) === 0)
        if (hasNone && this.tap.played === 'pidfdOpen')
          for (const kind of WATCHES) expected.set(kind, has.get(kind) ?? 0)
        return differences(`${WHEN[at]}, ${since}, ${part}`, has, expected)
      })
    })
  }

  #verdict(tookOver: boolean): string[] {
    const wrong = verdict({
      world: this.world,
      schedule: this.#schedule,
      versions: this.versions,
      daemons: this.daemons?.all ?? [],
      clients: this.#clients.map(({ history }) => history),
      tookOver,
      work: this.#work,
      forgotten: null,
      ledger: this.#ledger,
      ended: null,
    })
    // Without a connection a version looks every 100 ms whether another one has the right.
    const { trouble } = this.#point ?? {}
    const isCut = trouble?.what === 'fails' && trouble.always && MESSAGES.has(this.tap.played ?? '')
    return isCut ? wrong.filter(text => !GOES_ON.test(text)) : wrong
  }

  /** The trouble as a schedule has it. */
  get #schedule(): Schedule {
    const { trouble, process, n } = this.#point ?? {}
    const what = (
      { fails: 'lack', 'dies before': 'kill', 'dies after': 'kill', 'stops after': 'stop' } as const
    )[trouble?.what as 'fails']
    const acts: Act[] = what === undefined ? [] : [{ what, who: process as Who, call: n! }]
    return { kind: 'kill', hosting: this.#scenario.hosting, ordered: true, stateFile: true, acts }
  }

  /** No change waits longer for a next version that is stopped, and never serves, than {@link WAIT_MS}: the handoff fails before that. */
  #waits(): string[] {
    const { trouble, process = '' } = this.#point ?? {}
    const isOfNext = trouble?.what === 'stops after' && this.versions.get(process)?.hasServed === false
    if (trouble !== undefined && !isOfNext) return []
    const late = this.#clients.flatMap(({ history }) =>
      history.acknowledged.filter(
        ({ askedAt, at }) =>
          at - askedAt > WAIT_MS && !this.#restedAt.some(rested => rested >= askedAt && rested <= at),
      ),
    )
    return late.map(
      ({ askedAt, at }) => `a change of ${askedAt.toFixed(3)} has waited ${(at - askedAt).toFixed(0)} ms`,
    )
  }

  /** A version may only fail before it serves, and once. */
  #failures(): string[] {
    return [...this.versions.values()].flatMap(({ p, hasServed }) =>
      p.failures
        .slice(hasServed ? 0 : 1)
        .map(failure => `${p.name} ${hasServed ? 'has served, and ' : ''}fails: ${failure.message}`),
    )
  }

  #remains(): string[] {
    const phases = [...this.versions.values()].map(version => [version.p.name, phaseOf(version)] as const)
    const left = phases.filter(([, phase]) => phase !== 'serving' && phase !== 'dead')
    const living = [...this.versions.values()].map(({ p }) => p).filter(({ dead }) => !dead)
    const { trouble } = this.#point ?? {}
    // The file could not be removed.
    const mayStay = trouble?.what === 'fails' && REMOVES.test(this.tap.played ?? '')
    return [
      ...left.map(([name, phase]) => `${name} remains, ${phase}`),
      ...remains(this.world, this.daemons?.living ?? [], living).filter(each => !mayStay || !FILE.test(each)),
    ]
  }
}

/** The letter that comes `by` after another one. */
function letter(from: string, by: number): string {
  return String.fromCharCode(from.charCodeAt(0) + by)
}

function textOf({ kernel }: World, path: string): string {
  const inode = kernel.names.get(path)
  return inode === undefined ? '' : inode.data.toString('utf8', 0, inode.size)
}

/** The text of an error with its causes. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { code = '', cause, details } = error as Error & { code?: string; details?: object }
  const more = details === undefined ? '' : ` ${JSON.stringify(details)}`
  return `${code} ${error.message}${more}${cause === undefined ? '' : ` < ${describe(cause)}`}`
}
