import type { Rules } from '../../src/handoff/rules.js'
import { BOUNDS, type Bounds } from './bounds.js'

/** Where the absence of a rule does harm, and which. */
export interface Need {
  readonly parties: 2 | 3
  readonly bounds: Partial<Bounds>
  readonly harm: RegExp
  /** Another one. */
  readonly also?: RegExp
  /** The harm comes after more than 40,000 states: the gate leaves the search to the night. */
  readonly far?: true
}

const WRITERS = /^two writers that are not fenced/
const LOST = /^an acknowledged change is lost/
const REFUSED = /^refused: .* closes the last listener/
const NOBODY = /^nobody accepts/
const TURNED_AWAY = /^nobody may write: P\d was turned away/

/** No operator, and fewer segments, as the two kills come first. */
const TWO_KILLS = { segments: 4, crash: 2, stop: 0, cut: 0, back: 0, atomic: true }
const FAILING = { fail: 1, crash: 0, stop: 0, cut: 0 }

export const NEEDED: Readonly<Partial<Record<keyof Rules, Need>>> = {
  sealFirst: { parties: 2, bounds: {}, harm: WRITERS },
  sealDecides: { parties: 2, bounds: {}, harm: WRITERS },
  grace: { parties: 2, bounds: {}, harm: REFUSED },
  serveOnAfterEof: { parties: 2, bounds: {}, harm: NOBODY },
  release: { parties: 2, bounds: { processes: 3, stop: 0, cut: 0, atomic: true }, harm: WRITERS },
  gone: { parties: 2, bounds: { processes: 3, crash: 0, stop: 0, cut: 0, atomic: true }, harm: WRITERS },
  thawSeal: { parties: 2, bounds: {}, harm: LOST },
  quiesceFirst: { parties: 2, bounds: { work: true }, harm: /^two work at once/ },
  workAgain: { parties: 2, bounds: { work: true }, harm: /^nobody works/ },
  requestId: {
    parties: 2,
    bounds: { forward: true },
    harm: /^a change is applied twice/,
    also: /^a forwarded change is applied twice/,
  },
  refuseUnsent: {
    parties: 2,
    bounds: { forward: true, writes: 0, crash: 0, stop: 0, cut: 0 },
    harm: /^a forwarded change is refused, and made/,
  },
  sharedSegment: { parties: 2, bounds: {}, harm: WRITERS },
  sharedWayBack: { parties: 2, bounds: {}, harm: LOST },
  moveLog: { parties: 2, bounds: { connection: true }, harm: /^connection closed/ },
  acceptFirst: { parties: 2, bounds: {}, harm: NOBODY },
  releaseByHealth: { parties: 2, bounds: {}, harm: REFUSED },
  promote: { parties: 2, bounds: {}, harm: REFUSED },
  forceSeal: { parties: 3, bounds: {}, harm: /^a stopped incumbent blocks the upgrade/ },
  shareAll: { parties: 3, bounds: TWO_KILLS, harm: LOST, far: true },
  spare: { parties: 3, bounds: TWO_KILLS, harm: LOST, far: true },
  ackBack: { parties: 3, bounds: { crash: 0, stop: 0, cut: 0, atomic: true }, harm: NOBODY },
  retryReturn: { parties: 3, bounds: {}, harm: /^stuck/ },
  orphanAccepts: {
    parties: 3,
    bounds: { cut: 0, back: 0, atomic: true },
    harm: /^black hole/,
    far: true,
  },
  joinerAccepts: { parties: 3, bounds: {}, harm: /^black hole/ },
  noSelfPromotion: { parties: 3, bounds: { stop: 0, cut: 0, atomic: true }, harm: WRITERS },
  sealRest: { parties: 3, bounds: { stop: 0, cut: 0 }, harm: LOST },
  // A successor that was not attached (no process accepts), and a way back that could not be taken (no process writes).
  begun: { parties: 2, bounds: FAILING, harm: NOBODY, also: TURNED_AWAY },
  unfit: { parties: 2, bounds: FAILING, harm: /^stuck generation: P\d in unfit/ },
  awaitVerdict: { parties: 2, bounds: FAILING, harm: TURNED_AWAY },
  untaken: {
    parties: 2,
    bounds: { ...FAILING, fail: 0, absent: 1, processes: 3 },
    harm: /^blocked by one that was given nothing/,
  },
  backAgain: { parties: 3, bounds: { fail: 1, cut: 0, stop: 0 }, harm: /^stuck handoff: rebuilding/ },
  rebuildWaits: {
    parties: 3,
    bounds: { writes: 0, stop: 0, back: 0, segments: 6, atomic: true },
    harm: WRITERS,
    far: true,
  },
}

/** Rules that choose between outcomes that are both sound. */
export const POLICY: Readonly<Partial<Record<keyof Rules, string>>> = {
  needOther:
    'the right given to a member without a channel comes back by the deadline of the way back: it costs a detour',
}

/** Rules that say what the kernel can do: the world of the exploration has a kernel that seals. */
export const KERNEL: readonly (keyof Rules)[] = ['arbiter']

export function boundsOf(need: Need): Bounds {
  return { ...BOUNDS, ...need.bounds }
}
