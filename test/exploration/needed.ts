import type { Rules } from '../../src/protocol/rules.js'
import { BOUNDS, type Bounds } from './bounds.js'

/** Where the absence of a rule does harm, and which. */
export interface Need {
  readonly parties: 2 | 3
  readonly bounds: Partial<Bounds>
  readonly harm: RegExp
}

const WRITERS = /^two writers that are not fenced/
const LOST = /^an acknowledged change is lost/
const REFUSED = /^refused: .* closes the last listener/
const NOBODY = /^nobody accepts/

export const NEEDED: Readonly<Partial<Record<keyof Rules, Need>>> = {
  sealFirst: { parties: 2, bounds: {}, harm: WRITERS },
  deed: { parties: 2, bounds: {}, harm: WRITERS },
  grace: { parties: 2, bounds: {}, harm: REFUSED },
  serveOnAfterEof: { parties: 2, bounds: {}, harm: NOBODY },
  release: { parties: 2, bounds: { processes: 3, atomic: true }, harm: WRITERS },
  gone: { parties: 2, bounds: { processes: 3, atomic: true }, harm: WRITERS },
  thawSeal: { parties: 2, bounds: {}, harm: LOST },
  requestId: { parties: 2, bounds: {}, harm: /^a change is applied twice/ },
  sharedSegment: { parties: 2, bounds: {}, harm: WRITERS },
  sharedWayBack: { parties: 2, bounds: {}, harm: LOST },
  moveLog: { parties: 2, bounds: { connection: true }, harm: /^connection closed/ },
  acceptFirst: { parties: 2, bounds: {}, harm: NOBODY },
  releaseByHealth: { parties: 2, bounds: {}, harm: REFUSED },
  promote: { parties: 2, bounds: {}, harm: REFUSED },
  forceSeal: { parties: 3, bounds: {}, harm: /^a stopped incumbent blocks the upgrade/ },
  shareAll: { parties: 3, bounds: { crash: 2, stop: 0, cut: 0, atomic: true }, harm: LOST },
  spare: { parties: 3, bounds: { crash: 2, stop: 0, cut: 0, atomic: true }, harm: LOST },
  ackBack: { parties: 3, bounds: { atomic: true }, harm: NOBODY },
  retryReturn: { parties: 3, bounds: {}, harm: /^stuck/ },
  orphanAccepts: { parties: 3, bounds: { cut: 0, atomic: true }, harm: /^black hole/ },
  joinerAccepts: { parties: 3, bounds: {}, harm: /^black hole/ },
  noSelfPromotion: { parties: 3, bounds: { atomic: true }, harm: WRITERS },
  sealRest: { parties: 3, bounds: {}, harm: LOST },
  rebuildWaits: { parties: 3, bounds: { segments: 6, atomic: true }, harm: WRITERS },
}

/** Rules that choose between outcomes that are both sound. */
export const POLICY: Readonly<Partial<Record<keyof Rules, string>>> = {
  needOther:
    'the right given to a member without a channel comes back by the deadline of the way back: it costs a detour',
}

export function boundsOf(need: Need): Bounds {
  return { ...BOUNDS, ...need.bounds }
}
